package registry_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/registry"
	"github.com/tenantry/tenantry/services/registry/migrations"
)

func TestTheSameRequestReservesTheSameCompanyAndAnotherIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.request()
	q.Plugins = []string{"paystack-payment-provider", "calin-meter"}
	q.UsageType = "mini-grid+solar-home-system"
	first, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, q.GetCompanyId(), first.GetReservation().GetTenant().GetCompanyId())
	require.Equal(t, "company-1", first.GetReservation().GetTenant().GetSlug())
	require.Equal(t, "ada1@example.com", first.GetReservation().GetOwnerEmail())

	repeat := proto.CloneOf(q)
	repeat.CompanyId, repeat.DatabaseId = newID(t), newID(t)
	repeat.Plugins = []string{"calin-meter", "paystack-payment-provider"}
	again, err := s.tenants().ReserveTenant(t.Context(), repeat)
	require.NoError(t, err)
	require.True(t, proto.Equal(first, again))

	for name, change := range map[string]func(*registryv1.ReserveTenantRequest){
		"name":     func(q *registryv1.ReserveTenantRequest) { q.Company.Name = "Another" },
		"password": func(q *registryv1.ReserveTenantRequest) { q.Owner.Password = "wrong horse" },
		"nopass":   func(q *registryv1.ReserveTenantRequest) { q.Owner.Password = "" },
		"plugins":  func(q *registryv1.ReserveTenantRequest) { q.Plugins = nil },
	} {
		other := proto.CloneOf(q)
		change(other)
		_, err := s.tenants().ReserveTenant(t.Context(), other)
		require.Error(t, err, name)
		requireFault(t, err, codes.AlreadyExists, fault.RequestIDReused)
	}
	require.Empty(t, s.query("SELECT 'x' FROM reservations WHERE request::text LIKE '%horse%'"), "no password in the clear")
}

func TestManyOfTheSameRequestAtOnceAreOneCompany(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.request()
	client := s.tenants()
	var group sync.WaitGroup
	ids, errs := make([]string, 8), make([]error, 8)
	for i := range ids {
		group.Go(func() {
			mine := proto.CloneOf(q)
			mine.CompanyId, mine.DatabaseId = newID(t), newID(t)
			out, err := client.ReserveTenant(t.Context(), mine)
			ids[i], errs[i] = out.GetReservation().GetTenant().GetCompanyId(), err
		})
	}
	group.Wait()
	for i := range ids {
		require.NoError(t, errs[i])
		require.Equal(t, ids[0], ids[i])
	}
	require.Equal(t, []string{"1"}, s.query("SELECT count(*)::text FROM companies"))
	require.Equal(t, []string{"1"}, s.query("SELECT tenants::text FROM clusters"))
}

func TestATakenSlugOrEmailAndUnknownChoicesReserveNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.request()
	q.Company.Slug = "sun"
	_, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	for reason, c := range map[string]struct {
		code   codes.Code
		change func(*registryv1.ReserveTenantRequest)
	}{
		fault.SlugTaken:                {codes.AlreadyExists, func(q *registryv1.ReserveTenantRequest) { q.Company.Slug = "sun" }},
		fault.EmailTaken:               {codes.AlreadyExists, func(q *registryv1.ReserveTenantRequest) { q.Owner.Email = "ADA1@example.com" }},
		fault.UsageTypeNotFound:        {codes.NotFound, func(q *registryv1.ReserveTenantRequest) { q.UsageType = "nuclear" }},
		fault.PluginNotFound:           {codes.NotFound, func(q *registryv1.ReserveTenantRequest) { q.Plugins = []string{"nothing"} }},
		fault.PluginRequirementMissing: {codes.FailedPrecondition, func(q *registryv1.ReserveTenantRequest) { q.Plugins = []string{"steama-sms"} }},
		fault.PluginUnsuitable: {codes.FailedPrecondition, func(q *registryv1.ReserveTenantRequest) {
			q.Plugins, q.UsageType = []string{"calin-meter"}, "e-bike-rental"
		}},
		fault.ClusterNotFound: {codes.NotFound, func(q *registryv1.ReserveTenantRequest) { q.Cluster = "nowhere" }},
		fault.FieldInvalid:    {codes.InvalidArgument, func(q *registryv1.ReserveTenantRequest) { q.Company.Slug = "01890a5d-ac96-774b-bcce-b302099a8057" }},
	} {
		other := s.request()
		c.change(other)
		_, err := s.tenants().ReserveTenant(t.Context(), other)
		requireFault(t, err, c.code, reason)
	}
	require.Equal(t, []string{"1"}, s.query("SELECT count(*)::text FROM companies"))
	require.Equal(t, []string{"1"}, s.query("SELECT tenants::text FROM clusters"))

	second := s.request()
	second.Company.Name = "Sun"
	out, err := s.tenants().ReserveTenant(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, "sun-2", out.GetReservation().GetTenant().GetSlug(), "a slug that is made of the name is one that is free")
}

func TestAClusterThatIsFullOrDrainedTakesNobody(t *testing.T) {
	t.Parallel()
	s := start(t)
	clusters := registryv1.NewClusterServiceClient(s.as("operator/ops"))
	register := func(name string, most int32) {
		_, err := clusters.RegisterCluster(t.Context(), &registryv1.RegisterClusterRequest{Name: name, Host: "h", Port: 1, MaxTenants: most})
		require.NoError(t, err)
	}
	register("local", 1)
	register("roomy", 10)
	where := func() (string, error) {
		out, err := s.tenants().ReserveTenant(t.Context(), s.request())
		return out.GetReservation().GetTenant().GetCluster(), err
	}
	got, err := where()
	require.NoError(t, err)
	require.Equal(t, "roomy", got)
	_, err = clusters.DrainCluster(t.Context(), &registryv1.DrainClusterRequest{Name: "roomy"})
	require.NoError(t, err)
	got, err = where()
	require.NoError(t, err)
	require.Equal(t, "local", got)
	_, err = where()
	requireFault(t, err, codes.ResourceExhausted, fault.NoClusterAvailable)
	_, err = clusters.RemoveCluster(t.Context(), &registryv1.RemoveClusterRequest{Name: "roomy"})
	requireFault(t, err, codes.FailedPrecondition, fault.ClusterNotEmpty)
	_, err = clusters.RemoveCluster(t.Context(), &registryv1.RemoveClusterRequest{Name: "nowhere"})
	requireFault(t, err, codes.NotFound, fault.ClusterNotFound)
}

func TestAClusterThatIsUndrainedTakesTenantsAgain(t *testing.T) {
	t.Parallel()
	s := start(t)
	clusters := registryv1.NewClusterServiceClient(s.as("operator/zoe"))
	place := func() (string, error) {
		r := s.request()
		r.Cluster = "spare"
		out, err := s.tenants().ReserveTenant(t.Context(), r)
		return out.GetReservation().GetTenant().GetCluster(), err
	}
	_, err := clusters.RegisterCluster(t.Context(), &registryv1.RegisterClusterRequest{Name: "spare", Host: "h", Port: 1})
	require.NoError(t, err)
	_, err = clusters.DrainCluster(t.Context(), &registryv1.DrainClusterRequest{Name: "spare"})
	require.NoError(t, err)
	_, err = place()
	requireFault(t, err, codes.ResourceExhausted, fault.NoClusterAvailable)
	for range 2 {
		out, err := clusters.UndrainCluster(t.Context(), &registryv1.UndrainClusterRequest{Name: "spare"})
		require.NoError(t, err, "it may be repeated")
		require.Equal(t, "spare", out.GetCluster().GetName())
		require.False(t, out.GetCluster().GetDraining())
	}
	got, err := place()
	require.NoError(t, err)
	require.Equal(t, "spare", got)

	events, err := registryv1.NewAuditServiceClient(s.as("operator/ops")).ListEvents(t.Context(), &registryv1.ListEventsRequest{Action: "cluster.undrained"})
	require.NoError(t, err)
	require.NotEmpty(t, events.GetEvents())
	require.Equal(t, "operator/zoe", events.GetEvents()[0].GetActor())
	require.Equal(t, "spare", events.GetEvents()[0].GetSubject())
	_, err = clusters.UndrainCluster(t.Context(), &registryv1.UndrainClusterRequest{Name: "nowhere"})
	requireFault(t, err, codes.NotFound, fault.ClusterNotFound)
	_, err = registryv1.NewClusterServiceClient(s.as("service/provisioner")).UndrainCluster(t.Context(), &registryv1.UndrainClusterRequest{Name: "spare"})
	requireFault(t, err, codes.PermissionDenied, fault.MethodNotAllowed)
}

func TestEachChangeOfStateIsAllowedFromOneStateOnlyAndAudited(t *testing.T) {
	t.Parallel()
	s := start(t)
	companies := registryv1.NewCompanyServiceClient(s.as("operator/ops"))
	out, err := s.tenants().ReserveTenant(t.Context(), s.request())
	require.NoError(t, err)
	id := out.GetReservation().GetTenant().GetCompanyId()
	suspend := func() error {
		_, err := companies.SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: id, Reason: "unpaid"})
		return err
	}
	resume := func() error {
		_, err := companies.ResumeCompany(t.Context(), &registryv1.ResumeCompanyRequest{Company: id})
		return err
	}
	activate := func() error {
		_, err := s.tenants().ActivateTenant(t.Context(), &registryv1.ActivateTenantRequest{CompanyId: id, SchemaVersion: "7"})
		return err
	}
	fail := func() error {
		_, err := s.tenants().FailTenant(t.Context(), &registryv1.FailTenantRequest{CompanyId: id, Reason: "no room"})
		return err
	}
	requireFault(t, suspend(), codes.FailedPrecondition, fault.CompanyStateInvalid)
	require.NoError(t, activate())
	require.NoError(t, activate())
	requireFault(t, fail(), codes.FailedPrecondition, fault.CompanyStateInvalid)
	require.NoError(t, suspend())
	require.NoError(t, suspend())
	requireFault(t, activate(), codes.FailedPrecondition, fault.CompanyStateInvalid)
	require.NoError(t, resume())
	require.NoError(t, resume())
	got, err := companies.GetCompany(t.Context(), &registryv1.GetCompanyRequest{Company: "company-1"})
	require.NoError(t, err)
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_ACTIVE, got.GetCompany().GetState())
	require.Equal(t, "7", got.GetCompany().GetSchemaVersion())

	events, err := registryv1.NewAuditServiceClient(s.as("operator/ops")).ListEvents(t.Context(), &registryv1.ListEventsRequest{Company: id, PageSize: 2})
	require.NoError(t, err)
	require.Equal(t, "company.resumed", events.GetEvents()[0].GetAction())
	require.Equal(t, "company.suspended", events.GetEvents()[1].GetAction())
	require.Equal(t, "operator/ops", events.GetEvents()[1].GetActor())
	require.Equal(t, "unpaid", events.GetEvents()[1].GetDetails()["reason"])
	events, err = registryv1.NewAuditServiceClient(s.as("operator/ops")).ListEvents(t.Context(), &registryv1.ListEventsRequest{Company: id, PageSize: 5, PageToken: events.GetNextPageToken()})
	require.NoError(t, err)
	require.Len(t, events.GetEvents(), 2)
	require.Equal(t, "service/provisioner", events.GetEvents()[0].GetActor())
	require.Empty(t, events.GetNextPageToken())
}

func TestAFailedSignupFreesItsNamesAndTheSameRequestTriesAgain(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.request()
	q.Company.Slug = "sun"
	out, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	id := out.GetReservation().GetTenant().GetCompanyId()
	for range 2 {
		_, err = s.tenants().FailTenant(t.Context(), &registryv1.FailTenantRequest{CompanyId: id, Reason: "no room"})
		require.NoError(t, err)
	}
	require.Equal(t, []string{"0"}, s.query("SELECT tenants::text FROM clusters"))
	again, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, id, again.GetReservation().GetTenant().GetCompanyId())
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_PROVISIONING, again.GetReservation().GetTenant().GetState())
	require.Equal(t, []string{"1"}, s.query("SELECT count(*)::text FROM users"))

	_, err = s.tenants().FailTenant(t.Context(), &registryv1.FailTenantRequest{CompanyId: id, Reason: "no room"})
	require.NoError(t, err)
	other := s.request()
	other.Company.Slug, other.Owner.Email = "sun", q.GetOwner().GetEmail()
	_, err = s.tenants().ReserveTenant(t.Context(), other)
	require.NoError(t, err, "slug and e-mail are free")
	_, err = s.tenants().ReserveTenant(t.Context(), q)
	require.Error(t, err, "and taken now")
}

func TestUpdateCompanyChangesWhatTheMaskNames(t *testing.T) {
	t.Parallel()
	s := start(t)
	a, b := s.company(), s.company()
	companies := registryv1.NewCompanyServiceClient(s.as("operator/ops"))
	update := func(fields *registryv1.CompanyFields, paths ...string) (*registryv1.UpdateCompanyResponse, error) {
		return companies.UpdateCompany(t.Context(), &registryv1.UpdateCompanyRequest{Company: a.GetTenant().GetSlug(), Fields: fields, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	}
	out, err := update(&registryv1.CompanyFields{Name: "Nuevo", Phone: "1"}, "phone")
	require.NoError(t, err)
	require.Equal(t, "Company 1", out.GetCompany().GetName())
	require.Equal(t, "1", out.GetCompany().GetPhone())
	_, err = update(&registryv1.CompanyFields{}, "state")
	requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)
	_, err = update(&registryv1.CompanyFields{})
	requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)
	_, err = update(&registryv1.CompanyFields{Slug: b.GetTenant().GetSlug()}, "slug")
	requireFault(t, err, codes.AlreadyExists, fault.SlugTaken)
	out, err = update(&registryv1.CompanyFields{Slug: "nuevo"}, "slug")
	require.NoError(t, err)
	require.Equal(t, "nuevo", out.GetCompany().GetSlug())
	_, err = companies.GetCompany(t.Context(), &registryv1.GetCompanyRequest{Company: "company-1"})
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
}

func TestCompaniesComePageByPage(t *testing.T) {
	t.Parallel()
	s := start(t)
	for range 5 {
		s.company()
	}
	companies := registryv1.NewCompanyServiceClient(s.as("operator/ops"))
	var slugs []string
	for token := ""; ; {
		out, err := companies.ListCompanies(t.Context(), &registryv1.ListCompaniesRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, c := range out.GetCompanies() {
			slugs = append(slugs, c.GetSlug())
		}
		if token = out.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Equal(t, []string{"company-1", "company-2", "company-3", "company-4", "company-5"}, slugs)
	out, err := companies.ListCompanies(t.Context(), &registryv1.ListCompaniesRequest{Contains: "ANY 3"})
	require.NoError(t, err)
	require.Len(t, out.GetCompanies(), 1)
	_, err = companies.ListCompanies(t.Context(), &registryv1.ListCompaniesRequest{PageToken: "bm9uc2Vuc2U"})
	requireFault(t, err, codes.InvalidArgument, fault.PageTokenInvalid)
}

func TestCallersReachWhatIsTheirs(t *testing.T) {
	t.Parallel()
	s := start(t)
	a, b := s.company(), s.company()
	access := s.login(a.GetOwnerEmail()).GetAccessToken()
	anyone := s.as("")
	companies := registryv1.NewCompanyServiceClient(anyone)

	own, err := companies.GetCompany(s.with(access), &registryv1.GetCompanyRequest{Company: a.GetTenant().GetCompanyId()})
	require.NoError(t, err)
	require.Equal(t, a.GetTenant().GetSlug(), own.GetCompany().GetSlug())
	for _, other := range []string{b.GetTenant().GetSlug(), b.GetTenant().GetCompanyId(), "nobody"} {
		_, err = companies.GetCompany(s.with(access), &registryv1.GetCompanyRequest{Company: other})
		requireFault(t, err, codes.PermissionDenied, fault.TenantMismatch)
	}
	_, err = companies.GetCompany(t.Context(), &registryv1.GetCompanyRequest{Company: "company-1"})
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsMissing)
	_, err = companies.ListCompanies(s.with(access), &registryv1.ListCompaniesRequest{})
	requireFault(t, err, codes.PermissionDenied, fault.MethodNotAllowed)
	_, err = registryv1.NewTenantServiceClient(s.as("operator/ops")).ReserveTenant(t.Context(), s.request())
	requireFault(t, err, codes.PermissionDenied, fault.MethodNotAllowed)
	_, err = registryv1.NewRouteServiceClient(s.as("service/provisioner")).ResolveCredential(t.Context(), &registryv1.ResolveCredentialRequest{ApiKeyHash: make([]byte, 32)})
	requireFault(t, err, codes.PermissionDenied, fault.MethodNotAllowed)
}

func TestTheCatalogueIsWhatSuits(t *testing.T) {
	t.Parallel()
	s := start(t)
	plugins := registryv1.NewPluginServiceClient(s.as("signup/web"))
	all, err := plugins.ListPlugins(t.Context(), &registryv1.ListPluginsRequest{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all.GetPlugins()), 30)
	bikes, err := plugins.ListPlugins(t.Context(), &registryv1.ListPluginsRequest{UsageType: "e-bike-rental"})
	require.NoError(t, err)
	for _, p := range bikes.GetPlugins() {
		require.NotEqual(t, "calin-meter", p.GetName())
	}
	require.Less(t, len(bikes.GetPlugins()), len(all.GetPlugins()))
	types, err := plugins.ListUsageTypes(t.Context(), &registryv1.ListUsageTypesRequest{})
	require.NoError(t, err)
	require.Len(t, types.GetUsageTypes(), 7)
	_, err = plugins.ListPlugins(t.Context(), &registryv1.ListPluginsRequest{UsageType: "x"})
	requireFault(t, err, codes.NotFound, fault.UsageTypeNotFound)
}

func TestAnOldDatabaseIsRefusedUntilItIsMigrated(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stop()
	s.query("DELETE FROM atlas_schema_revisions.atlas_schema_revisions WHERE version = (SELECT max(version) FROM atlas_schema_revisions.atlas_schema_revisions) RETURNING version::text")
	_, err := registry.New(t.Context(), registry.Config{TLS: s.files("service/registry"), DSN: s.dsn, SigningKeys: []string{s.key}})
	requireFault(t, err, codes.FailedPrecondition, fault.SchemaOutdated)
	_, err = migrate.Load(migrations.FS(), "central")
	require.NoError(t, err, "the set agrees with its sum")
}

func TestASuspensionAnswersWithWhatItMadeAndNotWithWhatCameAfter(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.company().GetTenant().GetCompanyId()
	// What others do behind a change, here for certain: it is done when the change is committed.
	s.query("CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE companies SET name = 'Another', state_reason = 'another' WHERE id = NEW.id; RETURN NULL; END $$")
	s.query(`CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON companies DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION later()`)
	client := registryv1.NewCompanyServiceClient(s.as("operator/zoe"))
	closed, err := client.SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: id, Reason: "unpaid"})
	require.NoError(t, err)
	require.Equal(t, []string{"Another another"}, s.query("SELECT name || ' ' || state_reason FROM companies WHERE state = 'SUSPENDED'"))
	require.Equal(t, suspended, closed.GetCompany().GetState())
	require.Equal(t, "Company 1 unpaid", closed.GetCompany().GetName()+" "+closed.GetCompany().GetStateReason())

	s.query("UPDATE companies SET name = 'Company 1'")
	opened, err := client.ResumeCompany(t.Context(), &registryv1.ResumeCompanyRequest{Company: id})
	require.NoError(t, err)
	require.Equal(t, active, opened.GetCompany().GetState())
	require.Equal(t, "Company 1", opened.GetCompany().GetName())
}
