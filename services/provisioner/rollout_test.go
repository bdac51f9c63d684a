package provisioner_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func (w *world) start(r *provisionerv1.StartRolloutRequest) *provisionerv1.Rollout {
	w.t.Helper()
	out, err := w.rollouts().StartRollout(w.t.Context(), r)
	require.NoError(w.t, err)
	return out.GetRollout()
}

func (w *world) rollout(id string) *provisionerv1.Rollout {
	w.t.Helper()
	out, err := w.rollouts().GetRollout(w.t.Context(), &provisionerv1.GetRolloutRequest{RolloutId: id})
	require.NoError(w.t, err)
	return out.GetRollout()
}

func (w *world) at(version string) (slugs []string) {
	w.t.Helper()
	companies := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops"))
	list, err := companies.ListCompanies(w.t.Context(), &registryv1.ListCompaniesRequest{PageSize: 1000})
	require.NoError(w.t, err)
	for _, c := range list.GetCompanies() {
		if c.GetSchemaVersion() == version {
			slugs = append(slugs, c.GetSlug())
		}
	}
	return slugs
}

func TestTheCanarySoaksBeforeTheWavesThatGrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(8)
	w.write("core/00000003_c.up.sql", "SELECT pg_sleep(0.2); CREATE TABLE more (id int);")
	r := w.start(&provisionerv1.StartRolloutRequest{CanarySize: 1, WaveGrowth: 3, CanarySoak: durationpb.New(3 * time.Second), Concurrency: 1})
	require.EqualValues(t, 1, r.GetCanarySize())
	// From the beginning, or a slow machine sees no canary.
	stream, err := w.rollouts().WatchRollout(t.Context(), &provisionerv1.WatchRolloutRequest{RolloutId: r.GetRolloutId()})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.rollout(r.GetRolloutId()).GetSoakUntil() != nil }, time.Minute, 10*time.Millisecond)
	require.Len(t, w.at("00000003"), 1, "the canary alone")
	got, err := w.tenants().CreateTenant(t.Context(), signup(9))
	require.NoError(t, err)
	require.Equal(t, "00000003", got.GetSchemaVersion(), "the canary is done: new companies are born on the release")

	sizes := map[int32]int32{}
	var last *provisionerv1.Rollout
	for _, m := range all(t, stream, err) {
		last = m.GetRollout()
		sizes[last.GetWave()] = last.GetWaveSize()
	}
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.EqualValues(t, 9, last.GetSucceeded())
	require.EqualValues(t, 1, sizes[0])
	require.EqualValues(t, 3, sizes[1])
	require.EqualValues(t, 2, last.GetWave(), "the third wave is the rest")
}

func TestARolloutStopsWhenItsFailureBudgetIsUsedUpAndIsRetried(t *testing.T) {
	t.Parallel()
	for name, budget := range map[string]*provisionerv1.FailureBudget{"count": {Count: 2}, "percent": {Percent: 20}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.signUp(10)
			broken := []string{"c3", "c5", "c7"}
			for _, slug := range broken {
				w.database(slug, "CREATE TABLE more (x int)")
			}
			w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
			r := w.start(&provisionerv1.StartRolloutRequest{FailureBudget: budget, Concurrency: 1, WaveGrowth: 100})
			last, _ := w.finish(r.GetRolloutId())
			require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_FAILED, last.GetState())
			require.Contains(t, last.GetStateReason(), "3 of 10 tenants failed")
			require.EqualValues(t, 3, last.GetFailed())
			require.Less(t, last.GetSucceeded(), int32(7), "the rest was left alone")
			require.Positive(t, last.GetPending())
			require.Equal(t, budget.GetCount(), last.GetFailureBudget().GetCount())

			for _, slug := range broken {
				w.database(slug, "DROP TABLE more")
			}
			for range 2 {
				out, err := w.rollouts().RetryRollout(t.Context(), &provisionerv1.RetryRolloutRequest{RolloutId: r.GetRolloutId()})
				require.NoError(t, err)
				require.Equal(t, r.GetRolloutId(), out.GetRollout().GetRolloutId())
			}
			again, results := w.finish(r.GetRolloutId())
			require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, again.GetState(), again.GetStateReason())
			require.EqualValues(t, 10, again.GetSucceeded())
			require.Zero(t, again.GetFailed())
			require.LessOrEqual(t, len(results), 10-int(last.GetSucceeded()), "what had succeeded was left alone")
		})
	}
}

func TestAFewFailuresWithinTheBudgetDoNotStopTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(8)
	w.database("c4", "CREATE TABLE more (x int)")
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	last, _ := w.finish(w.start(&provisionerv1.StartRolloutRequest{FailureBudget: &provisionerv1.FailureBudget{Count: 1, Percent: 50}}).GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_FAILED, last.GetState())
	require.Empty(t, last.GetStateReason())
	require.EqualValues(t, 7, last.GetSucceeded())
}

func TestARolloutIsPausedResumedAndCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(6)
	w.write("core/00000003_c.up.sql", "SELECT pg_sleep(0.4); CREATE TABLE more (id int);")
	r := w.start(&provisionerv1.StartRolloutRequest{Concurrency: 1, Selector: &provisionerv1.Selector{}})
	id := r.GetRolloutId()
	require.Eventually(t, func() bool { return w.rollout(id).GetSucceeded() >= 1 }, time.Minute, 10*time.Millisecond)
	for range 2 {
		out, err := w.rollouts().PauseRollout(t.Context(), &provisionerv1.PauseRolloutRequest{RolloutId: id})
		require.NoError(t, err)
		require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_PAUSED, out.GetRollout().GetState())
		require.Contains(t, out.GetRollout().GetStateReason(), "operator/ops")
	}
	require.Eventually(t, func() bool { return w.own("SELECT locked_by FROM rollouts")[0] == "" }, time.Minute, 10*time.Millisecond)
	done := w.rollout(id).GetSucceeded()
	require.Less(t, done, int32(6))
	time.Sleep(time.Second)
	require.Equal(t, done, w.rollout(id).GetSucceeded(), "nothing is begun while it is paused")
	require.EqualValues(t, len(w.at("00000003")), done, "what ran has ended, and is told")
	_, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: &provisionerv1.Selector{Cluster: "one"}})
	requireFault(t, err, codes.FailedPrecondition, fault.RolloutRunning)

	_, err = w.rollouts().ResumeRollout(t.Context(), &provisionerv1.ResumeRolloutRequest{RolloutId: id})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.rollout(id).GetSucceeded() > done }, time.Minute, 10*time.Millisecond)
	out, err := w.rollouts().CancelRollout(t.Context(), &provisionerv1.CancelRolloutRequest{RolloutId: id})
	require.NoError(t, err)
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_CANCELLED, out.GetRollout().GetState())
	_, err = w.rollouts().ResumeRollout(t.Context(), &provisionerv1.ResumeRolloutRequest{RolloutId: id})
	requireFault(t, err, codes.FailedPrecondition, fault.RolloutEnded)
	_, err = w.rollouts().PauseRollout(t.Context(), &provisionerv1.PauseRolloutRequest{RolloutId: uuid.NewString()})
	requireFault(t, err, codes.NotFound, fault.RolloutNotFound)

	require.Eventually(t, func() bool { return w.own("SELECT locked_by FROM rollouts")[0] == "" }, time.Minute, 10*time.Millisecond)
	last, _ := w.finish(w.start(&provisionerv1.StartRolloutRequest{Concurrency: 4}).GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.Len(t, w.at("00000003"), 6)
}

func TestARolloutThatIsCancelledDuringItsLastTenantIsLetGoOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	// Less than the time after which is looked whether somebody wants it to stop.
	w.write("core/00000003_c.up.sql", "SELECT pg_sleep(0.1); CREATE TABLE more (id int);")
	id := w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId()
	require.Eventually(t, func() bool { return w.own("SELECT locked_by FROM rollouts")[0] != "" }, time.Minute, time.Millisecond)
	_, err := w.rollouts().CancelRollout(t.Context(), &provisionerv1.CancelRolloutRequest{RolloutId: id})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.own("SELECT locked_by FROM rollouts")[0] == "" }, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_CANCELLED, w.rollout(id).GetState())
}

func TestATenantWhoseTablesAreLockedIsTriedAgainWhenTheOthersAreDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(4)
	status, err := w.tenants().GetTenantStatus(t.Context(), &provisionerv1.GetTenantStatusRequest{Company: "c2"})
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), w.clusters[status.GetCluster()].DSN(status.GetDatabase()))
	require.NoError(t, err)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE things")
	require.NoError(t, err)
	w.write("core/00000003_c.up.sql", "ALTER TABLE things ADD color text;")
	r := w.start(&provisionerv1.StartRolloutRequest{LockTimeout: durationpb.New(20 * time.Millisecond)})
	require.Eventually(t, func() bool { return w.rollout(r.GetRolloutId()).GetSucceeded() == 3 }, time.Minute, 10*time.Millisecond)
	require.Zero(t, w.rollout(r.GetRolloutId()).GetFailed())
	require.NoError(t, conn.Close(t.Context()))
	last, _ := w.finish(r.GetRolloutId())
	require.EqualValues(t, 4, last.GetSucceeded())
	require.EqualValues(t, 4, last.GetTotal())
}

func TestADestructiveReleaseIsBlockedUntilItIsForced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(2)
	w.write("core/00000003_c.up.sql", "CREATE INDEX things_name_idx ON things (name);")
	r := w.start(&provisionerv1.StartRolloutRequest{})
	w.finish(r.GetRolloutId())
	require.Len(t, r.GetFindings(), 1, "a lock is told of, and stops nothing: %v", r.GetFindings())
	require.Equal(t, provisionerv1.FindingSeverity_FINDING_SEVERITY_WARNING, r.GetFindings()[0].GetSeverity())

	w.write("core/00000004_d.up.sql", "ALTER TABLE things DROP COLUMN name;")
	_, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	f := requireFault(t, err, codes.FailedPrecondition, fault.MigrationBlocked)
	require.Equal(t, "core 00000004_d.sql", f.Metadata["set"]+" "+f.Metadata["file"])
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1"})
	requireFault(t, err, codes.FailedPrecondition, fault.MigrationBlocked)
	dry, err := w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1", DryRun: true})
	require.NoError(t, err)
	require.NotEmpty(t, dry.GetWarnings())
	require.Empty(t, w.at("00000004"))

	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1", Force: true})
	require.NoError(t, err)
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1"})
	require.NoError(t, err, "nothing is pending that could destroy anything")
	last, _ := w.finish(w.start(&provisionerv1.StartRolloutRequest{Force: true}).GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.True(t, last.GetForce())
	require.Len(t, w.at("00000004"), 2)
	last, _ = w.finish(w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState(), "it is what tenants are born with now")
	events, err := registryv1.NewAuditServiceClient(w.dial(w.registry, "operator/ops")).ListEvents(t.Context(), &registryv1.ListEventsRequest{})
	require.NoError(t, err)
	forced := map[string]string{}
	for _, e := range events.GetEvents() {
		forced[e.GetAction()] = fmt.Sprintf("%s %s", e.GetActor(), e.GetDetails()["file"])
	}
	require.Equal(t, "operator/ops 00000004_d.sql", forced["rollout.forced"])
	require.Equal(t, "operator/ops 00000004_d.sql", forced["migration.forced"])
}

func TestAReleaseIsJudgedOnceThoughSomeGiveUpAndOthersAskAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	made := func() int { return w.log.count(`CREATE DATABASE "scratch_`) }
	dry := func(ctx context.Context) error {
		_, err := w.tenants().MigrateTenant(ctx, &provisionerv1.MigrateTenantRequest{Company: "c1", DryRun: true})
		return err
	}
	w.write("core/00000003_c.up.sql", "CREATE TABLE third (id int PRIMARY KEY);")
	require.NoError(t, dry(t.Context()))
	once := made()
	require.Positive(t, once)

	w.write("core/00000004_d.up.sql", "CREATE TABLE fourth (id int PRIMARY KEY);")
	impatient, giveUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- dry(impatient) }()
	require.Eventually(t, func() bool { return made() > once }, time.Minute, time.Millisecond)
	giveUp()
	require.Equal(t, codes.Canceled, status.Code(<-gone))
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := dry(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.Equal(t, 2*once, made())
}

func TestNobodyFailsSinceAtlasIsCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	atlas, err := atlascli.Find()
	require.NoError(t, err)
	// The CLI, cut off at so many of its next tries at a command.
	w.atlas = filepath.Join(t.TempDir(), "atlas")
	cutOff := func(command string, times int) {
		require.NoError(t, os.WriteFile(w.atlas+"."+command, []byte(strings.Repeat("x", times)), 0o600))
	}
	require.NoError(t, os.WriteFile(w.atlas, []byte(`#!/bin/sh
if [ -s "$0.$2" ]; then
	left=$(cat "$0.$2")
	printf %s "${left#x}" > "$0.$2"
	echo "Error: pq: terminating connection due to administrator command" >&2
	exit 1
fi
exec "`+atlas+`" "$@"
`), 0o700))
	w.stop()
	w.startProvisioner()

	w.write("core/00000003_c.up.sql", "ALTER TABLE things DROP COLUMN name;")
	cutOff("lint", 2)
	_, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	requireFault(t, err, codes.FailedPrecondition, fault.MigrationBlocked)

	w.write("core/00000003_c.up.sql", "CREATE TABLE third (id int PRIMARY KEY);")
	cutOff("lint", 3)
	_, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	requireFault(t, err, codes.Unavailable, fault.ReleaseNotJudged)
	require.True(t, fault.Retryable(err))
	require.Empty(t, w.at("00000003"), "what was not judged is not let through")
	cutOff("apply", 2)
	w.finish(w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId())
	_, err = w.tenants().CreateTenant(t.Context(), signup(2))
	require.NoError(t, err, "its template comes to be at the third try")
	require.ElementsMatch(t, []string{"c1", "c2"}, w.at("00000003"))
	left, err := os.ReadFile(w.atlas + ".apply")
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestOnlyTenantsBehindAVersionAreSelected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(3)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	_, err := w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c2"})
	require.NoError(t, err)
	last, results := w.finish(w.start(&provisionerv1.StartRolloutRequest{Selector: &provisionerv1.Selector{BehindVersion: "00000003"}}).GetRolloutId())
	require.EqualValues(t, 2, last.GetTotal())
	require.NotContains(t, results, "c2")
}
