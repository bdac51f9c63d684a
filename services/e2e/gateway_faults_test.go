package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// everything starts the services apart, with a budget of server connections, and as many gateways as there are variables
// that say where they answer.
func (a *apart) everything(budget int, gateways ...string) (registry *process) {
	a.t.Helper()
	registry = a.serve("TENANTRY_REGISTRY", "registry", a.registryArgs...)
	host, port := splitAddress(a.t, a.env["TENANTRY_ADMIN_DSN"])
	ok(a.t, a.tenantry("cluster", "register", "main", "--host", host, "--port", port, "--tls", "disable", "--connection-budget", strconv.Itoa(budget)))
	admin := filepath.Join(a.keys, "admin.dsn")
	require.NoError(a.t, os.WriteFile(admin, []byte(a.env["TENANTRY_ADMIN_DSN"]), 0o600))
	a.serve("TENANTRY_PROVISIONER", "provisioner", "provisioner", "--cluster", "main="+admin, "--master-key", filepath.Join(a.keys, "master.hex"), "--spares", "0")
	for _, variable := range gateways {
		a.gateway(variable)
	}
	return registry
}

// gateway starts one, named as the variable that says where it answers.
func (a *apart) gateway(variable string) *process {
	a.t.Helper()
	return a.serve(variable, "gateway", "gateway", "--master-key", filepath.Join(a.keys, "master.hex"), "--signing-key", filepath.Join(a.keys, "assertion.pem"), "--instance", variable)
}

// customer is a company with what its callers show, and what only its own database says of itself.
type customer struct {
	company
	ctx      context.Context
	database string
}

// customers signs some companies up and logs their owners in.
func (a *apart) customers(n int) []customer {
	a.t.Helper()
	out := make([]customer, n)
	var group sync.WaitGroup
	for i := range out {
		group.Go(func() {
			c := a.signUp("company-" + strconv.Itoa(i))
			out[i] = customer{company: c, ctx: a.logIn(c)}
		})
	}
	group.Wait()
	require.False(a.t, a.t.Failed(), "the customers have to be there")
	central := a.connect(a.env["TENANTRY_REGISTRY_DSN"])
	for i := range out {
		require.NoError(a.t, central.QueryRow(a.t.Context(), "SELECT 'tenant_' || replace(id::text, '-', '') FROM tenant_databases WHERE company_id = $1", out[i].id).Scan(&out[i].database))
	}
	return out
}

// attempt is one call that did not answer as it should.
type attempt struct {
	ended time.Time
	err   error
}

// errWrong says that a call answered with what is another company's.
var errWrong = errors.New("another's answer")

// traffic are callers who call again and again, and what became of it.
type traffic struct {
	stop     context.CancelFunc
	group    sync.WaitGroup
	answered atomic.Int64

	mu     sync.Mutex
	failed []attempt
}

// load starts callers for each of some customers, through one gateway.
func (a *apart) load(gateway string, callers int, customers ...customer) *traffic {
	a.t.Helper()
	return a.loadOf(gateway, callers, customer.reads, customers...)
}

// loadOf is load of other calls.
func (a *apart) loadOf(gateway string, callers int, call func(customer, gatewayv1.SqlServiceClient) error, customers ...customer) *traffic {
	a.t.Helper()
	ctx, stop := context.WithCancel(a.t.Context())
	l := &traffic{stop: stop}
	client := gatewayv1.NewSqlServiceClient(a.dial(gateway, asNobody))
	for _, c := range customers {
		for range callers {
			l.group.Go(func() {
				for ctx.Err() == nil {
					l.note(ctx, func() error { return call(c, client) })
				}
			})
		}
	}
	a.t.Cleanup(l.end)
	return l
}

// pause is how long a caller waits between two calls. Without, callers keep the processors from what is tested, and from
// the tests beside.
const pause = 20 * time.Millisecond

// note makes a call and keeps what is wrong with its answer.
func (l *traffic) note(ctx context.Context, call func() error) {
	err := call()
	switch {
	case err == nil:
		l.answered.Add(1)
		time.Sleep(pause)
	case ctx.Err() == nil:
		l.mu.Lock()
		l.failed = append(l.failed, attempt{time.Now(), err})
		l.mu.Unlock()
		time.Sleep(pause)
	}
}

// reads makes a call that must answer with what is this customer's alone: its owner and the name of its database.
func (c customer) reads(client gatewayv1.SqlServiceClient) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	got, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: "SELECT email, current_database() FROM users"})
	if err != nil {
		return err
	}
	if len(got.rows) != 1 || got.rows[0].GetValues()[0].GetText() != c.owner || got.rows[0].GetValues()[1].GetText() != c.database {
		return fmt.Errorf("%w: %s got %v", errWrong, c.slug, got.rows)
	}
	return nil
}

// lingers keeps a connection for a tenth of a second.
func (c customer) lingers(client gatewayv1.SqlServiceClient) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	_, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: "SELECT pg_sleep(0.1)"})
	return err
}

// end stops the callers and waits for them.
func (l *traffic) end() {
	l.stop()
	l.group.Wait()
}

// answers waits until some more calls are answered.
func (l *traffic) answers(t testing.TB, more int64) {
	t.Helper()
	want := l.answered.Load() + more
	require.Eventually(t, func() bool { return l.answered.Load() >= want }, patience, time.Millisecond)
}

// failures are the calls that failed until now.
func (l *traffic) failures() []attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]attempt(nil), l.failed...)
}

func (l *traffic) requireNone(t testing.TB, why string) {
	t.Helper()
	failed := l.failures()
	if len(failed) > 0 {
		require.Failf(t, why, "%d of %d calls failed, the first: %v", len(failed), l.answered.Load()+int64(len(failed)), failed[0].err)
	}
}

func TestNoCallFailsWhileTheRegistryIsAway(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	registry := a.everything(50, "TENANTRY_GATEWAY")
	known := a.customers(6)
	calls := a.load("TENANTRY_GATEWAY", 2, known[1:]...)
	calls.answers(t, 100)

	registry.kill()
	registry.wait(t)
	time.Sleep(time.Minute)
	calls.answers(t, 100)
	calls.requireNone(t, "the registry is away, and nobody needs it")
	routesAge := func() (age int) {
		var header metadata.MD
		_, err := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody)).Execute(known[1].ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"}, grpc.Header(&header))
		require.NoError(t, err)
		for _, ms := range header.Get("tenantry-routes-age") {
			age, err = strconv.Atoi(ms)
			require.NoError(t, err)
		}
		return age
	}
	require.GreaterOrEqual(t, routesAge(), 55_000, "callers are told")
	client := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))
	sessions := registryv1.NewSessionServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))
	logIn := func() error {
		_, err := sessions.Login(t.Context(), &registryv1.LoginRequest{Email: known[0].owner, Password: password})
		return err
	}
	requireReason(t, logIn(), codes.Unavailable, fault.Unavailable)

	a.serve("TENANTRY_REGISTRY", "registry", a.registryArgs...)
	require.Eventually(t, func() bool { return logIn() == nil }, 10*time.Second, 50*time.Millisecond, "logins go on")
	require.NoError(t, known[0].reads(client))
	_, err := registryv1.NewCompanyServiceClient(a.dial("TENANTRY_REGISTRY", asOperator)).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: known[0].slug, Reason: "x"})
	require.NoError(t, err)
	ends(t, func() error { return known[0].reads(client) }, fault.CompanySuspended)
	calls.answers(t, 100)
	calls.end()
	calls.requireNone(t, "the registry is back")
	require.Zero(t, routesAge(), "there is nothing to tell")
}

func TestASuspendedCompanyIsRefusedByEveryGatewayWithinASecond(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	gateways := []string{"TENANTRY_GATEWAY", "TENANTRY_SECOND_GATEWAY"}
	a.everything(50, gateways...)
	both := a.customers(2)
	bad, good := both[0], both[1]
	companies := registryv1.NewCompanyServiceClient(a.dial("TENANTRY_REGISTRY", asOperator))
	var others []*traffic
	var clients []gatewayv1.SqlServiceClient
	for _, g := range gateways {
		others = append(others, a.load(g, 2, good))
		clients = append(clients, gatewayv1.NewSqlServiceClient(a.dial(g, asNobody)))
	}
	for range 3 {
		for _, client := range clients {
			require.Eventually(t, func() bool { return bad.reads(client) == nil }, 10*time.Second, 5*time.Millisecond)
		}
		_, err := companies.SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: bad.slug, Reason: "unpaid"})
		require.NoError(t, err)
		suspended := time.Now()
		var group sync.WaitGroup
		last := make([]time.Duration, len(clients))
		for i, client := range clients {
			group.Go(func() {
				// When the last call began that was still answered; looked for well past the limit.
				for time.Since(suspended) < 2*time.Second {
					begun := time.Since(suspended)
					if err := bad.reads(client); err == nil {
						last[i] = begun
					} else if !fault.HasReason(err, fault.CompanySuspended) {
						t.Errorf("got %v, want %s", err, fault.CompanySuspended)
					}
				}
			})
		}
		group.Wait()
		for i, at := range last {
			require.Less(t, at, time.Second, "gateway %d still answered", i)
		}
		t.Logf("the last call that was answered began %v after the suspension", last)
		_, err = companies.ResumeCompany(t.Context(), &registryv1.ResumeCompanyRequest{Company: bad.slug})
		require.NoError(t, err)
	}
	for _, o := range others {
		o.end()
		o.requireNone(t, "another company is suspended")
	}
}

func TestPostgreSQLRestartedUnderLoad(t *testing.T) {
	t.Parallel()
	// What began while it was down may end a little later.
	const margin, recovery = time.Second, 5 * time.Second
	a := newApart(t)
	a.everything(50, "TENANTRY_GATEWAY")
	known := a.customers(4)
	calls := a.load("TENANTRY_GATEWAY", 3, known...)
	calls.answers(t, 100)
	calls.requireNone(t, "nothing has happened yet")

	down := time.Now()
	a.restartPostgres()
	up := time.Now()
	time.Sleep(recovery)
	for _, c := range known {
		require.NoError(t, c.reads(gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))))
	}
	calls.answers(t, 100)
	calls.end()

	failed := calls.failures()
	require.NotEmpty(t, failed, "the test has to hurt to mean something")
	var last time.Time
	for _, f := range failed {
		require.NotErrorIs(t, f.err, errWrong)
		require.False(t, f.ended.Before(down), "%v before PostgreSQL was stopped", f.err)
		requireReason(t, f.err, codes.Unavailable, fault.DatabaseUnavailable)
		if f.ended.After(last) {
			last = f.ended
		}
	}
	t.Logf("PostgreSQL was away for %v; %d calls failed, the last %v after it was ready", up.Sub(down), len(failed), last.Sub(up))
	require.Less(t, last.Sub(up), margin, "errors only while it is down")
}

func TestABackendThatIsTerminatedInMidQueryIsUnavailableAndTheNextCallWorks(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun := s.signUp("sun")
	ctx := s.logIn(sun)
	client := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", asNobody))
	admin := s.connect(s.adminDSN(sun))
	sleep := func(seconds int, mark string) string {
		return fmt.Sprintf("SELECT pg_sleep(%d)::text -- %s", seconds, mark)
	}
	for name, call := range map[string]func(seconds int, mark string) error{
		"Query": func(seconds int, mark string) error {
			_, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: sleep(seconds, mark)})
			return err
		},
		"Execute": func(seconds int, mark string) error {
			_, err := client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: sleep(seconds, mark)})
			return err
		},
		"Batch": func(seconds int, mark string) error {
			_, err := client.Batch(ctx, &gatewayv1.BatchRequest{Statements: []*gatewayv1.Statement{{Sql: "SELECT 1"}, {Sql: sleep(seconds, mark)}}})
			return err
		},
		"a Query whose rows are under way": func(seconds int, mark string) error {
			_, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: "SELECT repeat('x', 1000) FROM generate_series(1, 2000) UNION ALL " + sleep(seconds, mark)})
			return err
		},
	} {
		asked := make(chan error, 1)
		go func() { asked <- call(600, "the victim") }()
		var killed []string
		require.Eventually(t, func() bool {
			killed = column(t, admin, "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE query LIKE '%the victim' AND wait_event = 'PgSleep' AND pid <> pg_backend_pid()")
			return len(killed) > 0
		}, patience, 10*time.Millisecond, name)
		begun := time.Now()
		select {
		case err := <-asked:
			f := requireReason(t, err, codes.Unavailable, fault.DatabaseUnavailable)
			require.NotEmpty(t, f.Text, name)
		case <-time.After(patience):
			require.Fail(t, "nobody told the caller", name)
		}
		require.Less(t, time.Since(begun), 5*time.Second, name)
		require.NoError(t, call(0, "the next"), name)
	}
}

func TestNoCallIsAnsweredForAnotherCompanyHoweverFewTheConnections(t *testing.T) {
	t.Parallel()
	const budget, callers, lasts = 6, 16, 6 * time.Second
	a := newApart(t)
	a.everything(budget, "TENANTRY_GATEWAY")
	known := a.customers(20)
	client := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))
	watcher := a.asAdmin("postgres")
	ctx, stop := context.WithTimeout(t.Context(), lasts)
	defer stop()

	calls := &traffic{stop: stop}
	var backends sync.Map
	for i := range callers {
		calls.group.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				c := known[rand.N(len(known))]
				calls.note(ctx, func() error { return c.marks(client, strconv.Itoa(n), &backends) })
			}
		})
	}
	most := 0
	for ctx.Err() == nil {
		most = max(most, len(column(t, watcher, `SELECT pid::text FROM pg_stat_activity WHERE usename LIKE 'tenant\_%'`)))
		time.Sleep(5 * time.Millisecond)
	}
	calls.end()
	calls.requireNone(t, "20 companies share 6 connections")
	seen := 0
	backends.Range(func(any, any) bool { seen++; return true })
	t.Logf("%d calls on %d connections one after the other, %d at once", calls.answered.Load(), seen, most)
	require.LessOrEqual(t, most, budget)
	require.Greater(t, seen, 3*budget, "connections have to make room for others")
}

// marks makes one of several kinds of call, each of which would notice that it runs for another, or after one that left
// something behind.
func (c customer) marks(client gatewayv1.SqlServiceClient, mark string, backends *sync.Map) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	const who = "SELECT email, current_database(), coalesce(current_setting('my.mark', true), ''), pg_backend_pid() FROM users"
	var row *gatewayv1.Row
	switch rand.N(4) {
	case 0: // leaves a setting behind
		_, err := client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT set_config('my.mark', $1, false)", Params: []*gatewayv1.Value{textValue(mark)}})
		return err
	case 1: // fails, in a transaction of its own
		_, err := client.Batch(ctx, &gatewayv1.BatchRequest{Statements: []*gatewayv1.Statement{{Sql: "UPDATE users SET email = 'nobody@example.com'"}, {Sql: "SELECT 1 / 0"}}})
		if f := fault.From(err); f == nil || f.Reason != fault.SQLError {
			return fmt.Errorf("a division by zero: %w", err)
		}
		return nil
	case 2:
		got, err := client.Batch(ctx, &gatewayv1.BatchRequest{Statements: []*gatewayv1.Statement{{Sql: who}}})
		if err != nil {
			return err
		}
		row = got.GetResults()[0].GetRows()[0]
	default:
		got, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: who})
		if err != nil {
			return err
		}
		row = got.rows[0]
	}
	v := row.GetValues()
	if v[0].GetText() != c.owner || v[1].GetText() != c.database || v[2].GetText() != "" {
		return fmt.Errorf("%w: %s got %v", errWrong, c.slug, row)
	}
	backends.Store(v[3].GetText(), true)
	return nil
}
