package provisioner_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// all receives a stream to its end.
func all[M any](t *testing.T, stream grpc.ServerStreamingClient[M], err error) (out []*M) {
	t.Helper()
	require.NoError(t, err)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		out = append(out, m)
	}
}

func TestSparesAreGivenAwayAndMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 3)
	ready := func(n int) {
		require.Eventually(t, func() bool {
			return len(w.own("SELECT id::text FROM spares WHERE ready")) == 2*n && len(w.own("SELECT id::text FROM spares")) == 2*n
		}, time.Minute, 50*time.Millisecond)
	}
	ready(3)
	spares := w.own("SELECT 'tenant_' || replace(id::text, '-', '') FROM spares")
	w.signUp(2)
	for _, slug := range []string{"c1", "c2"} {
		require.Contains(t, spares, w.company(slug).GetDatabase())
		require.Equal(t, "00000002", w.company(slug).GetSchemaVersion())
	}
	require.Equal(t, []string{"Company 2"}, w.database("c2", "SELECT name FROM company"))
	ready(3)
	require.Len(t, w.servers("SELECT datname FROM pg_database WHERE datname LIKE 'tenant_%'"), 8)
	require.Empty(t, w.own("SELECT request_id FROM attempts"))

	w.write("core/00000003_c.up.sql", "ALTER TABLE things ADD color text;")
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	require.NoError(t, err)
	last, _ := w.finish(started.GetRollout().GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	got, err := w.tenants().CreateTenant(t.Context(), signup(3))
	require.NoError(t, err)
	require.Equal(t, "00000003", got.GetSchemaVersion(), "also from a spare of an older release")
	require.Eventually(t, func() bool {
		return len(w.own("SELECT s.id::text FROM spares s JOIN releases r ON r.hash = s.release WHERE s.ready AND r.is_current")) == 6
	}, time.Minute, 50*time.Millisecond, "spares are brought to the new release")
}

func TestASpareWhoseConnectionDiedIsTakenAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 1)
	require.Eventually(t, func() bool { return len(w.own("SELECT id::text FROM spares WHERE ready")) == 2 }, time.Minute, 50*time.Millisecond)
	spares := w.own("SELECT 'tenant_' || replace(id::text, '-', '') FROM spares")
	require.Equal(t, []string{"true", "true"}, w.servers("SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE datname LIKE 'tenant\\_%'"),
		"a connection to each is kept")
	w.signUp(2)
	for _, slug := range []string{"c1", "c2"} {
		require.Contains(t, spares, w.company(slug).GetDatabase())
		require.Equal(t, []string{"1"}, w.database(slug, "SELECT count(*)::text FROM company"))
	}
}

func TestMoreSignupsThanSparesGetDatabasesToo(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 1)
	failures := make(chan error, 12)
	for i := range cap(failures) {
		go func() {
			_, err := w.tenants().CreateTenant(t.Context(), signup(i+1))
			failures <- err
		}()
	}
	for range cap(failures) {
		require.NoError(t, <-failures)
	}
	seen := map[string]bool{}
	for i := range cap(failures) {
		slug := signup(i + 1).GetCompany().GetSlug()
		require.False(t, seen[w.company(slug).GetDatabase()])
		seen[w.company(slug).GetDatabase()] = true
		require.Equal(t, []string{signup(i + 1).GetCompany().GetName()}, w.database(slug, "SELECT name FROM company"))
	}
}

func TestASpareWhoseMakerDiedIsDroppedAndMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 1)
	require.Eventually(t, func() bool { return len(w.own("SELECT id::text FROM spares WHERE ready")) == 2 }, time.Minute, 50*time.Millisecond)
	w.stop()
	old := w.own("UPDATE spares SET ready = false, made_by = 'dead', lease_until = now() WHERE cluster = 'one' RETURNING 'tenant_' || replace(id::text, '-', '')")
	w.startProvisioner()
	require.Eventually(t, func() bool {
		return len(w.own("SELECT id::text FROM spares WHERE ready")) == 2 && len(w.servers("SELECT datname FROM pg_database WHERE datname = '"+old[0]+"'")) == 0 &&
			len(w.servers("SELECT rolname::text FROM pg_roles WHERE rolname = '"+old[0]+"'")) == 0
	}, time.Minute, 50*time.Millisecond)
}

func TestADeletedTenantCanComeBackUntilItsTimeAndIsGoneAfterIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(2)
	companies := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops"))
	_, err := companies.SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: "c1", Reason: "unpaid"})
	require.NoError(t, err)
	name := w.company("c1").GetDatabase()

	_, err = w.tenants().DeleteTenant(t.Context(), &provisionerv1.DeleteTenantRequest{Company: "c1", ConfirmSlug: "c2"})
	requireFault(t, err, codes.FailedPrecondition, fault.ConfirmationMismatch)
	out, err := w.tenants().DeleteTenant(t.Context(), &provisionerv1.DeleteTenantRequest{Company: "c1", ConfirmSlug: "c1"})
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(30*24*time.Hour), out.GetPurgeTime().AsTime(), time.Minute)
	again, err := w.tenants().DeleteTenant(t.Context(), &provisionerv1.DeleteTenantRequest{Company: "c1", ConfirmSlug: "c1", Retention: durationpb.New(0)})
	require.NoError(t, err)
	require.Equal(t, out.GetPurgeTime().AsTime(), again.GetPurgeTime().AsTime(), "the first call's time stays")
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_DELETING, w.company("c1").GetState())
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1"})
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyStateInvalid)

	for range 2 {
		back, err := w.tenants().UndeleteTenant(t.Context(), &provisionerv1.UndeleteTenantRequest{Company: "c1"})
		require.NoError(t, err)
		require.Equal(t, registryv1.CompanyState_COMPANY_STATE_SUSPENDED, back.GetState(), "as it was")
	}
	require.Empty(t, w.own("SELECT reason FROM condemned"))

	_, err = w.tenants().DeleteTenant(t.Context(), &provisionerv1.DeleteTenantRequest{Company: "c1", ConfirmSlug: "c1", Retention: durationpb.New(0)})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return len(w.servers("SELECT datname FROM pg_database WHERE datname = '"+name+"' UNION ALL SELECT rolname FROM pg_roles WHERE rolname = '"+name+"'")) == 0
	}, time.Minute, 50*time.Millisecond)
	_, err = w.tenants().UndeleteTenant(t.Context(), &provisionerv1.UndeleteTenantRequest{Company: "c1"})
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
	w.signUp(1) // The slug and the e-mail are free.
	require.NotEqual(t, name, w.company("c1").GetDatabase())
	require.Equal(t, []string{"Company 2"}, w.database("c2", "SELECT name FROM company"))
}

func TestPluginsComeWithTheirTablesAndKeepTheirDataUnlessPurged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(2)
	w.write("plugins/calin-meter/00000002_p.up.sql", "CREATE FUNCTION calin_count() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM calin';\n"+
		"CREATE TYPE calin_kind AS ENUM ('a'); ALTER TABLE things ADD COLUMN calin_id int; CREATE INDEX calin_things_idx ON things (name); CREATE VIEW calin_view AS SELECT * FROM calin;\n"+
		"CREATE SCHEMA calin_more; CREATE TABLE calin_more.parts (id int, kind calin_kind);")
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	require.NoError(t, err)
	w.finish(started.GetRollout().GetRolloutId())
	before := w.database("c1", "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")

	_, err = w.tenants().InstallPlugin(t.Context(), &provisionerv1.InstallPluginRequest{Company: "c1", Plugin: "no-such-plugin"})
	requireFault(t, err, codes.NotFound, fault.PluginNotFound)
	_, err = w.tenants().InstallPlugin(t.Context(), &provisionerv1.InstallPluginRequest{Company: "c1", Plugin: "steama-sms"})
	requireFault(t, err, codes.FailedPrecondition, fault.PluginRequirementMissing)
	for i := range 2 {
		out, err := w.tenants().InstallPlugin(t.Context(), &provisionerv1.InstallPluginRequest{Company: "c1", Plugin: "calin-meter"})
		require.NoError(t, err)
		require.Len(t, out.GetApplied(), 2*(1-i))
	}
	require.Equal(t, []string{"calin-meter"}, w.company("c1").GetPlugins())
	w.database("c1", "INSERT INTO calin VALUES (7)")

	uninstall := func(purge bool) {
		_, err := w.tenants().UninstallPlugin(t.Context(), &provisionerv1.UninstallPluginRequest{Company: "c1", Plugin: "calin-meter", Purge: purge})
		require.NoError(t, err)
		require.Empty(t, w.company("c1").GetPlugins())
	}
	uninstall(false)
	require.Equal(t, []string{"7"}, w.database("c1", "SELECT id::text FROM calin"))
	out, err := w.tenants().InstallPlugin(t.Context(), &provisionerv1.InstallPluginRequest{Company: "c1", Plugin: "calin-meter"})
	require.NoError(t, err)
	require.Empty(t, out.GetApplied(), "it finds its data again")
	uninstall(true)
	uninstall(true)
	require.Equal(t, before, w.database("c1", "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"))
	require.Empty(t, w.database("c1", "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE '%calin%' UNION ALL SELECT proname::text FROM pg_proc WHERE proname LIKE 'calin%' "+
		"UNION ALL SELECT attname::text FROM pg_attribute WHERE attname = 'calin_id'"))

	_, err = w.tenants().InstallPlugin(t.Context(), &provisionerv1.InstallPluginRequest{Company: "c1", Plugin: "calin-meter"})
	require.NoError(t, err)
	w.database("c1", "CREATE VIEW mine AS SELECT * FROM calin")
	_, err = w.tenants().UninstallPlugin(t.Context(), &provisionerv1.UninstallPluginRequest{Company: "c1", Plugin: "calin-meter", Purge: true})
	requireFault(t, err, codes.FailedPrecondition, fault.MigrationFailed)
	require.Equal(t, []string{"0"}, w.database("c1", "SELECT count(*)::text FROM calin_more.parts"), "nothing was dropped")

	stream, err := w.fleet().SweepInstallPlugin(t.Context(), &provisionerv1.SweepInstallPluginRequest{Plugin: "calin-meter"})
	results := all(t, stream, err)
	require.Len(t, results, 2)
	for _, r := range results {
		require.Nil(t, r.GetError())
	}
	require.Equal(t, []string{"calin-meter"}, w.company("c2").GetPlugins())
}

func TestPasswordsThatTwoRotateAtOnceAreRotatedTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(3)
	rotate := func(selector *provisionerv1.Selector) (grpc.ServerStreamingClient[provisionerv1.SweepRotatePasswordsResponse], error) {
		return w.fleet().SweepRotatePasswords(t.Context(), &provisionerv1.SweepRotatePasswordsRequest{Selector: selector})
	}
	first, err := rotate(nil)
	require.NoError(t, err)
	second, err := rotate(nil) // The first is under way.
	versions := map[string][]int32{}
	for _, m := range append(all(t, second, err), all(t, first, nil)...) {
		require.Nil(t, m.GetError())
		versions[m.GetSlug()] = append(versions[m.GetSlug()], m.GetPasswordVersion())
	}
	require.Len(t, versions, 3)
	for slug, got := range versions {
		require.ElementsMatch(t, []int32{2, 3}, got, slug)
	}
	one, err := rotate(&provisionerv1.Selector{Companies: []string{"c2"}})
	got := all(t, one, err)
	require.Len(t, got, 1)
	require.Equal(t, "c2", got[0].GetSlug())
	require.EqualValues(t, 4, got[0].GetPasswordVersion())
	none, err := rotate(&provisionerv1.Selector{Companies: []string{"c9"}})
	require.NoError(t, err)
	_, err = none.Recv()
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
}

func TestDriftIsToldWithTheSQLThatMendsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("core/00000003_c.up.sql", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW v AS SELECT name FROM things;\n"+
		"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER tr BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION t();")
	w.signUp(3)
	_, err := w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1"})
	require.NoError(t, err)
	for slug, version := range map[string]string{"c1": "00000003", "c2": "00000002"} {
		got, err := w.tenants().CheckDrift(t.Context(), &provisionerv1.CheckDriftRequest{Company: slug})
		require.NoError(t, err)
		require.Equal(t, version, got.GetSchemaVersion(), "each is compared with its own version")
		require.False(t, got.GetDrifted(), "%v", got.GetMendingSql())
	}
	w.database("c1", "ALTER TABLE things ADD odd int; ")
	w.database("c1", "CREATE TABLE extra (id int)")
	w.database("c1", "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'")
	w.database("c1", "DROP TRIGGER tr ON things")
	w.database("c1", "DROP VIEW v")
	w.database("c1", "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 3'")
	got, err := w.tenants().CheckDrift(t.Context(), &provisionerv1.CheckDriftRequest{Company: "c1"})
	require.NoError(t, err)
	require.True(t, got.GetDrifted())
	require.GreaterOrEqual(t, len(got.GetMendingSql()), 6)

	stream, err := w.fleet().SweepDrift(t.Context(), &provisionerv1.SweepDriftRequest{})
	drifted := map[string]bool{}
	for _, r := range all(t, stream, err) {
		require.Nil(t, r.GetError())
		drifted[r.GetSlug()] = r.GetDrift().GetDrifted()
	}
	require.Equal(t, map[string]bool{"c1": true, "c2": false, "c3": false}, drifted)
	for _, sql := range got.GetMendingSql() {
		w.database("c1", sql)
	}
	got, err = w.tenants().CheckDrift(t.Context(), &provisionerv1.CheckDriftRequest{Company: "c1"})
	require.NoError(t, err)
	require.Empty(t, got.GetMendingSql())
	require.Empty(t, w.servers("SELECT datname FROM pg_database WHERE datname LIKE 'scratch%'"))
}

func TestTheDoctorFindsWhatDoesNotBelongTogetherAndMendsWhatIsSafe(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 1)
	w.signUp(4)
	examine := func(mend bool) map[provisionerv1.AilmentKind]*provisionerv1.ExamineResponse {
		stream, err := w.fleet().Examine(t.Context(), &provisionerv1.ExamineRequest{Mend: mend})
		out := map[provisionerv1.AilmentKind]*provisionerv1.ExamineResponse{}
		for _, f := range all(t, stream, err) {
			out[f.GetKind()] = f
		}
		return out
	}
	require.Empty(t, examine(false))
	admin := func(slug, sql string) { query(t, w.clusters[w.company(slug).GetCluster()].DSN("postgres"), sql) }
	admin("c1", "DROP DATABASE "+w.company("c1").GetDatabase()+" WITH (FORCE)")
	admin("c2", "DROP OWNED BY "+w.company("c2").GetDatabase())
	query(t, w.clusters[w.company("c2").GetCluster()].DSN("postgres"), "REVOKE CONNECT ON DATABASE "+w.company("c2").GetDatabase()+" FROM "+w.company("c2").GetDatabase())
	admin("c2", "DROP ROLE "+w.company("c2").GetDatabase())
	admin("c3", "GRANT CONNECT ON DATABASE "+w.company("c3").GetDatabase()+" TO PUBLIC")
	w.database("c4", "DELETE FROM atlas_schema_revisions.atlas_schema_revisions WHERE version = '00000002'")
	admin("c1", "CREATE DATABASE tenant_0123456789abcdef0123456789abcdef")
	admin("c1", "CREATE ROLE tenant_1123456789abcdef0123456789abcdef LOGIN")

	kinds := map[provisionerv1.AilmentKind]bool{ // and whether it is mended
		provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_MISSING: false, provisionerv1.AilmentKind_AILMENT_KIND_ROLE_MISSING: true,
		provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_OPEN: true, provisionerv1.AilmentKind_AILMENT_KIND_VERSION_DIFFERS: true,
		provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_UNKNOWN: false, provisionerv1.AilmentKind_AILMENT_KIND_ROLE_UNKNOWN: true,
	}
	for _, mend := range []bool{false, true} {
		found := examine(mend)
		require.Len(t, found, len(kinds), "%v", found)
		for kind, mendable := range kinds {
			require.Equal(t, mendable, found[kind].GetMendable(), "%v", found[kind])
			require.Equal(t, mend && mendable, found[kind].GetMended(), "%v", found[kind])
		}
	}
	left := examine(true)
	require.Len(t, left, 2)
	require.Equal(t, "tenant_0123456789abcdef0123456789abcdef", left[provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_UNKNOWN].GetSubject())
	require.Equal(t, w.company("c1").GetDatabase(), left[provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_MISSING].GetSubject())
}

func TestSparesAreMadeThoughTheirTemplateWasDropped(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 1)
	ready := func() bool { return len(w.own("SELECT id::text FROM spares WHERE ready")) == 2 }
	require.Eventually(t, ready, time.Minute, 50*time.Millisecond)
	w.servers("DROP DATABASE " + w.servers("SELECT DISTINCT datname::text FROM pg_database WHERE datname LIKE 'template\\_%'")[0])
	w.signUp(2)
	require.Eventually(t, ready, time.Minute, 50*time.Millisecond)
}
