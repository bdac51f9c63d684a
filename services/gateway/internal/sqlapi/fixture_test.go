package sqlapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds what a test waits for.
const patience = time.Minute

// fixture is the service over gRPC, and one tenant on a real PostgreSQL.
type fixture struct {
	t      *testing.T
	client gatewayv1.SqlServiceClient
	pools  *conns.Pools
	table  *routes.Table
	route  *routes.Route
	admin  *pgconn.PgConn
	named  string // the company, where the caller has to name it

	revoked atomic.Bool // the caller's credential
}

// start serves one tenant, whose database has the table items (id, name), to a caller.
func start(t *testing.T, limits Limits, caller identity.Caller) *fixture {
	t.Helper()
	for _, l := range []*time.Duration{&limits.Statement, &limits.Idle, &limits.Transaction} {
		if *l == 0 {
			*l = patience
		}
	}
	f := &fixture{t: t, route: &routes.Route{CompanyID: uuid.New(), DatabaseID: uuid.New(), Slug: "sun", Cluster: "a", State: registryv1.CompanyState_COMPANY_STATE_ACTIVE}}
	key := credential.NewMasterKey()
	f.tenant(key)
	f.pools = conns.New(conns.Config{MasterKey: key})
	f.table = routes.New(nil, "test", routes.Events{Drain: f.pools.Drain}, nil)
	f.table.Put(f.route)
	target := func(*routes.Route) (conns.Target, error) { return f.target(), nil }
	if caller.Kind == identity.Operator {
		f.named = f.route.Slug
	} else {
		caller.CompanyID = f.route.CompanyID
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			answer, err := handler(identity.NewContext(ctx, caller), r)
			return answer, sent(err)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return sent(handler(srv, &called{ServerStream: ss, ctx: identity.NewContext(ss.Context(), caller)}))
		}))
	New(f.table, f.pools, target, f.good, limits).Register(server)
	l := bufconn.Listen(1 << 16)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:gateway", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	f.client = gatewayv1.NewSqlServiceClient(conn)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		server.Stop()
		serving.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, f.pools.Close(ctx))
	})
	return f
}

// sent is an error as package rpc sends it.
func sent(err error) error {
	if err == nil {
		return nil
	}
	return fault.From(err).GRPCStatus().Err()
}

// called is a stream with its caller.
type called struct {
	grpc.ServerStream
	ctx context.Context
}

func (c *called) Context() context.Context { return c.ctx }

func (f *fixture) good(identity.Caller) error {
	if f.revoked.Load() {
		return fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "revoked")
	}
	return nil
}

// put gives the tenant another state.
func (f *fixture) put(state registryv1.CompanyState) {
	now, _ := f.table.ByID(f.route.CompanyID)
	next := *now
	next.State, next.Version = state, now.Version+1
	f.table.Put(&next)
}

// target is where the tenant is.
func (f *fixture) target() conns.Target {
	return conns.Target{Cluster: f.route.Cluster, Host: "127.0.0.1", Port: pgtest.Server(f.t).Port(), Budget: 8, DatabaseID: f.route.DatabaseID, PasswordVersion: 1}
}

// tenant makes the database and its role.
func (f *fixture) tenant(key credential.MasterKey) {
	f.t.Helper()
	name := tenant.DatabaseName(f.route.DatabaseID)
	password, err := key.RolePassword(f.route.DatabaseID, 1)
	require.NoError(f.t, err)
	verifier, err := credential.SCRAMVerifier(password)
	require.NoError(f.t, err)
	dsn := pgtest.Server(f.t).DSN
	postgres := func(sql string) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := pgconn.Connect(ctx, dsn("postgres"))
		require.NoError(f.t, err)
		_, err = conn.Exec(ctx, sql).ReadAll()
		require.NoError(f.t, errors.Join(err, conn.Close(ctx)))
	}
	postgres(fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", name, verifier))
	postgres(fmt.Sprintf("CREATE DATABASE %s OWNER %s TEMPLATE template0 STRATEGY file_copy", name, name))
	f.t.Cleanup(func() {
		postgres("DROP DATABASE " + name + " WITH (FORCE)")
		postgres("DROP ROLE " + name)
	})
	f.admin, err = pgconn.Connect(f.t.Context(), dsn(name))
	require.NoError(f.t, err)
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = f.admin.Close(ctx)
	})
	f.ask("CREATE TABLE items (id int PRIMARY KEY, name text); GRANT ALL ON items TO " + name + "; INSERT INTO items VALUES (1, 'a'), (2, 'b'); SELECT ''")
}

// ask runs statements as the superuser, and returns the first columns of the last one's rows.
func (f *fixture) ask(sql string) string {
	f.t.Helper()
	results, err := f.admin.Exec(f.t.Context(), sql).ReadAll()
	require.NoError(f.t, err, sql)
	var values []string
	for _, row := range results[len(results)-1].Rows {
		values = append(values, string(row[0]))
	}
	return strings.Join(values, ",")
}

// query returns a result's rows, with | between values.
func (f *fixture) query(ctx context.Context, r *gatewayv1.QueryRequest) (rows []string, last *gatewayv1.QueryResponse, err error) {
	stream, err := f.client.Query(ctx, r)
	require.NoError(f.t, err)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return rows, last, nil
		}
		if err != nil {
			return rows, last, err
		}
		last = m
		rows = append(rows, texts(m.GetRows())...)
	}
}

// must runs a query that must not fail.
func (f *fixture) must(r *gatewayv1.QueryRequest) []string {
	f.t.Helper()
	rows, _, err := f.query(f.t.Context(), r)
	require.NoError(f.t, err)
	return rows
}

func texts(rows []*gatewayv1.Row) (out []string) {
	for _, row := range rows {
		var values []string
		for _, v := range row.GetValues() {
			values = append(values, v.GetText())
		}
		out = append(out, strings.Join(values, "|"))
	}
	return out
}

// settled waits until nothing of the pools is in use, and says what there is.
func (f *fixture) settled() conns.Stats {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		s := f.pools.Stats()["a"]
		return s.Used == 0 && s.Dialing == 0 && s.Open == s.Idle
	}, patience, time.Millisecond)
	return f.pools.Stats()["a"]
}

func requireReason(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	require.Error(t, err)
	f := fault.From(err)
	require.Equal(t, reason, f.Reason, "%v", err)
	require.Equal(t, code, f.Code, "%v", err)
	return f
}

// talk is one call of Transact.
type talk struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[gatewayv1.TransactRequest, gatewayv1.TransactResponse]
	cancel context.CancelFunc
}

// begin opens a transaction.
func (f *fixture) begin(options *gatewayv1.TransactionOptions) *talk {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	f.t.Cleanup(cancel)
	stream, err := f.client.Transact(ctx)
	require.NoError(f.t, err)
	t := &talk{t: f.t, stream: stream, cancel: cancel}
	_, end := t.do(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{Transaction: options, Company: f.named}}})
	require.Equal(f.t, gatewayv1.TransactionStatus_TRANSACTION_STATUS_OPEN, end.GetStatus())
	return t
}

func (t *talk) send(step *gatewayv1.TransactRequest) {
	t.t.Helper()
	require.NoError(t.t, t.stream.Send(step))
}

// answer is that to one step.
func (t *talk) answer() (rows []string, end *gatewayv1.StepEnd, err error) {
	for {
		m, err := t.stream.Recv()
		if err != nil {
			return rows, nil, err
		}
		rows = append(rows, texts(m.GetResult().GetRows())...)
		if m.GetEnd() != nil {
			return rows, m.GetEnd(), nil
		}
	}
}

// do does one step.
func (t *talk) do(step *gatewayv1.TransactRequest) ([]string, *gatewayv1.StepEnd) {
	t.t.Helper()
	t.send(step)
	rows, end, err := t.answer()
	require.NoError(t.t, err)
	return rows, end
}

// run runs a statement that must not fail.
func (t *talk) run(sql string, params ...*gatewayv1.Value) []string {
	t.t.Helper()
	rows, end := t.do(run(sql, params...))
	require.Nil(t.t, end.GetError(), "%v", end)
	require.Equal(t.t, gatewayv1.TransactionStatus_TRANSACTION_STATUS_OPEN, end.GetStatus())
	return rows
}

// fails runs a step that must fail.
func (t *talk) fails(step *gatewayv1.TransactRequest, code codes.Code, reason string, status gatewayv1.TransactionStatus) *gatewayv1.StepError {
	t.t.Helper()
	_, end := t.do(step)
	require.Equal(t.t, reason, end.GetError().GetReason(), "%v", end)
	require.Equal(t.t, code, codes.Code(end.GetError().GetCode()), "%v", end)
	require.Equal(t.t, status, end.GetStatus(), "%v", end)
	return end.GetError()
}

// ended is what the call ends with, nil for OK.
func (t *talk) ended() error {
	for {
		if _, err := t.stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func run(sql string, params ...*gatewayv1.Value) *gatewayv1.TransactRequest {
	return &gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Statement{Statement: &gatewayv1.Statement{Sql: sql, Params: params}}}
}

func savepoint(name string) *gatewayv1.TransactRequest {
	return &gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Savepoint{Savepoint: &gatewayv1.Savepoint{Name: name}}}
}

func rollbackTo(name string) *gatewayv1.TransactRequest {
	return &gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_RollbackTo{RollbackTo: &gatewayv1.RollbackTo{Name: name}}}
}

func release(name string) *gatewayv1.TransactRequest {
	return &gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Release{Release: &gatewayv1.Release{Name: name}}}
}

func commit() *gatewayv1.TransactRequest {
	return &gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Commit{Commit: &gatewayv1.Commit{}}}
}

func rollback() *gatewayv1.TransactRequest {
	return &gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Rollback{Rollback: &gatewayv1.Rollback{}}}
}

func text(v string) *gatewayv1.Value {
	return &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: v}}
}

const (
	open       = gatewayv1.TransactionStatus_TRANSACTION_STATUS_OPEN
	aborted    = gatewayv1.TransactionStatus_TRANSACTION_STATUS_ABORTED
	committed  = gatewayv1.TransactionStatus_TRANSACTION_STATUS_COMMITTED
	rolledBack = gatewayv1.TransactionStatus_TRANSACTION_STATUS_ROLLED_BACK
)

var person = identity.Caller{Kind: identity.User, UserID: uuid.MustParse("11111111-2222-4333-8444-555555555555")}
