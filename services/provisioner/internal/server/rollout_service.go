package server

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/page"
)

type rolloutService struct {
	provisionerv1.UnimplementedRolloutServiceServer
	*Server
}

const (
	defaultConcurrency = 4
	defaultLockTimeout = 5 * time.Second
	// watchEvery is how often a watcher looks for news.
	watchEvery = 100 * time.Millisecond
	// watchBatch is how many results one message of a watcher has at most.
	watchBatch = 500
)

// StartRollout implements the contract.
func (s rolloutService) StartRollout(ctx context.Context, r *provisionerv1.StartRolloutRequest) (*provisionerv1.StartRolloutResponse, error) {
	if r.GetSelector() == nil {
		r.Selector = &provisionerv1.Selector{}
	}
	if c := r.GetSelector().GetCluster(); c != "" && !slices.Contains(s.Clusters.Names(), c) {
		return nil, fault.New(codes.NotFound, fault.ClusterNotFound, "there is no cluster %q", c).With("cluster", c)
	}
	for _, company := range r.GetSelector().GetCompanies() {
		if _, err := s.tenant(ctx, company); err != nil {
			return nil, err
		}
	}
	rel, err := s.newest(ctx)
	if err != nil {
		return nil, err
	}
	if r.GetConcurrency() == 0 {
		r.Concurrency = defaultConcurrency
	}
	lock := defaultLockTimeout
	if r.GetLockTimeout() != nil {
		lock = r.GetLockTimeout().AsDuration()
	}
	started, err := s.Rollouts.Start(ctx, r, rel.Hash, identity.FromContext(ctx).Actor(), lock, r.GetStatementTimeout().AsDuration())
	if err != nil {
		return nil, err
	}
	return &provisionerv1.StartRolloutResponse{Rollout: started.Rollout}, nil
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
	last := rollout.LastResult
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
		for changed := rollout.Ended() || rollout.LastResult > last || rollout.GetRunning() != before.GetRunning() || rollout.GetTotal() != before.GetTotal(); changed; {
			results, now, err := s.Rollouts.News(ctx, id, last, watchBatch)
			if err != nil {
				return err
			}
			if err := out.Send(&provisionerv1.WatchRolloutResponse{Rollout: rollout.Rollout, Results: results}); err != nil {
				return err
			}
			last, changed = now, len(results) == watchBatch
		}
	}
	return nil
}
