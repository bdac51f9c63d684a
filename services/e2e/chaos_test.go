package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

// kills is how often a provisioner is killed.
const kills = 50

func TestNothingIsLostWhileProvisionersAreKilledFiftyTimes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.signUpMany(12)
	backup := filepath.Join(t.TempDir(), "c1.backup")
	f.inDatabase(f.databases()["c1"], "INSERT INTO things (name) VALUES ('kept') RETURNING name")
	ok(t, f.tenantry("tenant", "backup", "c1", backup))

	stop := make(chan struct{})
	var actors sync.WaitGroup
	// again calls act until there were enough kills, with the copy that it should ask first.
	again := func(act func(round, first int)) {
		actors.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
					act(round, round)
				}
			}
		})
	}
	var mu sync.Mutex
	signedUp, deleted, restored, rollouts := map[string]bool{}, map[string]bool{}, 0, 0
	for actor := range 3 {
		again(func(round, first int) {
			time.Sleep(rand.N(2 * time.Second)) // Else a slow machine comes to nothing but signups.
			slug := fmt.Sprintf("new-%d-%d", actor, round)
			f.signUp(slug, first)
			if round%2 == 0 {
				f.delete(slug, first+1)
			}
			mu.Lock()
			defer mu.Unlock()
			if round%2 == 0 {
				deleted[slug] = true
			} else {
				signedUp[slug] = true
			}
		})
	}
	again(func(_, first int) {
		time.Sleep(rand.N(time.Second)) // Else there would be hundreds, each with a database that stays for a while.
		f.inDatabase(f.databases()["c1"], "INSERT INTO things (name) VALUES ('too late') RETURNING name")
		if f.restore("c1", backup, first) {
			require.ElementsMatch(t, []string{"seed", "kept"}, f.inDatabase(f.databases()["c1"], "SELECT name FROM things"), "what was restored is what was copied")
			mu.Lock()
			defer mu.Unlock()
			restored++
			return
		}
		require.Subset(t, f.inDatabase(f.databases()["c1"], "SELECT name FROM things"), []string{"seed", "kept"}, "what could not be restored is as it was")
	})
	again(func(round, first int) {
		version := f.addFile("CREATE TABLE made_" + strconv.Itoa(round) + " (id bigint PRIMARY KEY);")
		r := f.ended(first, f.startRollout(first, &provisionerv1.StartRolloutRequest{Concurrency: 2}))
		require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, r.GetState(), "%v", r)
		require.Equal(t, version, r.GetToVersion())
		mu.Lock()
		defer mu.Unlock()
		rollouts++
	})
	// done is how many of each kind came to an end.
	done := func() (signups, deletions, restores, rolledOut int) {
		mu.Lock()
		defer mu.Unlock()
		return len(signedUp), len(deleted), restored, rollouts
	}
	for i := range kills {
		time.Sleep(200*time.Millisecond + rand.N(time.Second))
		f.restart(i % 2)
		if (i+1)%10 != 0 {
			continue
		}
		// On a slow machine no copy lives for long enough to judge a release, unless both are left alone for a while.
		_, _, _, before := done()
		require.Eventually(t, func() bool { _, _, _, n := done(); return n > before }, 3*patience, 10*time.Millisecond, "a rollout comes to its end")
	}
	require.Eventually(t, func() bool {
		signups, deletions, restores, _ := done()
		return signups > 0 && deletions > 0 && restores > 0
	}, patience, 10*time.Millisecond, "or the test means nothing")
	close(stop)
	actors.Wait()
	t.Logf("%d signups, %d of them deleted again, %d restores, %d rollouts", len(signedUp)+len(deleted), len(deleted), restored, rollouts)

	// What restores replaced stays a moment for calls that are under way; there are none.
	f.read(f.env["TENANTRY_PROVISIONER_DSN"], "UPDATE condemned SET drop_after = now() WHERE reason = 'REPLACED' RETURNING reason")
	f.requireNoOrphans()
	databases := f.databases()
	for slug := range signedUp {
		require.Contains(t, databases, slug, "who was told that it has a database has it")
	}
	for slug := range deleted {
		require.NotContains(t, databases, slug)
	}
	require.Len(t, databases, 12+len(signedUp))
	f.requireAt(databases, f.versions[len(f.versions)-1])
	require.Empty(t, f.read(f.env["TENANTRY_PROVISIONER_DSN"], "SELECT kind || ' ' || args || ' ' || errors::text FROM river.river_job WHERE state = 'discarded'"), "no job is given up")
}

func TestThreeHundredTenantsAreMigratedOnceWhateverHappensMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const tenants = 300
	f.signUpMany(tenants)
	databases := f.databases()
	require.Len(t, databases, tenants)
	// Looking into a database takes longer than migrating it. At the end all are looked into, and each tells of every file.
	some := maps.Clone(databases)
	maps.DeleteFunc(some, func(slug, _ string) bool { return slug == "c7" || !strings.HasSuffix(slug, "7") })

	// Two copies are asked at once, and one of them is killed when it is under way.
	version := f.addFile("CREATE TABLE second (id bigint PRIMARY KEY);")
	ids := [2]string{}
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() { ids[i] = f.startRollout(i, &provisionerv1.StartRolloutRequest{Concurrency: 4}) })
	}
	group.Wait()
	require.Equal(t, ids[0], ids[1], "a rollout that is started twice is one")
	f.underWay(ids[0], 20)
	f.restart(0)
	f.requireAll(f.ended(1, ids[0]), tenants)
	f.requireAt(some, version)

	// PostgreSQL is restarted, under the services' own databases, too.
	version = f.addFile("CREATE TABLE third (id bigint PRIMARY KEY);")
	id := f.startRollout(0, &provisionerv1.StartRolloutRequest{Concurrency: 4})
	f.underWay(id, 20)
	f.restartPostgres()
	f.requireAll(f.ended(0, id), tenants)
	f.requireAt(some, version)

	// One tenant in three hundred cannot be migrated, which is within a budget of one in a hundred; fifteen are not.
	broken := func(n int, sql string) {
		for i := range n {
			f.inDatabase(databases["c"+strconv.Itoa(i*20+7)], sql)
		}
	}
	broken(1, "CREATE TABLE fourth (mine int)")
	before := version
	version = f.addFile("CREATE TABLE fourth (id bigint PRIMARY KEY);")
	budget := &provisionerv1.FailureBudget{Percent: 1}
	r := f.ended(0, f.startRollout(0, &provisionerv1.StartRolloutRequest{Concurrency: 4, FailureBudget: budget}))
	require.EqualValues(t, tenants-1, r.GetSucceeded(), "%v", r)
	require.EqualValues(t, 1, r.GetFailed())
	f.requireAt(some, version)
	f.requireAt(map[string]string{"c7": databases["c7"]}, before)

	broken(1, "DROP TABLE fourth")
	broken(15, "CREATE TABLE fifth (mine int)")
	f.addFile("CREATE TABLE fifth (id bigint PRIMARY KEY);")
	id = f.startRollout(0, &provisionerv1.StartRolloutRequest{Concurrency: 4, FailureBudget: budget})
	r = f.ended(0, id)
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_FAILED, r.GetState())
	require.Regexp(t, "the failure budget is used up: [4-8] of 300 tenants failed, and 1% may", r.GetStateReason())
	require.Positive(t, r.GetPending(), "the rest is left alone")

	broken(15, "DROP TABLE fifth")
	f.patiently(func(ctx context.Context, on *grpc.ClientConn) error {
		_, err := provisionerv1.NewRolloutServiceClient(on).RetryRollout(ctx, &provisionerv1.RetryRolloutRequest{RolloutId: id})
		return err
	}, 0)
	f.requireAll(f.ended(0, id), tenants)
	f.requireAt(databases, f.versions[len(f.versions)-1])
}

// underWay waits until a rollout has migrated so many tenants.
func (f *fleet) underWay(id string, succeeded int32) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.rollout(1, id).GetSucceeded() >= succeeded }, patience, 5*time.Millisecond)
}

// requireAll requires that a rollout has migrated all tenants.
func (f *fleet) requireAll(r *provisionerv1.Rollout, tenants int) {
	f.t.Helper()
	require.Equal(f.t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, r.GetState(), "%v", r)
	require.EqualValues(f.t, tenants, r.GetSucceeded(), "%v", r)
}

// delete deletes a company for good, and waits until it is.
func (f *fleet) delete(slug string, first int) {
	f.t.Helper()
	f.patiently(func(ctx context.Context, on *grpc.ClientConn) error {
		_, err := provisionerv1.NewProvisionerServiceClient(on).DeleteTenant(ctx, &provisionerv1.DeleteTenantRequest{Company: slug, ConfirmSlug: slug, Retention: durationpb.New(0)})
		return err
	}, first)
}

// restore restores a company by one copy, and tells whether it was told that this is done.
func (f *fleet) restore(slug, file string, by int) bool {
	f.t.Helper()
	variables := append(f.variables(), "TENANTRY_PROVISIONER="+f.env[[]string{"TENANTRY_PROVISIONER", "TENANTRY_SECOND_PROVISIONER"}[by%2]])
	return runTenantry(f.t, variables, "tenant", "restore", slug, file).code == 0
}
