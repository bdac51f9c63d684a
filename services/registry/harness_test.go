package registry_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
	"github.com/tenantry/tenantry/services/registry"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const password = "correct horse"

// system is a registry on a database of its own, and callers of every kind.
type system struct {
	t         *testing.T
	dsn       string
	authority *pki.Authority
	key       string
	address   string
	stop      func()
	numbered  atomic.Int32
}

func start(t *testing.T) *system {
	t.Helper()
	s := &system{t: t, dsn: pgtest.Database(t), key: filepath.Join(t.TempDir(), "access.pem")}
	result, err := registry.Migrate(t.Context(), s.dsn)
	require.NoError(t, err)
	require.NotEmpty(t, result.To)
	s.authority, err = pki.Open(t.TempDir())
	require.NoError(t, err)
	signer, err := token.NewSigner()
	require.NoError(t, err)
	text, err := signer.PEM()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.key, text, 0o600))
	s.run()
	_, err = registryv1.NewClusterServiceClient(s.as("operator/ops")).RegisterCluster(t.Context(), &registryv1.RegisterClusterRequest{
		Name: "local", Host: "127.0.0.1", Port: 5432, Tls: registryv1.ClusterTls_CLUSTER_TLS_DISABLE})
	require.NoError(t, err)
	return s
}

// run starts a copy of the registry; the test's end stops it.
func (s *system) run() {
	s.t.Helper()
	files := s.files("service/registry")
	r, err := registry.New(s.t.Context(), registry.Config{TLS: files, DSN: s.dsn, SigningKeys: []string{s.key}, Logger: zaptest.NewLogger(s.t)})
	require.NoError(s.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	s.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, l) }()
	stopped := false
	s.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(s.t, <-done)
		}
	}
	s.t.Cleanup(s.stop)
}

func (s *system) files(name string) rpc.TLS {
	s.t.Helper()
	files, err := s.authority.Issue(name, "127.0.0.1")
	require.NoError(s.t, err)
	return rpc.TLS{CA: s.authority.CA(), Cert: files.Cert, Key: files.Key}
}

// as is a connection with the certificate of that name, or with none.
func (s *system) as(name string) *grpc.ClientConn {
	s.t.Helper()
	files := rpc.TLS{CA: s.authority.CA()}
	if name != "" {
		files = s.files(name)
	}
	files.Peer = "service/registry"
	conn, err := rpc.Dial(s.address, files)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *system) tenants() registryv1.TenantServiceClient {
	return registryv1.NewTenantServiceClient(s.as("service/provisioner"))
}

func (s *system) sessions() registryv1.SessionServiceClient {
	return registryv1.NewSessionServiceClient(s.as(""))
}

// request is a signup that no other in the test is like.
func (s *system) request() *registryv1.ReserveTenantRequest {
	n := s.numbered.Add(1)
	return &registryv1.ReserveTenantRequest{
		RequestId: fmt.Sprintf("request-%d", n), CompanyId: newID(s.t), DatabaseId: newID(s.t),
		Company: &registryv1.CompanyDraft{Name: fmt.Sprintf("Company %d", n)},
		Owner:   &registryv1.OwnerDraft{Name: "Ada", Email: fmt.Sprintf("Ada%d@example.com", n), Password: password},
	}
}

func newID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

// company signs a company up and opens it.
func (s *system) company() *registryv1.Reservation {
	s.t.Helper()
	out, err := s.tenants().ReserveTenant(s.t.Context(), s.request())
	require.NoError(s.t, err)
	_, err = s.tenants().ActivateTenant(s.t.Context(), &registryv1.ActivateTenantRequest{CompanyId: out.GetReservation().GetTenant().GetCompanyId(), SchemaVersion: "1"})
	require.NoError(s.t, err)
	return out.GetReservation()
}

func (s *system) login(email string) *registryv1.LoginResponse {
	s.t.Helper()
	out, err := s.sessions().Login(s.t.Context(), &registryv1.LoginRequest{Email: email, Password: password})
	require.NoError(s.t, err)
	return out
}

// with is a context that carries a bearer's credential.
func (s *system) with(bearer string) context.Context {
	return metadata.AppendToOutgoingContext(s.t.Context(), "authorization", "Bearer "+bearer)
}

func (s *system) query(sql string, args ...any) []string {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.dsn)
	require.NoError(s.t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(s.t.Context(), sql, args...)
	require.NoError(s.t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(s.t, err)
	return out
}

func requireFault(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	require.Error(t, err)
	f := fault.From(err)
	require.Equal(t, reason, f.Reason, "%v", err)
	require.Equal(t, code, f.Code, "%v", err)
	return f
}

// atOnce makes calls whose work on a company waits until all of them do: each began before any of them had an effect.
func (s *system) atOnce(company string, calls ...func() error) []error {
	s.t.Helper()
	return s.queued("SELECT FROM companies WHERE id = $1 FOR UPDATE", company, calls...)
}

// queued is atOnce for what the lock of a statement has wait. The first is the first to have it; if that changes the row, the
// others look for what it is now, and are seldom in another order then.
func (s *system) queued(lock, of string, calls ...func() error) []error {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.dsn)
	require.NoError(s.t, err)
	defer conn.Close(context.Background())
	tx, err := conn.Begin(s.t.Context())
	require.NoError(s.t, err)
	_, err = tx.Exec(s.t.Context(), lock, of)
	require.NoError(s.t, err)
	errs := make([]error, len(calls))
	var group sync.WaitGroup
	for i, call := range calls {
		group.Go(func() { errs[i] = call() })
		require.Eventually(s.t, func() bool {
			return s.query("SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")[0] == strconv.Itoa(i+1)
		}, 10*time.Second, 5*time.Millisecond, "call %d waits for the lock", i)
	}
	require.NoError(s.t, tx.Rollback(s.t.Context()))
	group.Wait()
	return errs
}

// lastAudit is who did what to a company last.
func (s *system) lastAudit(company string) string {
	s.t.Helper()
	return s.query("SELECT concat_ws(' ', actor, action, nullif(subject, '')) FROM audit_events WHERE company_id = $1 ORDER BY id DESC LIMIT 1", company)[0]
}

// audits counts the audit events of a company.
func (s *system) audits(company, action string) int {
	s.t.Helper()
	return len(s.query("SELECT action FROM audit_events WHERE company_id = $1 AND action = $2", company, action))
}
