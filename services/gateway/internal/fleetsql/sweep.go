package fleetsql

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// sweep is one query on its way through the tenants.
type sweep struct {
	query       *query
	total       int
	concurrency int // per cluster; 0 means the default

	mu   sync.Mutex // protects what follows: a stream takes one message at a time
	out  grpc.ServerStreamingServer[gatewayv1.FleetSqlServiceQueryResponse]
	done int32
}

// run reads every tenant: clusters side by side, on each a few tenants at a time. It fails only when the caller is gone.
func (s *sweep) run(ctx context.Context, tenants []tenant) error {
	if s.concurrency == 0 {
		s.concurrency = defaultConcurrency
	}
	byCluster := map[string][]tenant{}
	for _, t := range tenants {
		byCluster[t.route.Cluster] = append(byCluster[t.route.Cluster], t)
	}
	clusters, ctx := errgroup.WithContext(ctx)
	for _, some := range byCluster {
		clusters.Go(func() error {
			workers, ctx := errgroup.WithContext(ctx)
			workers.SetLimit(s.concurrency)
			for _, t := range some {
				// Go waits for its turn; whoever gave up in the meantime wants no more of it.
				if ctx.Err() != nil {
					break
				}
				workers.Go(func() error { return s.tenant(ctx, t) })
			}
			return workers.Wait()
		})
	}
	return clusters.Wait()
}

func (s *sweep) tenant(ctx context.Context, t tenant) error {
	m, err := &gatewayv1.FleetSqlServiceQueryResponse{}, t.closed
	if err == nil {
		err = s.query.read(ctx, t.route, m)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		f := fault.From(err)
		m = &gatewayv1.FleetSqlServiceQueryResponse{Error: &gatewayv1.FleetError{Reason: f.Reason, Message: f.Text, Metadata: f.Metadata}}
	}
	m.CompanyId, m.Slug = t.route.CompanyID.String(), t.route.Slug
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
	m.Done, m.Total = s.done, int32(s.total)
	return s.out.Send(m)
}
