package server

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/page"
	"github.com/tenantry/tenantry/services/provisioner/internal/fleet"
)

type rolloutService struct {
	provisionerv1.UnimplementedRolloutServiceServer
	*Server
}

const (
	defaultConcurrency = 4
	defaultLockTimeout = 5 * time.Second
	defaultCanary      = 1
	defaultGrowth      = 10
	// watchEvery is how often a watcher looks for news, and tellEvery how often it is told the rate when there are none.
	watchEvery = 100 * time.Millisecond
	tellEvery  = time.Second
	// watchBatch is how many results one message of a watcher has at most.
	watchBatch = 500
)

// StartRollout implements the contract.
func (s rolloutService) StartRollout(ctx context.Context, r *provisionerv1.StartRolloutRequest) (*provisionerv1.StartRolloutResponse, error) {
	if known, err := s.Rollouts.ByRequest(ctx, r.GetRequestId()); err != nil || known != nil {
		return &provisionerv1.StartRolloutResponse{Rollout: known.Message()}, err
	}
	if r.GetSelector() == nil {
		r.Selector = &provisionerv1.Selector{}
	}
	if err := s.checkSelector(ctx, r.GetSelector()); err != nil {
		return nil, err
	}
	if r.GetWaveGrowth() == 1 {
		return nil, fault.Invalid("wave_growth", "got 1, want 2 to 100, or 0 for %d", defaultGrowth)
	}
	rel, err := s.newest(ctx)
	if err != nil {
		return nil, err
	}
	findings, err := s.Gate.Judge(ctx, rel)
	if err != nil {
		return nil, err
	}
	current, err := s.Releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	// What is current was let through by somebody, and sweeps of it go on without being forced each time.
	if current.Hash != rel.Hash {
		if err := s.pass(ctx, findings, r.GetForce(), "rollout.forced", &registryv1.RecordEventRequest{Subject: rel.Hash}); err != nil {
			return nil, err
		}
	}
	defaults(r)
	started, err := s.Rollouts.Start(ctx, r, rel.Hash, identity.FromContext(ctx).Actor(), findings)
	if err != nil {
		return nil, err
	}
	return &provisionerv1.StartRolloutResponse{Rollout: started.Rollout}, nil
}

// defaults sets what a request left to us.
func defaults(r *provisionerv1.StartRolloutRequest) {
	if r.GetConcurrency() == 0 {
		r.Concurrency = defaultConcurrency
	}
	if r.GetLockTimeout() == nil {
		r.LockTimeout = durationpb.New(defaultLockTimeout)
	}
	if r.GetCanarySize() == 0 {
		r.CanarySize = defaultCanary
	}
	if r.GetWaveGrowth() == 0 {
		r.WaveGrowth = defaultGrowth
	}
}

// checkSelector refuses one that names what is not there.
func (s *Server) checkSelector(ctx context.Context, selector *provisionerv1.Selector) error {
	if c := selector.GetCluster(); c != "" && !slices.Contains(s.Clusters.Names(), c) {
		return fault.New(codes.NotFound, fault.ClusterNotFound, "there is no cluster %q", c).With("cluster", c)
	}
	for _, company := range selector.GetCompanies() {
		if _, err := s.tenant(ctx, company); err != nil {
			return err
		}
	}
	return nil
}

// pass lets findings through the gate that nothing destructive is among, or with force, which is recorded.
func (s *Server) pass(ctx context.Context, findings []*provisionerv1.Finding, force bool, action string, event *registryv1.RecordEventRequest) error {
	var bad []*provisionerv1.Finding
	for _, f := range findings {
		if f.GetSeverity() == provisionerv1.FindingSeverity_FINDING_SEVERITY_DESTRUCTIVE {
			bad = append(bad, f)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	first := bad[0]
	if !force {
		return fault.New(codes.FailedPrecondition, fault.MigrationBlocked, "%s/%s: %s (%s); %d such findings in all. Mend it in a new file, or say force",
			first.GetSet(), first.GetFile(), first.GetMessage(), first.GetCode(), len(bad)).
			With("set", first.GetSet()).With("file", first.GetFile()).With("code", first.GetCode()).With("findings", strconv.Itoa(len(bad)))
	}
	event.Action, event.Actor = action, identity.FromContext(ctx).Actor()
	event.Details = map[string]string{"set": first.GetSet(), "file": first.GetFile(), "code": first.GetCode(), "findings": strconv.Itoa(len(bad))}
	_, err := s.Tenants.RecordEvent(ctx, event)
	return err
}

// PauseRollout implements the contract.
func (s rolloutService) PauseRollout(ctx context.Context, r *provisionerv1.PauseRolloutRequest) (*provisionerv1.PauseRolloutResponse, error) {
	rollout, err := s.changed(r.GetRolloutId(), func(id uuid.UUID) (*fleet.Rollout, error) {
		return s.Rollouts.Pause(ctx, id, identity.FromContext(ctx).Actor())
	})
	return &provisionerv1.PauseRolloutResponse{Rollout: rollout}, err
}

// ResumeRollout implements the contract.
func (s rolloutService) ResumeRollout(ctx context.Context, r *provisionerv1.ResumeRolloutRequest) (*provisionerv1.ResumeRolloutResponse, error) {
	rollout, err := s.changed(r.GetRolloutId(), func(id uuid.UUID) (*fleet.Rollout, error) { return s.Rollouts.Resume(ctx, id) })
	return &provisionerv1.ResumeRolloutResponse{Rollout: rollout}, err
}

// CancelRollout implements the contract.
func (s rolloutService) CancelRollout(ctx context.Context, r *provisionerv1.CancelRolloutRequest) (*provisionerv1.CancelRolloutResponse, error) {
	rollout, err := s.changed(r.GetRolloutId(), func(id uuid.UUID) (*fleet.Rollout, error) {
		return s.Rollouts.Cancel(ctx, id, identity.FromContext(ctx).Actor())
	})
	return &provisionerv1.CancelRolloutResponse{Rollout: rollout}, err
}

// RetryRollout implements the contract.
func (s rolloutService) RetryRollout(ctx context.Context, r *provisionerv1.RetryRolloutRequest) (*provisionerv1.RetryRolloutResponse, error) {
	rollout, err := s.changed(r.GetRolloutId(), func(id uuid.UUID) (*fleet.Rollout, error) { return s.Rollouts.Retry(ctx, id) })
	return &provisionerv1.RetryRolloutResponse{Rollout: rollout}, err
}

func (s rolloutService) changed(rolloutID string, change func(id uuid.UUID) (*fleet.Rollout, error)) (*provisionerv1.Rollout, error) {
	id, err := uuid.Parse(rolloutID)
	if err != nil {
		return nil, fault.Invalid("rollout_id", "got %q, want a UUID", rolloutID)
	}
	rollout, err := change(id)
	return rollout.Message(), err
}

// GetRollout implements the contract.
func (s rolloutService) GetRollout(ctx context.Context, r *provisionerv1.GetRolloutRequest) (*provisionerv1.GetRolloutResponse, error) {
	id, err := uuid.Parse(r.GetRolloutId())
	if err != nil {
		return nil, fault.Invalid("rollout_id", "got %q, want a UUID", r.GetRolloutId())
	}
	rollout, err := s.Rollouts.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &provisionerv1.GetRolloutResponse{Rollout: rollout.Rollout}, nil
}

// ListRollouts implements the contract.
func (s rolloutService) ListRollouts(ctx context.Context, r *provisionerv1.ListRolloutsRequest) (*provisionerv1.ListRolloutsResponse, error) {
	const method = page.Method("ListRollouts")
	before, err := method.AfterID(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := method.Size(r.GetPageSize())
	rollouts, err := s.Rollouts.List(ctx, before, size+1)
	if err != nil {
		return nil, err
	}
	out := &provisionerv1.ListRolloutsResponse{}
	out.Rollouts, out.NextPageToken = page.Cut(method, rollouts, size, (*provisionerv1.Rollout).GetRolloutId)
	return out, nil
}

// ListRolloutResults implements the contract.
func (s rolloutService) ListRolloutResults(ctx context.Context, r *provisionerv1.ListRolloutResultsRequest) (*provisionerv1.ListRolloutResultsResponse, error) {
	const method = page.Method("ListRolloutResults")
	after, err := method.AfterID(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := method.Size(r.GetPageSize())
	id, err := uuid.Parse(r.GetRolloutId())
	if err != nil {
		return nil, fault.Invalid("rollout_id", "got %q, want a UUID", r.GetRolloutId())
	}
	if _, err := s.Rollouts.Get(ctx, id); err != nil {
		return nil, err
	}
	results, err := s.Rollouts.Results(ctx, id, after, r.GetStates(), size+1)
	if err != nil {
		return nil, err
	}
	out := &provisionerv1.ListRolloutResultsResponse{}
	out.Results, out.NextPageToken = page.Cut(method, results, size, (*provisionerv1.TenantResult).GetCompanyId)
	return out, nil
}

// WatchRollout implements the contract. Whichever copy works on the rollout, its progress is in the database.
func (s rolloutService) WatchRollout(r *provisionerv1.WatchRolloutRequest, out grpc.ServerStreamingServer[provisionerv1.WatchRolloutResponse]) error {
	id, err := uuid.Parse(r.GetRolloutId())
	if err != nil {
		return fault.Invalid("rollout_id", "got %q, want a UUID", r.GetRolloutId())
	}
	ctx := out.Context()
	rollout, err := s.Rollouts.Get(ctx, id)
	if err != nil {
		return err
	}
	last, told := rollout.LastResult, time.Now()
	if err := out.Send(&provisionerv1.WatchRolloutResponse{Rollout: rollout.Rollout}); err != nil {
		return err
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for !rollout.Ended() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Stopping:
			return fault.New(codes.Unavailable, fault.Unavailable, "this copy of the provisioner is stopping; watch another").RetryIn(time.Second)
		}
		before := rollout
		if rollout, err = s.Rollouts.Get(ctx, id); err != nil {
			return err
		}
		news := rollout.LastResult > last || rollout.GetRunning() != before.GetRunning() || rollout.GetTotal() != before.GetTotal() ||
			rollout.GetState() != before.GetState() || rollout.GetWave() != before.GetWave() || rollout.GetSoakUntil().AsTime() != before.GetSoakUntil().AsTime()
		for news || time.Since(told) > tellEvery {
			results, now, err := s.Rollouts.News(ctx, id, last, watchBatch)
			if err != nil {
				return err
			}
			if err := out.Send(&provisionerv1.WatchRolloutResponse{Rollout: rollout.Rollout, Results: results}); err != nil {
				return err
			}
			last, told, news = now, time.Now(), len(results) == watchBatch
		}
	}
	return nil
}
