package registry_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// pauses are calls that hold one company still.
type pauses struct {
	*system
	client       registryv1.TenantServiceClient
	id, database string
}

func (s *system) pausesOf(c *registryv1.Reservation) pauses {
	return pauses{s, s.tenants(), c.GetTenant().GetCompanyId(), c.GetTenant().GetDatabaseId()}
}

func (p pauses) begin(holder string, duration time.Duration) (*registryv1.Tenant, error) {
	out, err := p.client.BeginMaintenance(p.t.Context(), &registryv1.BeginMaintenanceRequest{CompanyId: p.id, Holder: holder, Duration: durationpb.New(duration)})
	return out.GetTenant(), err
}

func (p pauses) end(holder, database, version string) (*registryv1.Tenant, error) {
	out, err := p.client.EndMaintenance(p.t.Context(), &registryv1.EndMaintenanceRequest{CompanyId: p.id, Holder: holder, DatabaseId: database, SchemaVersion: version})
	return out.GetTenant(), err
}

func (p pauses) requireState(want registryv1.CompanyState) {
	p.t.Helper()
	got, err := p.client.GetTenant(p.t.Context(), &registryv1.GetTenantRequest{Company: p.id})
	require.NoError(p.t, err)
	require.Equal(p.t, want, got.GetTenant().GetState())
}

func TestMaintenanceIsItsHoldersAndEndsWithTheNewVersionInOneChangeOfTheRoute(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.pausesOf(s.company())
	stream := s.watch(t.Context(), 0)
	_, sequence := snapshot(t, stream)

	for range 2 {
		got, err := p.begin("rollout/1", time.Minute)
		require.NoError(t, err)
		require.Equal(t, maintenance, got.GetState())
	}
	require.Equal(t, 1, s.audits(p.id, "company.maintenance_begun"))
	m := next(t, stream)
	require.Equal(t, sequence+1, m.GetSequence())
	require.Equal(t, maintenance, m.GetRoute().GetState())

	_, err := p.begin("rollout/2", time.Minute)
	f := requireFault(t, err, codes.FailedPrecondition, fault.MaintenanceHeld)
	require.Equal(t, "rollout/1", f.Metadata["holder"])
	require.Positive(t, f.RetryAfter)
	_, err = p.end("rollout/2", p.database, "7")
	requireFault(t, err, codes.FailedPrecondition, fault.MaintenanceHeld)
	_, err = p.end("rollout/1", newID(t), "7")
	requireFault(t, err, codes.FailedPrecondition, fault.DatabaseChanged)
	p.requireState(maintenance)

	for range 2 {
		got, err := p.end("rollout/1", p.database, "7")
		require.NoError(t, err)
		require.Equal(t, active, got.GetState())
		require.Equal(t, "7", got.GetSchemaVersion())
	}
	m = next(t, stream)
	require.Equal(t, sequence+2, m.GetSequence(), "nothing that was refused or repeated is told")
	require.Equal(t, active, m.GetRoute().GetState())
	require.Equal(t, "7", m.GetRoute().GetSchemaVersion())
	require.Equal(t, "service/provisioner company.maintenance_ended", s.lastAudit(p.id))

	_, err = p.end("rollout/1", p.database, "8")
	require.NoError(t, err)
	m = next(t, stream)
	require.Equal(t, sequence+3, m.GetSequence())
	require.Equal(t, "8", m.GetRoute().GetSchemaVersion(), "the version is told also when the time was over")
}

func TestMaintenanceThatNobodyEndsIsEndedByTheRegistry(t *testing.T) {
	t.Parallel()
	s := start(t)
	p, kept := s.pausesOf(s.company()), s.pausesOf(s.company())
	_, err := kept.begin("rollout/1", 10*time.Millisecond)
	require.NoError(t, err)
	_, err = kept.begin("rollout/1", 10*time.Minute)
	require.NoError(t, err)
	_, err = p.begin("rollout/1", 10*time.Millisecond)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.lastAudit(p.id) == "service/registry company.maintenance_expired" }, 20*time.Second, 20*time.Millisecond)
	p.requireState(active)
	_, err = p.begin("rollout/2", time.Minute)
	require.NoError(t, err, "it is anybody's again")
	kept.requireState(maintenance)
}

func TestACompanyThatIsClosedInMaintenanceStaysClosed(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.pausesOf(s.company())
	_, err := p.begin("rollout/1", time.Millisecond)
	require.NoError(t, err)
	_, err = registryv1.NewCompanyServiceClient(s.as("operator/ops")).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: p.id, Reason: "x"})
	require.NoError(t, err)
	got, err := p.end("rollout/1", p.database, "5")
	require.NoError(t, err)
	require.Equal(t, suspended, got.GetState())
	require.Equal(t, "5", got.GetSchemaVersion())
	_, err = p.begin("rollout/1", time.Minute)
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyStateInvalid)

	d := s.company()
	gone := s.pausesOf(d)
	_, err = gone.begin("rollout/1", time.Millisecond)
	require.NoError(t, err)
	_, err = s.deletionsOf(d).begin(time.Hour)
	require.NoError(t, err)
	// Longer than the registry takes to look: another company's time is over, and it is opened.
	other := s.pausesOf(s.company())
	_, err = other.begin("rollout/1", time.Millisecond)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.audits(other.id, "company.maintenance_expired") == 1 }, 20*time.Second, 20*time.Millisecond)
	gone.requireState(deleting)
	p.requireState(suspended)
}

func TestPeopleAndKeysOfACompanyInMaintenanceHaveAWayIn(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.request()
	made, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	_, err = s.tenants().ActivateTenant(t.Context(), &registryv1.ActivateTenantRequest{CompanyId: q.GetCompanyId(), SchemaVersion: "1"})
	require.NoError(t, err)
	before := s.login(q.GetOwner().GetEmail())
	keys := registryv1.NewApiKeyServiceClient(s.as(""))
	key, err := keys.CreateApiKey(s.with(before.GetAccessToken()), &registryv1.CreateApiKeyRequest{Name: "meters"})
	require.NoError(t, err)
	_, err = s.pausesOf(made.GetReservation()).begin("rollout/1", time.Minute)
	require.NoError(t, err)

	s.login(q.GetOwner().GetEmail())
	after, err := s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: before.GetRefreshToken()})
	require.NoError(t, err)
	_, err = keys.ListApiKeys(s.with(after.GetAccessToken()), &registryv1.ListApiKeysRequest{})
	require.NoError(t, err)
	hash := credential.HashOf(key.GetKey())
	_, err = registryv1.NewRouteServiceClient(s.as("service/gateway")).ResolveCredential(t.Context(), &registryv1.ResolveCredentialRequest{ApiKeyHash: hash[:]})
	require.NoError(t, err)
}

func TestAVersionOfADatabaseThatWasReplacedIsNotRecorded(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.pausesOf(s.company())
	q := &registryv1.SwitchDatabaseRequest{CompanyId: p.id, FromDatabaseId: p.database, ToDatabaseId: newID(t), Cluster: "local", SchemaVersion: "3", Action: "restored"}
	restore := func() error { _, err := p.client.SwitchDatabase(t.Context(), q); return err }
	record := func(database string) func() error {
		return func() error {
			_, err := p.client.RecordSchemaVersion(t.Context(), &registryv1.RecordSchemaVersionRequest{CompanyId: p.id, DatabaseId: database, SchemaVersion: "9"})
			return err
		}
	}
	finish := func() error { _, err := p.end("rollout/1", p.database, "9"); return err }
	errs := s.atOnce(p.id, restore, record(p.database), finish)
	require.NoError(t, errs[0])
	requireFault(t, errs[1], codes.FailedPrecondition, fault.DatabaseChanged)
	requireFault(t, errs[2], codes.FailedPrecondition, fault.DatabaseChanged)
	require.Equal(t, []string{"3"}, s.query("SELECT schema_version FROM tenant_databases"))
	require.NoError(t, record(q.GetToDatabaseId())())
	require.Equal(t, []string{"9"}, s.query("SELECT schema_version FROM tenant_databases"))
}

func TestWhatMaintenanceIsAskedForIsChecked(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.pausesOf(s.company())
	for name, call := range map[string]func() error{
		"no holder":             func() error { _, err := p.begin("", time.Minute); return err },
		"no time":               func() error { _, err := p.begin("a", 0); return err },
		"too long":              func() error { _, err := p.begin("a", 11*time.Minute); return err },
		"version of nothing":    func() error { _, err := p.end("a", "", "1"); return err },
		"database of a version": func() error { _, err := p.end("a", p.database, ""); return err },
		"no database": func() error {
			_, err := p.client.RecordSchemaVersion(t.Context(), &registryv1.RecordSchemaVersionRequest{CompanyId: p.id, SchemaVersion: "1"})
			return err
		},
	} {
		err := call()
		require.Error(t, err, name)
		require.Equal(t, fault.FieldInvalid, fault.From(err).Reason, name)
	}
	nobody := p
	nobody.id = uuid.NewString()
	_, err := nobody.begin("a", time.Minute)
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
	_, err = nobody.end("a", "", "")
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
}
