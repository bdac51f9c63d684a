package provisioner_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// marks are what tenants' databases bear.
func (w *world) marks() []string {
	return w.servers("SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname LIKE 'tenant\\_%' ORDER BY oid")
}

// registryTenants is what the provisioner tells the registry by.
func (w *world) registryTenants() registryv1.TenantServiceClient {
	return registryv1.NewTenantServiceClient(w.dial(w.registry, "service/provisioner"))
}

func TestASweepAsksTheServerAndNotEachDatabaseUnlessItIsToVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(3)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	sweep := func(verify bool) (*provisionerv1.Rollout, map[string]*provisionerv1.TenantResult) {
		return w.finish(w.start(&provisionerv1.StartRolloutRequest{Verify: verify}).GetRolloutId())
	}
	last, results := sweep(false)
	require.EqualValues(t, 3, last.GetSucceeded())
	require.EqualValues(t, 1, results["c1"].GetFiles(), "nothing was marked as being at a release that is new")

	// A history that was changed by hand is something that only a look into the database tells.
	w.database("c2", "DELETE FROM atlas_schema_revisions.atlas_schema_revisions WHERE version = '00000003'")
	w.database("c2", "DROP TABLE more")
	last, results = sweep(false)
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.Len(t, results, 3)
	require.Zero(t, results["c2"].GetFiles())
	require.Equal(t, "00000003", results["c2"].GetToVersion())
	last, results = sweep(true)
	require.True(t, last.GetVerify())
	require.EqualValues(t, 3, last.GetSucceeded())
	require.EqualValues(t, 1, results["c2"].GetFiles())
	require.Zero(t, results["c1"].GetFiles())

	// What the registry does not know yet is looked at, whatever the mark says.
	got, err := w.registryTenants().GetTenant(t.Context(), &registryv1.GetTenantRequest{Company: "c3"})
	require.NoError(t, err)
	_, err = w.registryTenants().RecordSchemaVersion(t.Context(), &registryv1.RecordSchemaVersionRequest{CompanyId: got.GetTenant().GetCompanyId(),
		DatabaseId: got.GetTenant().GetDatabaseId(), SchemaVersion: "00000002"})
	require.NoError(t, err)
	sweep(false)
	require.Equal(t, "00000003", w.company("c3").GetSchemaVersion())
}

func TestAPurgedPluginTakesTheMarkWithIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	_, err := w.tenants().InstallPlugin(t.Context(), &provisionerv1.InstallPluginRequest{Company: "c1", Plugin: "calin-meter"})
	require.NoError(t, err)
	migrate := func() {
		_, err := w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1"})
		require.NoError(t, err)
	}
	migrate()
	with := w.marks()
	require.Contains(t, with[0], "tenantry: at ")
	_, err = w.tenants().UninstallPlugin(t.Context(), &provisionerv1.UninstallPluginRequest{Company: "c1", Plugin: "calin-meter", Purge: true})
	require.NoError(t, err)
	require.Equal(t, []string{""}, w.marks())
	migrate()
	require.NotEqual(t, with, w.marks(), "without the plugin it is another")

	// The registry gives it back without its tables, as an install that was interrupted would not, but a person could.
	_, err = w.registryTenants().AddPlugin(t.Context(), &registryv1.AddPluginRequest{CompanyId: w.company("c1").GetCompanyId(), Plugin: "calin-meter", Actor: "test"})
	require.NoError(t, err)
	_, results := w.finish(w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId())
	require.EqualValues(t, 1, results["c1"].GetFiles())
	require.Equal(t, with, w.marks())
}
