package cli

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

func failedResult() *provisionerv1.TenantResult {
	return &provisionerv1.TenantResult{
		CompanyId: "2", Slug: "bad", State: provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED, FromVersion: "1", ToVersion: "1",
		Error: &provisionerv1.MigrationError{Reason: "MIGRATION_FAILED", Message: "the table is there", Set: "core", File: "2_x.sql", Statement: "CREATE TABLE x ()", Sqlstate: "42P07"},
	}
}

func goodResult() *provisionerv1.TenantResult {
	return &provisionerv1.TenantResult{
		CompanyId: "1", Slug: "good", State: provisionerv1.TenantResultState_TENANT_RESULT_STATE_SUCCEEDED, FromVersion: "1", ToVersion: "2",
		Duration: durationpb.New(12_000_000),
	}
}

func ended() *provisionerv1.Rollout {
	return &provisionerv1.Rollout{
		RolloutId: "r", ToVersion: "2", State: provisionerv1.RolloutState_ROLLOUT_STATE_FAILED, Total: 2, Succeeded: 1, Failed: 1,
	}
}

func running() *provisionerv1.Rollout {
	return &provisionerv1.Rollout{
		RolloutId: "r", ToVersion: "2", State: provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING, Total: 2, Succeeded: 1, Running: 1,
	}
}

// fakeRollouts is a RolloutService whose streams break as the real one's do when it is restarted: that cannot be made to
// happen between two given messages.
type fakeRollouts struct {
	provisionerv1.RolloutServiceClient
	streams []stream
	results []*provisionerv1.TenantResult
}

func (p *fakeRollouts) WatchRollout(context.Context, *provisionerv1.WatchRolloutRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[provisionerv1.WatchRolloutResponse], error) {
	next := p.streams[0]
	p.streams = p.streams[1:]
	return &next, nil
}

func (p *fakeRollouts) ListRolloutResults(context.Context, *provisionerv1.ListRolloutResultsRequest, ...grpc.CallOption) (*provisionerv1.ListRolloutResultsResponse, error) {
	return &provisionerv1.ListRolloutResultsResponse{Results: p.results}, nil
}

type stream struct {
	grpc.ClientStream
	news []*provisionerv1.WatchRolloutResponse
	err  error
}

func (s *stream) Recv() (*provisionerv1.WatchRolloutResponse, error) {
	if len(s.news) == 0 {
		return nil, s.err
	}
	next := s.news[0]
	s.news = s.news[1:]
	return next, nil
}

func TestAWatchOutlivesAProvisionersRestartAndTellsEachResultOnce(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	a := &app{Streams: Streams{Out: &out, Err: &out}}
	w := &watch{app: a, rollout: running(), show: a.progress(), client: &fakeRollouts{
		streams: []stream{
			{news: []*provisionerv1.WatchRolloutResponse{{Rollout: running(), Results: []*provisionerv1.TenantResult{goodResult()}}}, err: status.Error(codes.Unavailable, "going away")},
			{news: []*provisionerv1.WatchRolloutResponse{{Rollout: ended()}}, err: io.EOF},
		},
		results: []*provisionerv1.TenantResult{goodResult(), failedResult()},
	}}
	require.Equal(t, exitTenantsFailed, exitCode(w.run(t.Context())))
	require.Equal(t, 1, strings.Count(out.String(), "succeeded  good  1 to 2  12ms\n"), out.String())
	require.Equal(t, 1, strings.Count(out.String(), "failed  bad"), out.String())
	for _, want := range []string{"MIGRATION_FAILED: the table is there", "set: core", "file: 2_x.sql", "sqlstate: 42P07", "statement: CREATE TABLE x ()"} {
		require.Contains(t, out.String(), want)
	}
	require.Contains(t, out.String(), "1 of 2 tenants are at 2, 1 failed (rollout r FAILED)")
}

func TestAWatchEndsWithTheErrorThatNoRetryHelps(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	a := &app{Streams: Streams{Out: &out, Err: &out}}
	w := &watch{app: a, rollout: running(), show: a.progress(), client: &fakeRollouts{
		streams: []stream{{err: status.Error(codes.PermissionDenied, "no")}},
	}}
	require.Equal(t, codes.PermissionDenied, status.Code(w.run(t.Context())))
}

func TestTheBarEndsHoweverTheRolloutDoes(t *testing.T) {
	t.Parallel()
	empty := &provisionerv1.Rollout{RolloutId: "r", State: provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED}
	for name, rollouts := range map[string][]*provisionerv1.Rollout{
		"whole": {running(), ended()}, "cut off": {running()}, "empty": {empty}, "never heard of": {},
	} {
		var out strings.Builder
		p := newBarProgress(&app{Streams: Streams{Out: &out}, terminal: true})
		last := running()
		for _, r := range rollouts {
			require.NoError(t, p.rollout(r), name)
			last = r
		}
		require.NoError(t, p.result(goodResult()))
		require.NoError(t, p.result(failedResult()))
		require.NoError(t, p.end(last), name)
		require.Contains(t, out.String(), "failed  bad", name)
		require.NotContains(t, out.String(), "succeeded  good", "a million lines are no news")
		require.True(t, strings.HasSuffix(out.String(), summary(last)+"\n"), "%s: %q", name, out.String())
	}
}
