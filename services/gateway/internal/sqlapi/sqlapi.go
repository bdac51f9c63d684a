// Package sqlapi is SqlService: SQL on the database of the caller's own company, one statement, one batch or one
// interactive transaction a call, as PostgreSQL's extended protocol has it. Each call is its own transaction and leaves
// nothing for the next.
package sqlapi

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/gateway/internal/sqlvalue"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

const (
	// messageBytes is about how much one message of a stream carries: enough that its own cost does not count, and little
	// enough to fit, with a row too many, the buffers of 32 KB that grpc-go keeps. The next larger are of 1 MB, and are
	// cleared each time.
	messageBytes = 28 << 10
	// batchBytes is the most that the results of a batch hold, which are one message.
	batchBytes = 4 << 20
)

// Service implements SqlService.
type Service struct {
	gatewayv1.UnimplementedSqlServiceServer
	routes *routes.Table
	pools  *conns.Pools
	target func(*routes.Route) (conns.Target, error)
	good   func(identity.Caller) error
	limits Limits
}

// Limits are how long a caller may hold a connection.
type Limits struct {
	// Statement is the longest that a call's SQL may run, or one step of a transaction.
	Statement time.Duration
	// Idle is how long a transaction waits for its next step.
	Idle time.Duration
	// Transaction is the longest that a transaction may take in all.
	Transaction time.Duration
}

// New returns the service. target says where a route's database is, and good whether a caller's credential still is.
func New(table *routes.Table, pools *conns.Pools, target func(*routes.Route) (conns.Target, error), good func(identity.Caller) error, limits Limits) *Service {
	return &Service{routes: table, pools: pools, target: target, good: good, limits: limits}
}

// route is where a call goes: to the caller's own company, or to the one that an operator names. A tenant's caller who
// names another one gets TENANT_MISMATCH, whether it exists or not.
func (s *Service) route(ctx context.Context, named string) (*routes.Route, error) {
	caller := identity.FromContext(ctx)
	if !caller.IsTenant() {
		if named == "" {
			return nil, fault.Invalid("company", "got nothing, want the id or slug of a company, since the caller belongs to none")
		}
		md, _ := metadata.FromIncomingContext(ctx)
		minSchema, err := routes.MinSchema(md)
		if err != nil {
			return nil, err
		}
		return s.routes.Admit(ctx, routes.Named(named), minSchema)
	}
	if named != "" {
		if r, ok := s.routes.Find(routes.Named(named)); !ok || r.CompanyID != caller.CompanyID {
			return nil, fault.New(codes.PermissionDenied, fault.TenantMismatch, "the request names company %q, and the credential is another's", named)
		}
	}
	// What the call wants of the schema was looked at when the caller was.
	return s.routes.Admit(ctx, routes.ID(caller.CompanyID), "")
}

// tries is how many connections that turn out to be of no use are given up before a call is.
const tries = 3

// with runs f on a connection of the company that a call is about, within the gateway's own limit: a tenant can lift
// PostgreSQL's for itself. A connection that was found dead before anything was sent is replaced by another. A call whose
// company went into maintenance while it waited for a connection gives that back, and is held.
func (s *Service) with(ctx context.Context, company string, f func(ctx context.Context, session *pgsession.Session) error) error {
	return s.acquire(ctx, company, func(_ *routes.Route, conn *conns.Conn) error {
		defer conn.Release()
		return s.once(ctx, conn, f)
	})
}

// errPaused says that nothing was sent, as the company is in maintenance by now.
var errPaused = errors.New("the company is in maintenance")

// acquire runs f with the route of the company that a call is about and a connection of it, which f releases, and again while that is of no
// use or the company is paused.
func (s *Service) acquire(ctx context.Context, company string, f func(route *routes.Route, conn *conns.Conn) error) error {
	for try := 1; ; {
		route, err := s.route(ctx, company)
		if err != nil {
			return err
		}
		conn, err := s.connect(ctx, route)
		if err == nil {
			err = f(route, conn)
		}
		switch {
		case errors.Is(err, errPaused):
		case try < tries && errors.Is(err, pgsession.ErrUnusable) && ctx.Err() == nil:
			try++
		default:
			return err
		}
	}
}

func (s *Service) connect(ctx context.Context, route *routes.Route) (*conns.Conn, error) {
	target, err := s.target(route)
	if err != nil {
		return nil, err
	}
	conn, err := s.pools.Acquire(ctx, target)
	if err != nil {
		return nil, err
	}
	if now, ok := s.routes.ByID(route.CompanyID); ok && now != route && now.State == registryv1.CompanyState_COMPANY_STATE_MAINTENANCE {
		conn.Release()
		s.pools.Drain(route.DatabaseID) // It may have been made after the others were closed.
		return nil, errPaused
	}
	return conn, nil
}

func (s *Service) once(ctx context.Context, conn *conns.Conn, f func(ctx context.Context, session *pgsession.Session) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, s.limits.Statement, errLimit)
	defer cancel()
	err := f(limited, conn.Session())
	switch {
	case err == nil:
		return leftOpen(conn.Session())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(context.Cause(limited), errLimit):
		return s.tooLong(err)
	}
	return sqlFault(err)
}

var errLimit = errors.New("the gateway's limit")

func (s *Service) tooLong(cause error) *fault.Error {
	return fault.New(codes.DeadlineExceeded, fault.StatementTimeout, "the statement ran for longer than %s and was cancelled", s.limits.Statement).Because(cause)
}

// leftOpen refuses SQL that opened a transaction and did not end it. The connection is rolled back when it is released.
func leftOpen(session *pgsession.Session) error {
	if session.Tx() == pgsession.Idle {
		return nil
	}
	return fault.New(codes.FailedPrecondition, fault.TransactionLeftOpen,
		"the statement opened a transaction, which was rolled back: each call is one already, and Batch runs several statements in one")
}

// statement is a statement as it is sent. path is where its parameters stand in the request.
func statement(r interface {
	GetSql() string
	GetParams() []*gatewayv1.Value
}, path string, format gatewayv1.Format, maxRows uint32) (st pgsession.Statement, err error) {
	if st.Text, err = inspect(r.GetSql()); err != nil {
		return st, err
	}
	st.Params, st.ParamFormats, err = sqlvalue.Parameters(path, r.GetParams())
	st.ResultFormats = resultFormats(format)
	if maxRows > 0 {
		st.MaxRows = maxRows + 1 // which tells whether there are more
	}
	return st, err
}

// Query implements the contract. The last part of a result is sent when the connection is free again.
func (s *Service) Query(r *gatewayv1.QueryRequest, out grpc.ServerStreamingServer[gatewayv1.QueryResponse]) error {
	st, err := statement(r, "params", r.GetResultFormat(), r.GetMaxRows())
	if err != nil {
		return err
	}
	call, err := oneStatement(out.Context(), r.GetTransaction(), st)
	if err != nil {
		return err
	}
	stream := &stream{send: out.Send, binary: r.GetResultFormat() == gatewayv1.Format_FORMAT_BINARY, packed: r.GetPacked(), most: r.GetMaxRows()}
	err = s.with(out.Context(), r.GetCompany(), func(ctx context.Context, session *pgsession.Session) error {
		stream.begin(ctx)
		return session.Run(ctx, call, stream)
	})
	if err != nil {
		return err
	}
	return out.Send(stream.last())
}

// Execute implements the contract.
func (s *Service) Execute(ctx context.Context, r *gatewayv1.ExecuteRequest) (*gatewayv1.ExecuteResponse, error) {
	st, err := statement(r, "params", gatewayv1.Format_FORMAT_TEXT, 0)
	if err != nil {
		return nil, err
	}
	call, err := oneStatement(ctx, r.GetTransaction(), st)
	if err != nil {
		return nil, err
	}
	var result execution
	err = s.with(ctx, r.GetCompany(), func(ctx context.Context, session *pgsession.Session) error {
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

// Register registers the service.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	gatewayv1.RegisterSqlServiceServer(r, s)
}
