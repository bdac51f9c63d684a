package provisioner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pgserver"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
	"github.com/tenantry/tenantry/services/provisioner"
	"github.com/tenantry/tenantry/services/registry"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// world is a registry and a provisioner on two clusters, with a small product's migrations.
type world struct {
	t         *testing.T
	dir       string // the product's sets
	authority *pki.Authority
	key       credential.MasterKey
	registry  string
	ownDSN    string
	clusters  map[string]*pgserver.Server
	log       serverLog // of cluster one
	spares    int
	atlas     string // the CLI, for copies that start from now on
	address   string
	jobsUI    string // where the pages about jobs are
	stop      func() // the provisioner
}

// serverLog is what a server writes.
type serverLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count is how often a text is in it.
func (l *serverLog) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, 0)
}

// newWorldWith keeps so many spares.
func newWorldWith(t *testing.T, spares int) *world {
	t.Helper()
	w := &world{t: t, spares: spares, dir: t.TempDir(), key: credential.NewMasterKey(), ownDSN: pgtest.Database(t)}
	w.clusters = map[string]*pgserver.Server{"one": pgtest.NewServer(t, func(c *pgserver.Config) {
		c.Settings, c.Log = map[string]string{"log_statement": "ddl"}, &w.log
	}), "two": pgtest.NewServer(t)}
	w.write("core/00000001_a.up.sql", "CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);")
	w.write("core/00000002_b.up.sql", "CREATE TABLE company (name text, owner text);")
	w.write("plugins/calin-meter/00000001_p.up.sql", "CREATE TABLE calin (id int);")
	w.write("seed.sql", "INSERT INTO company (name, owner) SELECT @company_name, @owner_email WHERE NOT EXISTS (SELECT FROM company);")
	var err error
	w.authority, err = pki.Open(t.TempDir())
	require.NoError(t, err)
	w.startRegistry()
	clusters := registryv1.NewClusterServiceClient(w.dial(w.registry, "operator/ops"))
	for name, s := range w.clusters {
		_, err = clusters.RegisterCluster(t.Context(), &registryv1.RegisterClusterRequest{Name: name, Host: "127.0.0.1", Port: int32(s.Port()), Tls: registryv1.ClusterTls_CLUSTER_TLS_DISABLE})
		require.NoError(t, err)
	}
	_, err = provisioner.Migrate(t.Context(), w.ownDSN)
	require.NoError(t, err)
	w.startProvisioner()
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(w.t, os.WriteFile(path, []byte(text), 0o600))
}

func (w *world) files(name string) rpc.TLS {
	w.t.Helper()
	files, err := w.authority.Issue(name, "127.0.0.1")
	require.NoError(w.t, err)
	return rpc.TLS{CA: w.authority.CA(), Cert: files.Cert, Key: files.Key}
}

func (w *world) dial(address, name string) *grpc.ClientConn {
	w.t.Helper()
	conn, err := rpc.Dial(address, w.files(name))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// run runs a service until the test's end, or until it is stopped.
func (w *world) run(f func(context.Context, net.Listener) error) (address string, stop func()) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx, l) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(w.t, <-done)
		}
	}
	w.t.Cleanup(stop)
	return l.Addr().String(), stop
}

func (w *world) startRegistry() {
	dsn, key := pgtest.Database(w.t), filepath.Join(w.t.TempDir(), "access.pem")
	signer, err := token.NewSigner()
	require.NoError(w.t, err)
	text, err := signer.PEM()
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(key, text, 0o600))
	_, err = registry.Migrate(w.t.Context(), dsn)
	require.NoError(w.t, err)
	r, err := registry.New(w.t.Context(), registry.Config{TLS: w.files("service/registry"), DSN: dsn, SigningKeys: []string{key}, Logger: zaptest.NewLogger(w.t)})
	require.NoError(w.t, err)
	w.registry, _ = w.run(r.Run)
}

func (w *world) startProvisioner() {
	w.t.Helper()
	dsns := map[string]string{}
	for name, s := range w.clusters {
		dsns[name] = s.DSN("postgres")
	}
	ui, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	w.jobsUI = ui.Addr().String()
	p, err := provisioner.New(w.t.Context(), provisioner.Config{TLS: w.files("service/provisioner"), DSN: w.ownDSN, Registry: w.registry, Clusters: dsns,
		MasterKey: w.key, Migrations: w.dir, Atlas: w.atlas, Spares: w.spares, Instance: "test", JobsUI: ui, Logger: zaptest.NewLogger(w.t)})
	require.NoError(w.t, err)
	w.address, w.stop = w.run(p.Run)
}

func (w *world) tenants() provisionerv1.ProvisionerServiceClient {
	return provisionerv1.NewProvisionerServiceClient(w.dial(w.address, "operator/ops"))
}

func (w *world) rollouts() provisionerv1.RolloutServiceClient {
	return provisionerv1.NewRolloutServiceClient(w.dial(w.address, "operator/ops"))
}

func (w *world) fleet() provisionerv1.FleetServiceClient {
	return provisionerv1.NewFleetServiceClient(w.dial(w.address, "operator/ops"))
}

func (w *world) company(slug string) *registryv1.Company {
	w.t.Helper()
	out, err := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops")).GetCompany(w.t.Context(), &registryv1.GetCompanyRequest{Company: slug})
	require.NoError(w.t, err)
	return out.GetCompany()
}

// own runs SQL in the provisioner's own database and returns the first column.
func (w *world) own(sql string) []string {
	w.t.Helper()
	return query(w.t, w.ownDSN, sql)
}

// servers returns the first column of SQL over all clusters.
func (w *world) servers(sql string) (out []string) {
	w.t.Helper()
	for _, s := range w.clusters {
		out = append(out, query(w.t, s.DSN("postgres"), sql)...)
	}
	return out
}

func query(t *testing.T, dsn, sql string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return out
}

func signup(n int) *provisionerv1.CreateTenantRequest {
	return &provisionerv1.CreateTenantRequest{RequestId: uuid.NewString(), Company: &registryv1.CompanyDraft{Name: fmt.Sprintf("Company %d", n), Slug: fmt.Sprintf("c%d", n)},
		Owner: &registryv1.OwnerDraft{Name: "O", Email: fmt.Sprintf("o%d@example.com", n)}}
}

// signUp makes n companies, c1 to cn.
func (w *world) signUp(n int) {
	w.t.Helper()
	for i := range n {
		_, err := w.tenants().CreateTenant(w.t.Context(), signup(i+1))
		require.NoError(w.t, err)
	}
}

// database runs SQL in a company's database as the administrator and returns the first column.
func (w *world) database(slug, sql string) []string {
	w.t.Helper()
	status, err := w.tenants().GetTenantStatus(w.t.Context(), &provisionerv1.GetTenantStatusRequest{Company: slug})
	require.NoError(w.t, err)
	return query(w.t, w.clusters[status.GetCluster()].DSN(status.GetDatabase()), sql)
}

// finish watches a rollout to its end and returns it with the results that came.
func (w *world) finish(id string) (*provisionerv1.Rollout, map[string]*provisionerv1.TenantResult) {
	w.t.Helper()
	results := map[string]*provisionerv1.TenantResult{}
	stream, err := w.rollouts().WatchRollout(w.t.Context(), &provisionerv1.WatchRolloutRequest{RolloutId: id})
	require.NoError(w.t, err)
	var last *provisionerv1.Rollout
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, results
		}
		require.NoError(w.t, err)
		last = m.GetRollout()
		for _, r := range m.GetResults() {
			require.NotContains(w.t, results, r.GetSlug(), "a result is told once")
			results[r.GetSlug()] = r
		}
	}
}

func requireFault(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	require.Error(t, err)
	f := fault.From(err)
	require.Equal(t, reason, f.Reason, "%v", err)
	require.Equal(t, code, f.Code, "%v", err)
	return f
}
