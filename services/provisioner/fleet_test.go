package provisioner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

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
	address   string
	stop      func() // the provisioner
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), key: credential.NewMasterKey(), ownDSN: pgtest.Database(t),
		clusters: map[string]*pgserver.Server{"one": pgtest.NewServer(t), "two": pgtest.NewServer(t)}}
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
	p, err := provisioner.New(w.t.Context(), provisioner.Config{TLS: w.files("service/provisioner"), DSN: w.ownDSN, Registry: w.registry, Clusters: dsns,
		MasterKey: w.key, Migrations: w.dir, Instance: "test", Logger: zaptest.NewLogger(w.t)})
	require.NoError(w.t, err)
	w.address, w.stop = w.run(p.Run)
}

func (w *world) tenants() provisionerv1.ProvisionerServiceClient {
	return provisionerv1.NewProvisionerServiceClient(w.dial(w.address, "operator/ops"))
}

func (w *world) rollouts() provisionerv1.RolloutServiceClient {
	return provisionerv1.NewRolloutServiceClient(w.dial(w.address, "operator/ops"))
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
	conn, err := pgx.Connect(w.t.Context(), w.clusters[status.GetCluster()].DSN(status.GetDatabase()))
	require.NoError(w.t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(w.t.Context(), sql)
	require.NoError(w.t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err)
	return out
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

func TestARolloutBringsEveryTenantOfEveryClusterAndTheOneThatFailsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(8)
	require.Equal(t, []string{"Company 3"}, w.database("c3", "SELECT name FROM company"))
	w.database("c5", "CREATE TABLE more (x int)")
	_, err := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops")).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: "c2", Reason: "unpaid"})
	require.NoError(t, err)
	w.write("core/00000003_c.up.sql", "ALTER TABLE things ADD color text;")
	w.write("core/00000004_d.up.sql", "SELECT 1; CREATE TABLE more (id int);")
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{RequestId: "r", Concurrency: 3})
	require.NoError(t, err)
	again, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{RequestId: "r", Concurrency: 3})
	require.NoError(t, err)
	require.Equal(t, started.GetRollout().GetRolloutId(), again.GetRollout().GetRolloutId())
	last, _ := w.finish(started.GetRollout().GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_FAILED, last.GetState())
	require.EqualValues(t, 8, last.GetTotal())
	require.EqualValues(t, 7, last.GetSucceeded())
	require.EqualValues(t, 1, last.GetFailed())
	require.Equal(t, "operator/ops", last.GetActor())

	var results []*provisionerv1.TenantResult
	for token := ""; ; {
		page, err := w.rollouts().ListRolloutResults(t.Context(), &provisionerv1.ListRolloutResultsRequest{RolloutId: last.GetRolloutId(), PageSize: 3, PageToken: token})
		require.NoError(t, err)
		results = append(results, page.GetResults()...)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Len(t, results, 8)
	clusters := map[string]int{}
	for _, r := range results {
		clusters[r.GetCluster()]++
		require.Equal(t, "00000002", r.GetFromVersion())
		if r.GetSlug() != "c5" {
			require.Equal(t, "00000004", r.GetToVersion())
			require.EqualValues(t, 2, r.GetFiles())
			continue
		}
		require.Equal(t, "00000003", r.GetToVersion())
		require.Equal(t, "MIGRATION_FAILED core 00000004_d.sql CREATE TABLE more (id int); 42P07", fmt.Sprintf("%s %s %s %s %s", r.GetError().GetReason(), r.GetError().GetSet(),
			r.GetError().GetFile(), r.GetError().GetStatement(), r.GetError().GetSqlstate()))
	}
	require.Equal(t, map[string]int{"one": 4, "two": 4}, clusters)
	failed, err := w.rollouts().ListRolloutResults(t.Context(), &provisionerv1.ListRolloutResultsRequest{RolloutId: last.GetRolloutId(), States: []provisionerv1.TenantResultState{provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED}})
	require.NoError(t, err)
	require.Len(t, failed.GetResults(), 1)

	newborn, err := w.tenants().CreateTenant(t.Context(), signup(9))
	require.NoError(t, err)
	require.Equal(t, "00000004", newborn.GetSchemaVersion(), "new companies are born on the release")
	w.database("c5", "DROP TABLE more")
	started, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	require.NoError(t, err)
	last, _ = w.finish(started.GetRollout().GetRolloutId())
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.EqualValues(t, 9, last.GetSucceeded())
	status, err := w.tenants().GetTenantStatus(t.Context(), &provisionerv1.GetTenantStatusRequest{Company: "c5"})
	require.NoError(t, err)
	require.Equal(t, "00000004", status.GetSchemaVersion())
	require.Equal(t, provisionerv1.TenantResultState_TENANT_RESULT_STATE_SUCCEEDED, status.GetLastResult().GetState())
	list, err := w.rollouts().ListRollouts(t.Context(), &provisionerv1.ListRolloutsRequest{PageSize: 1})
	require.NoError(t, err)
	require.Equal(t, last.GetRolloutId(), list.GetRollouts()[0].GetRolloutId())
	require.NotEmpty(t, list.GetNextPageToken())
}

func TestARolloutOutlivesTheCopyThatBeganIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(6)
	w.write("core/00000003_c.up.sql", "SELECT pg_sleep(0.7); CREATE TABLE slow (id int);")
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Concurrency: 1})
	require.NoError(t, err)
	id := started.GetRollout().GetRolloutId()
	same, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Concurrency: 1})
	require.NoError(t, err)
	require.Equal(t, id, same.GetRollout().GetRolloutId(), "started twice, it is one")
	_, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: &provisionerv1.Selector{Cluster: "one"}})
	requireFault(t, err, codes.FailedPrecondition, fault.RolloutRunning)
	require.Eventually(t, func() bool {
		got, err := w.rollouts().GetRollout(t.Context(), &provisionerv1.GetRolloutRequest{RolloutId: id})
		return err == nil && got.GetRollout().GetSucceeded() >= 1
	}, time.Minute, 20*time.Millisecond)
	w.stop()
	w.startProvisioner()
	last, _ := w.finish(id)
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, last.GetState())
	require.EqualValues(t, 6, last.GetSucceeded())
	for i := range 6 {
		require.Equal(t, []string{"3"}, w.database(fmt.Sprintf("c%d", i+1), "SELECT count(*)::text FROM atlas_schema_revisions.atlas_schema_revisions"))
	}
}

func TestWhatWasReleasedMustNotChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(1)
	w.write("core/00000001_a.up.sql", "CREATE TABLE things (id int);")
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	_, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{})
	require.Equal(t, "00000001_a.sql", requireFault(t, err, codes.FailedPrecondition, fault.ChecksumMismatch).Metadata["file"])
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1", Force: true})
	requireFault(t, err, codes.FailedPrecondition, fault.ChecksumMismatch)
	require.Equal(t, []string{"2"}, w.database("c1", "SELECT count(*)::text FROM atlas_schema_revisions.atlas_schema_revisions"))
	list, err := w.rollouts().ListRollouts(t.Context(), &provisionerv1.ListRolloutsRequest{})
	require.NoError(t, err)
	require.Empty(t, list.GetRollouts())
}

func TestOneTenantIsMigratedAsFarAsIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := signup(1)
	q.Plugins = []string{"calin-meter"}
	_, err := w.tenants().CreateTenant(t.Context(), q)
	require.NoError(t, err)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	w.write("core/00000004_d.up.sql", "CREATE TABLE most (id int);")
	w.write("plugins/calin-meter/00000002_p.up.sql", "ALTER TABLE calin ADD token text;")
	migrate := func(r *provisionerv1.MigrateTenantRequest) *provisionerv1.MigrateTenantResponse {
		r.Company = "c1"
		got, err := w.tenants().MigrateTenant(t.Context(), r)
		require.NoError(t, err)
		return got
	}
	dry := migrate(&provisionerv1.MigrateTenantRequest{DryRun: true})
	require.Len(t, dry.GetPending(), 3)
	require.Empty(t, dry.GetApplied())
	require.Equal(t, "00000004", dry.GetToVersion())
	part := migrate(&provisionerv1.MigrateTenantRequest{ToVersion: "00000003"})
	require.Equal(t, "00000003", part.GetToVersion())
	require.Len(t, part.GetApplied(), 1)
	require.Len(t, part.GetPending(), 1)
	rest := migrate(&provisionerv1.MigrateTenantRequest{})
	require.Len(t, rest.GetApplied(), 2)
	require.Equal(t, "plugins/calin-meter", rest.GetApplied()[1].GetSet())
	require.Len(t, rest.GetWarnings(), 1, "others are still behind, and new ones will be")
	require.Empty(t, migrate(&provisionerv1.MigrateTenantRequest{}).GetApplied())
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "c1", ToVersion: "00000009"})
	requireFault(t, err, codes.NotFound, fault.VersionNotFound)
	_, err = w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: "nobody"})
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
	company, err := registryv1.NewCompanyServiceClient(w.dial(w.registry, "operator/ops")).GetCompany(t.Context(), &registryv1.GetCompanyRequest{Company: "c1"})
	require.NoError(t, err)
	require.Equal(t, "00000004", company.GetCompany().GetSchemaVersion(), "the registry was told")
	_, err = w.tenants().CheckDrift(t.Context(), &provisionerv1.CheckDriftRequest{Company: "c1"})
	requireFault(t, err, codes.Unimplemented, fault.NotImplemented)
}

func TestASelectionIsAllThatIsMigratedAndDoesNotChangeWhatIsBorn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(4)
	w.write("core/00000003_c.up.sql", "CREATE TABLE more (id int);")
	one := &provisionerv1.Selector{Companies: []string{"c2"}}
	started, err := w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: one, LockTimeout: durationpb.New(time.Second)})
	require.NoError(t, err)
	last, _ := w.finish(started.GetRollout().GetRolloutId())
	require.EqualValues(t, 1, last.GetSucceeded())
	born, err := w.tenants().CreateTenant(t.Context(), signup(5))
	require.NoError(t, err)
	require.Equal(t, "00000002", born.GetSchemaVersion())
	started, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: &provisionerv1.Selector{Cluster: "two"}})
	require.NoError(t, err)
	last, _ = w.finish(started.GetRollout().GetRolloutId())
	require.Less(t, last.GetSucceeded(), int32(5))
	for _, bad := range []*provisionerv1.Selector{{Cluster: "nowhere"}, {Companies: []string{"nobody"}}} {
		_, err = w.rollouts().StartRollout(t.Context(), &provisionerv1.StartRolloutRequest{Selector: bad})
		require.Equal(t, codes.NotFound, fault.From(err).Code)
	}
	_, err = w.rollouts().GetRollout(t.Context(), &provisionerv1.GetRolloutRequest{RolloutId: uuid.NewString()})
	requireFault(t, err, codes.NotFound, fault.RolloutNotFound)
}
