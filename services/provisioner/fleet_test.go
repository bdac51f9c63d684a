package provisioner_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestARolloutBringsEveryTenantOfEveryClusterAndTheOneThatFailsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(8)
	require.Equal(t, []string{"Company 3"}, w.database("c3", "SELECT name FROM company"))
	w.database("c5", "CREATE TABLE more (x int)")
	_, err := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops")).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: "c2", Reason: "unpaid"})
	require.NoError(t, err)
	w.write("core/00000003_c.up.sql", "ALTER TABLE things ADD color text;")
	w.write("core/00000004_d.up.sql", "SELECT 1; CREATE TABLE more (id int);")
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{RequestId: "r", Concurrency: 3})
	require.NoError(t, err)
	again, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{RequestId: "r", Concurrency: 3})
	require.NoError(t, err)
	require.Equal(t, started.GetRollout().GetRolloutId(), again.GetRollout().GetRolloutId())
	last, _ := w.finish(started.GetRollout().GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_FAILED, last.GetState())
	require.EqualValues(t, 8, last.GetTotal())
	require.EqualValues(t, 7, last.GetSucceeded())
	require.EqualValues(t, 1, last.GetFailed())
	require.Equal(t, "operator/ops", last.GetActor())

	var results []*provisionerv1.TenantResult
	for token := ""; ; {
		page, err := w.rollouts().ListRolloutResults(t.Context(), &provisionerv1.ListRolloutResultsRequest{RolloutId: last.GetRolloutId(), PageSize: 3, PageToken: token})
		require.NoError(t, err)
		results = append(results, page.GetResults()...)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Len(t, results, 8)
	clusters := map[string]int{}
	for _, r := range results {
		clusters[r.GetCluster()]++
		require.Equal(t, "00000002", r.GetFromVersion())
		if r.GetSlug() != "c5" {
			require.Equal(t, "00000004", r.GetToVersion())
			require.EqualValues(t, 2, r.GetFiles())
			continue
		}
		require.Equal(t, "00000003", r.GetToVersion())
		require.Equal(t, "MIGRATION_FAILED core 00000004_d.sql CREATE TABLE more (id int); 42P07", fmt.Sprintf("%s %s %s %s %s", r.GetError().GetReason(), r.GetError().GetSet(),
			r.GetError().GetFile(), r.GetError().GetStatement(), r.GetError().GetSqlstate()))
	}
	require.Equal(t, map[string]int{"one": 4, "two": 4}, clusters)
	failed, err := w.rollouts().ListRolloutResults(t.Context(), &provisionerv1.ListRolloutResultsRequest{RolloutId: last.GetRolloutId(), States: []provisionerv1.TenantResultState{provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED}})
	require.NoError(t, err)
	require.Len(t, failed.GetResults(), 1)

	newborn, err := w.tenants().CreateTenant(t.Context(), signup(9))
	require.NoError(t, err)
	require.Equal(t, "00000004", newborn.GetSchemaVersion(), "new companies are born on the release")
	w.database("c5", "DROP TABLE more")
	started, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	require.NoError(t, err)
	last, _ = w.finish(started.GetRollout().GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.EqualValues(t, 9, last.GetSucceeded())
	status, err := w.tenants().GetTenantStatus(t.Context(), &provisionerv1.GetTenantStatusRequest{Company: "c5"})
	require.NoError(t, err)
	require.Equal(t, "00000004", status.GetSchemaVersion())
	require.Equal(t, provisionerv1.TenantResultState_TENANT_RESULT_STATE_SUCCEEDED, status.GetLastResult().GetState())
	list, err := w.rollouts().ListRollouts(t.Context(), &provisionerv1.ListRolloutsRequest{PageSize: 1})
	require.NoError(t, err)
	require.Equal(t, last.GetRolloutId(), list.GetRollouts()[0].GetRolloutId())
	require.NotEmpty(t, list.GetNextPageToken())
}

func TestARolloutOutlivesTheCopyThatBeganIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(6)
	w.write("core/00000003_c.up.sql", "SELECT pg_sleep(0.7); CREATE TABLE slow (id int);")
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Concurrency: 1})
	require.NoError(t, err)
	id := started.GetRollout().GetRolloutId()
	same, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Concurrency: 1})
	require.NoError(t, err)
	require.Equal(t, id, same.GetRollout().GetRolloutId(), "started twice, it is one")
	_, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: &provisionerv1.Selector{Cluster: "one"}})
	requireFault(t, err, codes.FailedPrecondition, fault.RolloutRunning)
	require.Eventually(t, func() bool {
		got, err := w.rollouts().GetRollout(t.Context(), &provisionerv1.GetRolloutRequest{RolloutId: id})
		return err == nil && got.GetRollout().GetSucceeded() >= 1
	}, time.Minute, 20*time.Millisecond)
	w.stop()
	w.startProvisioner()
	last, _ := w.finish(id)
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.EqualValues(t, 6, last.GetSucceeded())
	for i := range 6 {
		require.Equal(t, []string{"3"}, w.database(fmt.Sprintf("c%d", i+1), "SELECT count(*)::text FROM atlas_schema_revisions.atlas_schema_revisions"))
	}
}

func TestWhatWasReleasedMustNotChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	w.write("core/00000001_a.up.sql", "CREATE TABLE things (id int);")
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	_, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	require.Equal(t, "00000001_a.sql", requireFault(t, err, codes.FailedPrecondition, fault.ChecksumMismatch).Metadata["file"])
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1", Force: true})
	requireFault(t, err, codes.FailedPrecondition, fault.ChecksumMismatch)
	require.Equal(t, []string{"2"}, w.database("c1", "SELECT count(*)::text FROM atlas_schema_revisions.atlas_schema_revisions"))
	list, err := w.rollouts().ListRollouts(t.Context(), &provisionerv1.ListRolloutsRequest{})
	require.NoError(t, err)
	require.Empty(t, list.GetRollouts())
}

func TestOneTenantIsMigratedAsFarAsIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := signup(1)
	q.Plugins = []string{"calin-meter"}
	_, err := w.tenants().CreateTenant(t.Context(), q)
	require.NoError(t, err)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	w.write("core/00000004_d.up.sql", "CREATE TABLE most (id int);")
	w.write("plugins/calin-meter/00000002_p.up.sql", "ALTER TABLE calin ADD token text;")
	migrate := func(r *provisionerv1.MigrateTenantRequest) *provisionerv1.MigrateTenantResponse {
		r.Company = "c1"
		got, err := w.tenants().MigrateTenant(t.Context(), r)
		require.NoError(t, err)
		return got
	}
	dry := migrate(&provisionerv1.MigrateTenantRequest{DryRun: true})
	require.Len(t, dry.GetPending(), 3)
	require.Empty(t, dry.GetApplied())
	require.Equal(t, "00000004", dry.GetToVersion())
	part := migrate(&provisionerv1.MigrateTenantRequest{ToVersion: "00000003"})
	require.Equal(t, "00000003", part.GetToVersion())
	require.Len(t, part.GetApplied(), 1)
	require.Len(t, part.GetPending(), 1)
	rest := migrate(&provisionerv1.MigrateTenantRequest{})
	require.Len(t, rest.GetApplied(), 2)
	require.Equal(t, "plugins/calin-meter", rest.GetApplied()[1].GetSet())
	require.Len(t, rest.GetWarnings(), 1, "others are still behind, and new ones will be")
	require.Empty(t, migrate(&provisionerv1.MigrateTenantRequest{}).GetApplied())
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1", ToVersion: "00000009"})
	requireFault(t, err, codes.NotFound, fault.VersionNotFound)
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "nobody"})
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
	company, err := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops")).GetCompany(t.Context(), &registryv1.GetCompanyRequest{Company: "c1"})
	require.NoError(t, err)
	require.Equal(t, "00000004", company.GetCompany().GetSchemaVersion(), "the registry was told")
}

func TestASelectionIsAllThatIsMigratedAndDoesNotChangeWhatIsBorn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(4)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	one := &provisionerv1.Selector{Companies: []string{"c2"}}
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: one, LockTimeout: durationpb.New(time.Second)})
	require.NoError(t, err)
	last, _ := w.finish(started.GetRollout().GetRolloutId())
	require.EqualValues(t, 1, last.GetSucceeded())
	born, err := w.tenants().CreateTenant(t.Context(), signup(5))
	require.NoError(t, err)
	require.Equal(t, "00000002", born.GetSchemaVersion())
	started, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: &provisionerv1.Selector{Cluster: "two"}})
	require.NoError(t, err)
	last, _ = w.finish(started.GetRollout().GetRolloutId())
	require.Less(t, last.GetSucceeded(), int32(5))
	for _, bad := range []*provisionerv1.Selector{{Cluster: "nowhere"}, {Companies: []string{"nobody"}}} {
		_, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: bad})
		require.Equal(t, codes.NotFound, fault.From(err).Code)
	}
	_, err = w.rollouts().GetRollout(t.Context(), &provisionerv1.GetRolloutRequest{RolloutId: uuid.NewString()})
	requireFault(t, err, codes.NotFound, fault.RolloutNotFound)
}
