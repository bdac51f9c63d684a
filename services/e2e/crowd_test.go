package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// crowd are signups of which one in three is a repeat of the one before.
func crowd(n int) []*provisionerv1.CreateTenantRequest {
	var out []*provisionerv1.CreateTenantRequest
	for i := range n {
		if i%3 == 2 {
			out = append(out, out[i-1])
			continue
		}
		out = append(out, &provisionerv1.CreateTenantRequest{
			RequestId: uuid.NewString(),
			Company:   &registryv1.CompanyDraft{Name: "The crowd"}, // All of one name: their slugs have to differ.
			Owner:     &registryv1.OwnerDraft{Name: "Owner", Email: fmt.Sprintf("owner%d@crowd.example", i), Password: password},
			Plugins:   []string{"calin-meter"},
		})
	}
	return out
}

// callers makes all signups from eight goroutines at once, each until it has an answer that is not "later".
func callers(t *testing.T, requests []*provisionerv1.CreateTenantRequest, call func(context.Context, *provisionerv1.CreateTenantRequest) (*provisionerv1.CreateTenantResponse, error)) []*provisionerv1.CreateTenantResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	next := make(chan int, len(requests))
	for i := range requests {
		next <- i
	}
	close(next)
	answers, errs := make([]*provisionerv1.CreateTenantResponse, len(requests)), make([]error, len(requests))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range next {
				for {
					answers[i], errs[i] = call(ctx, requests[i])
					if errs[i] == nil || !fault.Retryable(errs[i]) || ctx.Err() != nil {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
			}
		})
	}
	group.Wait()
	for i, err := range errs {
		require.NoError(t, err, "signup %d", i)
	}
	return answers
}

// requireWhole requires that there are as many databases as companies, each whole, open, and with its owner.
func (s *system) requireWhole(requests []*provisionerv1.CreateTenantRequest, answers []*provisionerv1.CreateTenantResponse, sample int) {
	t := s.t
	byRequest, companies := map[string]string{}, map[string]*provisionerv1.CreateTenantRequest{}
	for i, a := range answers {
		if id, ok := byRequest[requests[i].GetRequestId()]; ok {
			require.Equal(t, id, a.GetCompanyId(), "one request is one company")
		}
		byRequest[requests[i].GetRequestId()] = a.GetCompanyId()
		companies[a.GetCompanyId()] = requests[i]
	}
	require.Len(t, companies, len(byRequest))
	s.requireNoOrphans()
	databases := s.companyDatabases()
	require.Len(t, databases, len(companies))

	cli, err := atlascli.New(atlasCLI())
	require.NoError(t, err)
	for i, database := range databases {
		conn := s.asAdmin(database)
		require.GreaterOrEqual(t, len(column(t, conn, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")), 60)
		require.Len(t, column(t, conn, "SELECT email FROM users"), 1)
		require.NoError(t, conn.Close(context.Background()))
		if i%max(1, len(databases)/sample) == 0 {
			status, err := cli.Status(t.Context(), s.databaseDSN(database), coreDirectory, "")
			require.NoError(t, err)
			require.True(t, status.OK, "%s: %+v", database, status)
		}
	}
	sessions := registryv1.NewSessionServiceClient(s.dial("TENANTRY_GATEWAY", asNobody))
	for id, q := range companies {
		got, err := sessions.Login(t.Context(), &registryv1.LoginRequest{Email: q.GetOwner().GetEmail(), Password: password})
		require.NoError(t, err)
		require.Equal(t, id, got.GetCompanyId())
	}
	left := s.connect(s.env["TENANTRY_PROVISIONER_DSN"])
	require.Empty(t, column(t, left, "SELECT request_id FROM attempts"), "no attempt is left")
}

// companyDatabases are the names of the databases of all companies that are not deleted.
func (s *system) companyDatabases() []string {
	s.t.Helper()
	return s.read(s.env["TENANTRY_REGISTRY_DSN"], `SELECT 'tenant_' || replace(d.id::text, '-', '')
		FROM tenant_databases d JOIN companies c ON c.id = d.company_id WHERE c.state <> 'DELETED'`)
}

// requireNoOrphans requires that before long each database and each role on the server is a company's, or a spare, and
// that each of these has both. What a killed provisioner left is the janitor's to drop, whose next pass is within a minute.
func (s *system) requireNoOrphans() {
	t := s.t
	t.Helper()
	admin, own := s.asAdmin("postgres"), s.connect(s.env["TENANTRY_PROVISIONER_DSN"])
	var databases, roles, known []string
	deadline := time.Now().Add(patience)
	for {
		// Nothing is on its way: then what is on the server has to be what is recorded.
		busy := column(t, own, `SELECT request_id FROM attempts UNION ALL SELECT id::text FROM spares WHERE NOT ready UNION ALL
			SELECT database_id::text FROM condemned WHERE drop_after < now() + interval '1 hour'`)
		known = append(s.companyDatabases(), column(t, own, "SELECT 'tenant_' || replace(id::text, '-', '') FROM spares")...)
		databases = column(t, admin, `SELECT datname::text FROM pg_database WHERE datname LIKE 'tenant\_%'`)
		roles = column(t, admin, `SELECT rolname::text FROM pg_roles WHERE rolname ~ '^tenant_[0-9a-f]{32}$'`)
		slices.Sort(known)
		slices.Sort(databases)
		slices.Sort(roles)
		if len(busy) == 0 && slices.Equal(databases, known) && slices.Equal(roles, known) || time.Now().After(deadline) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	require.Equal(t, known, databases)
	require.Equal(t, known, roles)
}

// coreDirectory is the core set in the working tree.
const coreDirectory = "../provisioner/migrations/core"

// databaseDSN is the administrator's, of a database.
func (s *system) databaseDSN(database string) string {
	return strings.Replace(s.env["TENANTRY_ADMIN_DSN"], "/postgres?", "/"+database+"?", 1)
}

func (s *system) asAdmin(database string) *pgx.Conn {
	return s.connect(s.databaseDSN(database))
}

func (s *system) connect(dsn string) *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), dsn)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// read returns the first column of a query on a connection of its own.
func (s *system) read(dsn, sql string) []string {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), dsn)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, conn.Close(context.Background())) }()
	return column(s.t, conn, sql)
}

// inDatabase returns the first column of a query in a database, as the administrator.
func (s *system) inDatabase(database, sql string) []string {
	s.t.Helper()
	return s.read(s.databaseDSN(database), sql)
}

func column(t testing.TB, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return out
}

func TestAHundredSignupsByEightAtOnceAreAsManyDatabasesAsCompanies(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "--spares", "4")
	client := provisionerv1.NewProvisionerServiceClient(s.dial("TENANTRY_PROVISIONER", asSignup))
	requests := crowd(100)
	answers := callers(t, requests, func(ctx context.Context, q *provisionerv1.CreateTenantRequest) (*provisionerv1.CreateTenantResponse, error) {
		return client.CreateTenant(ctx, q)
	})
	s.requireWhole(requests, answers, 20)
}

// secondProvisioner runs another copy of the provisioner, in a process of its own to kill.
type secondProvisioner struct {
	*process
	conn *grpc.ClientConn
}

func (s *system) provisioner() *secondProvisioner {
	s.t.Helper()
	dsn := filepath.Join(s.t.TempDir(), "admin.dsn")
	require.NoError(s.t, os.WriteFile(dsn, []byte(s.env["TENANTRY_ADMIN_DSN"]), 0o600))
	address := freeAddress(s.t)
	certificates := filepath.Dir(s.env["TENANTRY_CA"])
	p := startProcess(s.t, []string{"TENANTRY_PROVISIONER_DSN=" + s.env["TENANTRY_PROVISIONER_DSN"]}, "provisioner", "--listen", address,
		"--registry", s.env["TENANTRY_REGISTRY"], "--cluster", "local="+dsn, "--master-key", filepath.Join(s.dir, "keys", "master.hex"),
		"--tls-ca", s.env["TENANTRY_CA"], "--tls-cert", filepath.Join(certificates, "provisioner.pem"), "--tls-key", filepath.Join(certificates, "provisioner-key.pem"),
		"--instance", "second")
	conn, err := rpc.Dial(address, rpc.TLS{CA: s.env["TENANTRY_CA"], Cert: s.env[asSignup+"_CERT"], Key: s.env[asSignup+"_KEY"]})
	require.NoError(s.t, err)
	return &secondProvisioner{p, conn}
}

func TestAProvisionerThatIsKilledAgainAndAgainLosesNoSignup(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "--spares", "4")
	var mu sync.Mutex
	current := s.provisioner()
	stop := make(chan struct{})
	var killer sync.WaitGroup
	const enough = 15
	kills := 0
	killer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(300*time.Millisecond + rand.N(1200*time.Millisecond)):
			}
			if kills == enough {
				continue // On a slow machine it would be killed for as long as it comes to nothing because of that.
			}
			mu.Lock()
			current.kill()
			<-current.done
			_ = current.conn.Close()
			current = s.provisioner()
			kills++
			mu.Unlock()
		}
	})
	requests := crowd(30)
	answers := callers(t, requests, func(ctx context.Context, q *provisionerv1.CreateTenantRequest) (*provisionerv1.CreateTenantResponse, error) {
		mu.Lock()
		conn := current.conn
		mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		got, err := provisionerv1.NewProvisionerServiceClient(conn).CreateTenant(ctx, q)
		if fault.HasReason(err, fault.Cancelled) || fault.HasReason(err, fault.DeadlineExceeded) {
			err = fault.New(codes.Unavailable, fault.Unavailable, "cut off") // The connection was closed under the call.
		}
		return got, err
	})
	close(stop)
	killer.Wait()
	require.GreaterOrEqual(t, kills, 3, "the test has to kill to mean something")
	t.Logf("%d kills", kills)
	// What the last one left is taken over within seconds.
	left := s.connect(s.env["TENANTRY_PROVISIONER_DSN"])
	require.Eventually(t, func() bool { return len(column(t, left, "SELECT request_id FROM attempts")) == 0 }, patience, 100*time.Millisecond)
	s.requireWhole(requests, answers, 5)
	current.terminate()
	require.Zero(t, current.wait(t), current.output())
	require.NoError(t, current.conn.Close())
}

func TestASignupThatCannotBeMadeLeavesNothingAndFreesItsNames(t *testing.T) {
	t.Parallel()
	sets := newDirectory(t)
	require.NoError(t, os.MkdirAll(filepath.Join(sets, "core"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(sets, "core", "0001_a.up.sql"), []byte("CREATE TABLE a (id int);"), 0o644))
	seed := filepath.Join(sets, "seed.sql")
	require.NoError(t, os.WriteFile(seed, []byte("INSERT INTO a SELECT 1 / (length(@company_name) - 3);"), 0o644))
	s := newSystem(t, "--migrations", sets)
	client := provisionerv1.NewProvisionerServiceClient(s.dial("TENANTRY_PROVISIONER", asSignup))
	q := &provisionerv1.CreateTenantRequest{RequestId: uuid.NewString(), Company: &registryv1.CompanyDraft{Name: "Bad", Slug: "taken"},
		Owner: &registryv1.OwnerDraft{Name: "Owner", Email: "owner@taken.example"}}
	for range 2 {
		_, err := client.CreateTenant(t.Context(), q)
		require.True(t, fault.HasReason(err, fault.SeedFailed), "%v", err)
		require.Equal(t, "22012", fault.From(err).Metadata["sqlstate"])
		admin := s.asAdmin("postgres")
		require.Empty(t, column(t, admin, `SELECT datname::text FROM pg_database WHERE datname LIKE 'tenant\_%' UNION SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenant\_0%'`))
	}
	q = &provisionerv1.CreateTenantRequest{RequestId: uuid.NewString(), Company: &registryv1.CompanyDraft{Name: "Good", Slug: "taken"}, Owner: q.GetOwner()}
	got, err := client.CreateTenant(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, "taken", got.GetSlug())
	other := &provisionerv1.CreateTenantRequest{RequestId: q.GetRequestId(), Company: &registryv1.CompanyDraft{Name: "Other"}, Owner: q.GetOwner()}
	_, err = client.CreateTenant(t.Context(), other)
	require.True(t, fault.HasReason(err, fault.RequestIDReused), "%v", err)
}
