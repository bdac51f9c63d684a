package provisioner_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestASignupInstallsPluginsWhoseHistoryTheTenantCannotSee(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := signup(1)
	q.Plugins, q.Cluster, q.UsageType = []string{"calin-meter", "paystack-payment-provider"}, "two", "mini-grid"
	got, err := w.tenants().CreateTenant(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, "00000002", got.GetSchemaVersion())
	again, err := w.tenants().CreateTenant(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, got.GetCompanyId(), again.GetCompanyId())
	require.Equal(t, []string{"Company 1"}, w.database("c1", "SELECT name FROM company"))
	require.Equal(t, []string{"1"}, w.database("c1", "SELECT count(*)::text FROM atlas_plugin_calin_meter.atlas_schema_revisions"))
	for schema, visible := range map[string]string{"public": "true", "atlas_schema_revisions": "false", "atlas_plugin_calin_meter": "false"} {
		require.Equal(t, []string{visible}, w.database("c1", "SELECT has_schema_privilege('tenantry_tenant', '"+schema+"', 'USAGE')::text"), schema)
	}
	require.Equal(t, []string{"true"}, w.database("c1", "SELECT has_table_privilege('tenantry_tenant', 'calin', 'INSERT')::text"))
	status, err := w.tenants().GetTenantStatus(t.Context(), &provisionerv1.GetTenantStatusRequest{Company: "c1"})
	require.NoError(t, err)
	require.Equal(t, "two", status.GetCluster())
	require.Len(t, status.GetSets(), 2, "a plugin without tables has no set")
	require.Positive(t, status.GetDatabaseBytes())
}

func TestWhoAsksAgainMeanwhileGetsTheSameCompanyAndWhoIsInAHurryIsToldToAskAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("seed.sql", "INSERT INTO company (name, owner) VALUES (@company_name, @owner_email);")
	client := w.tenants()
	q := signup(1)
	hurried, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err := client.CreateTenant(hurried, q)
	require.Error(t, err)
	var group sync.WaitGroup
	ids, errs := make([]string, 6), make([]error, 6)
	for i := range ids {
		group.Go(func() {
			got, err := client.CreateTenant(t.Context(), q)
			ids[i], errs[i] = got.GetCompanyId(), err
		})
	}
	group.Wait()
	for i := range ids {
		require.NoError(t, errs[i])
		require.Equal(t, ids[0], ids[i])
	}
	require.Len(t, w.database("c1", "SELECT name FROM company"), 1)
}

func TestASignupOnAServerThatIsAwayEndsWhenItIsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := w.tenants()
	first := signup(1)
	first.Cluster = "one"
	_, err := client.CreateTenant(t.Context(), first)
	require.NoError(t, err)
	require.NoError(t, w.clusters["one"].Stop(t.Context()))

	q := signup(2)
	q.Cluster = "one"
	_, err = client.CreateTenant(t.Context(), q)
	require.True(t, fault.Retryable(err), "%v", err)
	elsewhere := signup(3)
	elsewhere.Cluster = "two"
	_, err = client.CreateTenant(t.Context(), elsewhere)
	require.NoError(t, err, "the other cluster's signups go on")

	pgtest.Restart(t, w.clusters["one"])
	require.Eventually(t, func() bool {
		got, err := client.CreateTenant(t.Context(), q)
		return err == nil && got.GetState() == registryv1.CompanyState_COMPANY_STATE_ACTIVE
	}, 2*time.Minute, 200*time.Millisecond)
	require.Equal(t, []string{"Company 2"}, w.database("c2", "SELECT name FROM company"))
}

func TestAClusterThatThisProvisionerDoesNotHaveLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := registryv1.NewClusterServiceClient(w.dial(w.registry, "operator/ops")).RegisterCluster(t.Context(), &registryv1.RegisterClusterRequest{Name: "three", Host: "h", Port: 1})
	require.NoError(t, err)
	q := signup(1)
	q.Cluster = "three"
	_, err = w.tenants().CreateTenant(t.Context(), q)
	requireFault(t, err, codes.NotFound, fault.ClusterNotFound)
	q = signup(1) // The same names, under another id.
	_, err = w.tenants().CreateTenant(t.Context(), q)
	require.NoError(t, err)
}

func TestATemplateThatWasDroppedIsBuiltAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(2)
	for _, slug := range []string{"c1", "c2"} {
		name := w.database(slug, `SELECT datname::text FROM pg_database WHERE datname LIKE 'template\_%'`)
		require.Len(t, name, 1)
		w.database(slug, "DROP DATABASE "+name[0])
	}
	q := signup(3)
	_, err := w.tenants().CreateTenant(t.Context(), q)
	require.NoError(t, err)
}

// TestWhatIsCommonIsEachCompanysOwnUnlessItIsTheTemplates runs the same statement both ways, with spares and without.
func TestWhatIsCommonIsEachCompanysOwnUnlessItIsTheTemplates(t *testing.T) {
	t.Parallel()
	const common = "INSERT INTO company (name, owner) SELECT 'secret', gen_random_uuid()::text WHERE NOT EXISTS (SELECT FROM company WHERE name = 'secret');\n"
	const particular = "INSERT INTO company (name, owner) SELECT @company_name, @owner_email WHERE NOT EXISTS (SELECT FROM company WHERE name = @company_name);\n"
	for _, c := range []struct {
		directive    string
		spares, want int
	}{{"", 0, 4}, {"", 2, 4}, {"-- tenantry:common template\n", 0, 2}} { // A template for each cluster.
		w := newWorldWith(t, c.spares)
		w.signUp(1)
		w.write("seed.sql", c.directive+common+particular)
		w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
		last, _ := w.finish(w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId())
		require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
		secrets := map[string]bool{}
		for n := 2; n <= 5; n++ {
			_, err := w.tenants().CreateTenant(t.Context(), signup(n))
			require.NoError(t, err)
			slug := fmt.Sprintf("c%d", n)
			require.Equal(t, []string{"2"}, w.database(slug, "SELECT count(*)::text FROM company"), "one row each")
			secrets[w.database(slug, "SELECT owner FROM company WHERE name = 'secret'")[0]] = true
		}
		require.Len(t, secrets, c.want, "with %q and %d spares", c.directive, c.spares)
	}
}
