// Package fleetsql is FleetSqlService: one read-only statement of an operator over many tenants' databases.
//
// Three things keep it from harm. A statement runs in a read-only transaction that has its snapshot already, so that
// nothing can make it a writing one, and that is never committed; what returns no rows, such as COMMIT or SET, is not run
// at all. It takes at most a quarter of a cluster's budget of connections, for all fleet queries together, one connection a
// tenant, and holds none while its caller reads. And it is written into the audit log before it runs.
package fleetsql

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/gateway/internal/sqlvalue"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

const (
	// action is what the audit log calls a fleet query.
	action = "fleet.queried"
	// auditTimeout is how long the registry may take to write that.
	auditTimeout = 5 * time.Second

	defaultRows        = 1000
	defaultConcurrency = 4
	defaultTimeout     = 10 * time.Second
	// share is the part of a cluster's budget that fleet queries take: one in so many connections.
	share = 4
	// tenantBytes is the most of one tenant's rows, which are one message and lie in memory until it is sent.
	tenantBytes = 4 << 20
	// paramsBytes is the most of all parameters, which go into the audit log.
	paramsBytes = 64 << 10
)

// Recorder writes the audit log: registryv1.TenantServiceClient is one.
type Recorder interface {
	RecordEvent(ctx context.Context, r *registryv1.RecordEventRequest, opts ...grpc.CallOption) (*registryv1.RecordEventResponse, error)
}

// Service implements FleetSqlService.
type Service struct {
	gatewayv1.UnimplementedFleetSqlServiceServer
	routes *routes.Table
	pools  *conns.Pools
	target func(*routes.Route) (conns.Target, error)
	audit  Recorder
	limit  time.Duration

	mu    sync.Mutex
	turns map[clusterBudget]*semaphore.Weighted
}

// clusterBudget is a cluster for as long as its budget is what it is.
type clusterBudget struct {
	cluster string
	budget  int
}

// New returns the service. target says where a route's database is; limit is the longest that a statement may run.
func New(table *routes.Table, pools *conns.Pools, target func(*routes.Route) (conns.Target, error), audit Recorder, limit time.Duration) *Service {
	return &Service{routes: table, pools: pools, target: target, audit: audit, limit: limit, turns: map[clusterBudget]*semaphore.Weighted{}}
}

// turn is what a connection to a cluster takes first.
func (s *Service) turn(t conns.Target) *semaphore.Weighted {
	key := clusterBudget{t.Cluster, t.Budget}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns[key] == nil {
		s.turns[key] = semaphore.NewWeighted(int64(max(1, t.Budget/share)))
	}
	return s.turns[key]
}

// Query implements the contract.
func (s *Service) Query(r *gatewayv1.FleetSqlServiceQueryRequest, out grpc.ServerStreamingServer[gatewayv1.FleetSqlServiceQueryResponse]) error {
	q, err := s.query(r)
	if err != nil {
		return err
	}
	tenants, err := s.pick(out.Context(), r.GetSelector())
	if err != nil {
		return err
	}
	if err := s.record(out.Context(), r, q, len(tenants)); err != nil {
		return err
	}
	sweep := &sweep{query: q, out: out, total: len(tenants), concurrency: int(r.GetConcurrencyPerCluster())}
	return sweep.run(out.Context(), tenants)
}

// query is what a request asks of each tenant.
func (s *Service) query(r *gatewayv1.FleetSqlServiceQueryRequest) (*query, error) {
	q := &query{Service: s, sql: r.GetSql(), rows: int(r.GetMaxRowsPerTenant()), timeout: defaultTimeout}
	if q.rows == 0 {
		q.rows = defaultRows
	}
	if r.GetStatementTimeout() != nil {
		q.timeout = r.GetStatementTimeout().AsDuration()
	}
	q.timeout = min(q.timeout, s.limit)
	var err error
	if q.params, q.formats, err = sqlvalue.Parameters("params", r.GetParams()); err != nil {
		return nil, err
	}
	size := 0
	for _, value := range q.params {
		size += len(value)
	}
	if size > paramsBytes {
		return nil, fault.Invalid("params", "got %d bytes, want at most %d in all, since the audit log keeps them", size, paramsBytes)
	}
	return q, nil
}

// record writes who asks what of whom into the audit log.
func (s *Service) record(ctx context.Context, r *gatewayv1.FleetSqlServiceQueryRequest, q *query, tenants int) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	details, err := details(r, q, tenants)
	if err != nil {
		return err
	}
	_, err = s.audit.RecordEvent(ctx, &registryv1.RecordEventRequest{Action: action, Actor: identity.FromContext(ctx).Actor(), Details: details})
	if err != nil {
		return fault.New(codes.Unavailable, fault.Unavailable, "the audit log cannot be written, and no fleet query runs without it").
			RetryIn(time.Second).Because(err)
	}
	return nil
}

func details(r *gatewayv1.FleetSqlServiceQueryRequest, q *query, tenants int) (map[string]string, error) {
	selector, err := json.Marshal(map[string]any{"companies": r.GetSelector().GetCompanies(), "cluster": r.GetSelector().GetCluster()})
	if err != nil {
		return nil, err
	}
	d := map[string]string{"sql": r.GetSql(), "selector": string(selector), "tenants": strconv.Itoa(tenants)}
	if len(q.params) > 0 {
		values := make([]any, len(q.params))
		for i, value := range q.params {
			switch {
			case value == nil:
			case q.formats[i] == pgtype.BinaryFormatCode:
				values[i] = value
			default:
				values[i] = string(value)
			}
		}
		params, err := json.Marshal(values)
		if err != nil {
			return nil, err
		}
		d["params"] = string(params)
	}
	return d, nil
}
