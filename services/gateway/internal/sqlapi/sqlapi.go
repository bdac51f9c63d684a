// Package sqlapi is SqlService: SQL on the database of the caller's own company, one statement or one batch a call, as
// PostgreSQL's extended protocol has it. Each call is its own transaction and leaves nothing for the next.
package sqlapi

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

const (
	// messageBytes is about how much one message of a stream carries: enough that its own cost does not count.
	messageBytes = 64 << 10
	// batchBytes is the most that the results of a batch hold, which are one message.
	batchBytes = 4 << 20
)

// Service implements SqlService.
type Service struct {
	gatewayv1.UnimplementedSqlServiceServer
	routes *routes.Table
	pools  *conns.Pools
	target func(*routes.Route) (conns.Target, error)
	limit  time.Duration
}

// New returns the service. target says where a route's database is; limit is the longest that a call's SQL may run.
func New(table *routes.Table, pools *conns.Pools, target func(*routes.Route) (conns.Target, error), limit time.Duration) *Service {
	return &Service{routes: table, pools: pools, target: target, limit: limit}
}

// route is where a call goes: to the caller's own company, or to the one that an operator names. A tenant's caller who
// names another one gets TENANT_MISMATCH, whether it exists or not.
func (s *Service) route(ctx context.Context, named string) (*routes.Route, error) {
	caller := identity.FromContext(ctx)
	byName := func(t *routes.Table) (*routes.Route, bool) {
		if id, err := uuid.Parse(named); err == nil {
			return t.ByID(id)
		}
		return t.BySlug(named)
	}
	if !caller.IsTenant() {
		if named == "" {
			return nil, fault.Invalid("company", "got nothing, want the id or slug of a company, since the caller belongs to none")
		}
		return s.routes.Open(ctx, byName)
	}
	if named != "" {
		if r, ok := byName(s.routes); !ok || r.CompanyID != caller.CompanyID {
			return nil, fault.New(codes.PermissionDenied, fault.TenantMismatch, "the request names company %q, and the credential is another's", named)
		}
	}
	return s.routes.Open(ctx, func(t *routes.Table) (*routes.Route, bool) { return t.ByID(caller.CompanyID) })
}

// with runs f on a connection of the company that a call is about, within the gateway's own limit: a tenant can lift
// PostgreSQL's for itself.
func (s *Service) with(ctx context.Context, company string, f func(ctx context.Context, conn *pgconn.PgConn) error) error {
	route, err := s.route(ctx, company)
	if err != nil {
		return err
	}
	target, err := s.target(route)
	if err != nil {
		return err
	}
	conn, err := s.pools.Acquire(ctx, target)
	if err != nil {
		return err
	}
	defer conn.Release()
	limited, cancel := context.WithTimeoutCause(ctx, s.limit, errLimit)
	defer cancel()
	err = f(limited, conn.PgConn())
	switch {
	case err == nil:
		return leftOpen(conn.PgConn())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(context.Cause(limited), errLimit):
		return fault.New(codes.DeadlineExceeded, fault.StatementTimeout, "the statement ran for longer than %s and was cancelled", s.limit).Because(err)
	}
	return sqlFault(err)
}

var errLimit = errors.New("the gateway's limit")

// leftOpen refuses SQL that opened a transaction and did not end it. The connection is rolled back when it is released.
func leftOpen(conn *pgconn.PgConn) error {
	if conn.IsClosed() || conn.TxStatus() == 'I' {
		return nil
	}
	return fault.New(codes.FailedPrecondition, fault.TransactionLeftOpen,
		"the statement opened a transaction, which was rolled back: each call is one already, and Batch runs several statements in one")
}

// Query implements the contract.
func (s *Service) Query(r *gatewayv1.QueryRequest, out grpc.ServerStreamingServer[gatewayv1.QueryResponse]) error {
	if err := checkCopy(r.GetSql()); err != nil {
		return err
	}
	return s.with(out.Context(), r.GetCompany(), func(ctx context.Context, conn *pgconn.PgConn) error {
		reader := conn.ExecParams(ctx, r.GetSql(), parameters(r.GetParams()), nil, formats(r.GetParams()), resultFormats(r.GetResultFormat()))
		stream := &stream{out: out, binary: r.GetResultFormat() == gatewayv1.Format_FORMAT_BINARY}
		err := stream.rows(reader)
		tag, closed := reader.Close()
		if closed != nil {
			return closed
		}
		if err != nil {
			return err
		}
		if err := refuseCopy(tag); err != nil {
			return err
		}
		return stream.end(tag.String())
	})
}

// Execute implements the contract.
func (s *Service) Execute(ctx context.Context, r *gatewayv1.ExecuteRequest) (*gatewayv1.ExecuteResponse, error) {
	if err := checkCopy(r.GetSql()); err != nil {
		return nil, err
	}
	out := &gatewayv1.ExecuteResponse{}
	err := s.with(ctx, r.GetCompany(), func(ctx context.Context, conn *pgconn.PgConn) error {
		reader := conn.ExecParams(ctx, r.GetSql(), parameters(r.GetParams()), nil, formats(r.GetParams()), nil)
		tag, err := reader.Close()
		if err == nil {
			err = refuseCopy(tag)
		}
		out.CommandTag, out.RowsAffected = tag.String(), tag.RowsAffected()
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Transact implements the contract.
func (*Service) Transact(grpc.BidiStreamingServer[gatewayv1.TransactRequest, gatewayv1.TransactResponse]) error {
	return fault.New(codes.Unimplemented, fault.NotImplemented, "Transact is not in this version: Batch runs several statements in one transaction")
}

// Register registers the service.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	gatewayv1.RegisterSqlServiceServer(r, s)
}
