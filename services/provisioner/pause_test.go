package provisioner_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

// pauses are what the audit log has of a company's maintenance, the oldest first.
func (w *world) pauses(slug string) (actions []string) {
	w.t.Helper()
	out, err := registryv1.NewAuditServiceClient(w.dial(w.registry, "operator/ops")).ListEvents(w.t.Context(), &registryv1.ListEventsRequest{Company: slug})
	require.NoError(w.t, err)
	for _, e := range slices.Backward(out.GetEvents()) {
		switch e.GetAction() {
		case "company.maintenance_begun", "company.maintenance_ended", "company.maintenance_expired":
			actions = append(actions, e.GetAction()[len("company.maintenance_"):])
		}
	}
	return actions
}

func (w *world) migratePaused(slug string) (*provisionerv1.MigrateTenantResponse, error) {
	return w.tenants().MigrateTenant(w.t.Context(), &provisionerv1.MigrateTenantRequest{Company: slug, Pause: true})
}

// asTenant connects to a company's database as a gateway does.
func (w *world) asTenant(slug string) *pgx.Conn {
	w.t.Helper()
	c := w.company(slug)
	id, ok := tenant.ParseDatabaseName(c.GetDatabase())
	require.True(w.t, ok)
	cfg, err := pgx.ParseConfig(w.clusters[c.GetCluster()].DSN(c.GetDatabase()))
	require.NoError(w.t, err)
	cfg.User = c.GetDatabase()
	cfg.Password, err = w.key.RolePassword(id, credential.FirstPasswordVersion)
	require.NoError(w.t, err)
	conn, err := pgx.ConnectConfig(w.t.Context(), cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestATenantIsPausedWhileThereIsSomethingToApplyAndOpenAfterwardsWhateverHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	_, err := w.migratePaused("c1")
	require.NoError(t, err)
	require.Empty(t, w.pauses("c1"), "there was nothing to apply")

	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	w.write("core/00000004_d.up.sql", "SELECT 1 / (count(*) - 1) FROM company;")
	_, err = w.migratePaused("c1")
	requireFault(t, err, codes.FailedPrecondition, fault.MigrationFailed)
	require.Equal(t, []string{"begun", "ended"}, w.pauses("c1"))
	c := w.company("c1")
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_ACTIVE, c.GetState())
	require.Equal(t, "00000003", c.GetSchemaVersion(), "what was applied is told")

	w.database("c1", "INSERT INTO company VALUES ('a', 'b')")
	got, err := w.migratePaused("c1")
	require.NoError(t, err)
	require.Equal(t, "00000004", got.GetToVersion())
	require.Equal(t, []string{"begun", "ended", "begun", "ended"}, w.pauses("c1"))
	require.Equal(t, "00000004", w.company("c1").GetSchemaVersion())

	companies := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops"))
	_, err = companies.SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: "c1", Reason: "x"})
	require.NoError(t, err)
	w.write("core/00000005_e.up.sql", "CREATE TABLE even_more (id int);")
	_, err = w.migratePaused("c1")
	require.NoError(t, err, "nobody calls a suspended one")
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_SUSPENDED, w.company("c1").GetState())
	require.Equal(t, "00000005", w.company("c1").GetSchemaVersion())
}

func TestAPausedTenantIsChangedOnlyWhenNothingOfItRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	conn := w.asTenant("c1")
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO things (name) VALUES ('x')")
	require.NoError(t, err)
	_, err = w.migratePaused("c1")
	requireFault(t, err, codes.Aborted, fault.LockTimeout)
	require.Equal(t, []string{"begun", "ended"}, w.pauses("c1"))
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_ACTIVE, w.company("c1").GetState())
	require.Equal(t, "00000002", w.company("c1").GetSchemaVersion(), "nothing was begun")

	done := make(chan error, 1)
	go func() { _, err := w.migratePaused("c1"); done <- err }()
	require.Eventually(t, func() bool { return w.company("c1").GetState() == registryv1.CompanyState_COMPANY_STATE_MAINTENANCE }, time.Minute, 5*time.Millisecond)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-done, "a connection that does nothing is in nobody's way")
	require.Equal(t, "00000003", w.company("c1").GetSchemaVersion())
}

func TestARolloutPausesEachOfItsTenantsAndOneThatIsHeldComesLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(4)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	tenants := registryv1.NewTenantServiceClient(w.dial(w.registry, "service/provisioner"))
	_, err := tenants.BeginMaintenance(t.Context(), &registryv1.BeginMaintenanceRequest{CompanyId: w.company("c2").GetCompanyId(), Holder: "somebody", Duration: durationpb.New(time.Minute)})
	require.NoError(t, err)
	r := w.start(&provisionerv1.StartRolloutRequest{Pause: true})
	require.True(t, r.GetPause())
	require.Eventually(t, func() bool { return w.rollout(r.GetRolloutId()).GetSucceeded() == 3 }, time.Minute, 10*time.Millisecond)
	require.Zero(t, w.rollout(r.GetRolloutId()).GetFailed())
	_, err = tenants.EndMaintenance(t.Context(), &registryv1.EndMaintenanceRequest{CompanyId: w.company("c2").GetCompanyId(), Holder: "somebody"})
	require.NoError(t, err)
	last, _ := w.finish(r.GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState(), "%v", last)
	require.True(t, last.GetPause())
	require.Len(t, w.at("00000003"), 4)
	for _, slug := range []string{"c1", "c3", "c4"} {
		require.Equal(t, []string{"begun", "ended"}, w.pauses(slug))
	}
	require.Equal(t, []string{"begun", "ended", "begun", "ended"}, w.pauses("c2"))
}

func TestARestoreThatRacesARolloutLeavesTheVersionOfTheDatabaseThatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	c, old := w.backup("c1"), w.company("c1").GetDatabase()
	conn, err := pgx.Connect(t.Context(), w.clusters[w.company("c1").GetCluster()].DSN(old))
	require.NoError(t, err)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE things")
	require.NoError(t, err)
	w.write("core/00000003_c.up.sql", "ALTER TABLE things ADD color text;")
	r := w.start(&provisionerv1.StartRolloutRequest{LockTimeout: durationpb.New(time.Minute)})
	require.Eventually(t, func() bool {
		return len(w.database("c1", "SELECT pid::text FROM pg_locks WHERE NOT granted AND relation = 'things'::regclass")) == 1
	}, time.Minute, 10*time.Millisecond, "the rollout is at work on the old one")
	restored, err := w.restore("c1", c, false)
	require.NoError(t, err)
	require.Equal(t, "00000002", restored.GetSchemaVersion(), "the release is not the current one yet")
	require.NoError(t, conn.Close(t.Context()))

	last, _ := w.finish(r.GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState(), "%v", last)
	require.NotEqual(t, old, w.company("c1").GetDatabase())
	require.Equal(t, "00000003", w.company("c1").GetSchemaVersion())
	require.Equal(t, []string{"color"}, w.database("c1", "SELECT attname::text FROM pg_attribute WHERE attrelid = 'things'::regclass AND attname = 'color'"))
}
