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
	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
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
		return s.routes.OpenNamed(ctx, named)
	}
	if named != "" {
		if r, ok := byName(s.routes); !ok || r.CompanyID != caller.CompanyID {
			return nil, fault.New(codes.PermissionDenied, fault.TenantMismatch, "the request names company %q, and the credential is another's", named)
		}
	}
	return s.routes.OpenID(ctx, caller.CompanyID)
}

// tries is how many connections that turn out to be of no use are given up before a call is.
const tries = 3

// with runs f on a connection of the company that a call is about, within the gateway's own limit: a tenant can lift
// PostgreSQL's for itself. A connection that was found dead before anything was sent is replaced by another.
func (s *Service) with(ctx context.Context, company string, f func(ctx context.Context, session *pgsession.Session) error) error {
	route, err := s.route(ctx, company)
	if err != nil {
		return err
	}
	target, err := s.target(route)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := s.once(ctx, target, f)
		if try < tries && errors.Is(err, pgsession.ErrUnusable) && ctx.Err() == nil {
			continue
		}
		return err
	}
}

func (s *Service) once(ctx context.Context, target conns.Target, f func(ctx context.Context, session *pgsession.Session) error) error {
	conn, err := s.pools.Acquire(ctx, target)
	if err != nil {
		return err
	}
	defer conn.Release()
	limited, cancel := context.WithTimeoutCause(ctx, s.limit, errLimit)
	defer cancel()
	err = f(limited, conn.Session())
	switch {
	case err == nil:
		return leftOpen(conn.Session())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(context.Cause(limited), errLimit):
		return fault.New(codes.DeadlineExceeded, fault.StatementTimeout, "the statement ran for longer than %s and was cancelled", s.limit).Because(err)
	}
	return sqlFault(err)
}

var errLimit = errors.New("the gateway's limit")

// leftOpen refuses SQL that opened a transaction and did not end it. The connection is rolled back when it is released.
func leftOpen(session *pgsession.Session) error {
	if session.Tx() == pgsession.Idle {
		return nil
	}
	return fault.New(codes.FailedPrecondition, fault.TransactionLeftOpen,
		"the statement opened a transaction, which was rolled back: each call is one already, and Batch runs several statements in one")
}

// statement is a statement as it is sent.
func statement(text pgsession.Text, params []*gatewayv1.Value, format gatewayv1.Format) pgsession.Statement {
	return pgsession.Statement{Text: text, Params: parameters(params), ParamFormats: formats(params), ResultFormats: resultFormats(format)}
}

// Query implements the contract. The last part of a result is sent when the connection is free again.
func (s *Service) Query(r *gatewayv1.QueryRequest, out grpc.ServerStreamingServer[gatewayv1.QueryResponse]) error {
	text, err := inspect(r.GetSql())
	if err != nil {
		return err
	}
	stream := &stream{out: out, binary: r.GetResultFormat() == gatewayv1.Format_FORMAT_BINARY}
	err = s.with(out.Context(), r.GetCompany(), func(ctx context.Context, session *pgsession.Session) error {
		stream.begin(ctx)
		return session.Run(ctx, pgsession.Call{Statements: []pgsession.Statement{statement(text, r.GetParams(), r.GetResultFormat())}}, stream)
	})
	if err != nil {
		return err
	}
	return stream.end()
}

// Execute implements the contract.
func (s *Service) Execute(ctx context.Context, r *gatewayv1.ExecuteRequest) (*gatewayv1.ExecuteResponse, error) {
	text, err := inspect(r.GetSql())
	if err != nil {
		return nil, err
	}
	var result execution
	err = s.with(ctx, r.GetCompany(), func(ctx context.Context, session *pgsession.Session) error {
		call := pgsession.Call{Statements: []pgsession.Statement{statement(text, r.GetParams(), gatewayv1.Format_FORMAT_TEXT)}}
		return session.Run(ctx, call, &result)
	})
	if err != nil {
		return nil, err
	}
	return &gatewayv1.ExecuteResponse{CommandTag: result.tag.String(), RowsAffected: result.tag.RowsAffected()}, nil
}

// execution is what Execute tells of a statement: how it ended, and not what it returned.
type execution struct{ tag pgconn.CommandTag }

// Columns implements pgsession.Results.
func (*execution) Columns(int, []pgconn.FieldDescription) error { return nil }

// Row implements pgsession.Results.
func (*execution) Row(int, [][]byte) error { return nil }

// Restart implements pgsession.Results.
func (*execution) Restart() {}

// Done implements pgsession.Results.
func (e *execution) Done(_ int, tag string, _ bool) error {
	e.tag = pgconn.NewCommandTag(tag)
	return refuseCopy(e.tag)
}

// Transact implements the contract.
func (*Service) Transact(grpc.BidiStreamingServer[gatewayv1.TransactRequest, gatewayv1.TransactResponse]) error {
	return fault.New(codes.Unimplemented, fault.NotImplemented, "Transact is not in this version: Batch runs several statements in one transaction")
}

// Register registers the service.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	gatewayv1.RegisterSqlServiceServer(r, s)
}
