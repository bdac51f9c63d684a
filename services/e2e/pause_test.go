package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// paused is a fleet behind a gateway, to migrate under its callers.
type paused struct {
	*fleet
	metrics string // where the gateway tells of itself
	sql     gatewayv1.SqlServiceClient
}

func newPaused(t *testing.T, tenants int) *paused {
	t.Helper()
	p := &paused{fleet: newFleet(t), metrics: freeAddress(t)}
	p.signUpMany(tenants)
	p.serve("TENANTRY_GATEWAY", "gateway", "gateway", "--master-key", filepath.Join(p.keys, "master.hex"),
		"--signing-key", filepath.Join(p.keys, "assertion.pem"), "--metrics", p.metrics)
	p.sql = gatewayv1.NewSqlServiceClient(p.dial("TENANTRY_GATEWAY", asOperator))
	return p
}

// metric is a value that the gateway tells.
func (p *paused) metric(name string) float64 {
	p.t.Helper()
	_, body := scrape(p.t, p.metrics, "/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			require.NoError(p.t, err)
			return v
		}
	}
	require.Fail(p.t, "no such metric", name)
	return 0
}

// uses makes one of several kinds of call on a tenant, as an operator, and says what is wrong with the answer.
func (p *paused) uses(slug, database string, kind int) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	const all = "SELECT current_database(), * FROM things WHERE name = 'seed'"
	var row *gatewayv1.Row
	switch kind {
	case 0:
		_, err := p.sql.Execute(ctx, &gatewayv1.ExecuteRequest{Company: slug, Sql: "INSERT INTO things (name) VALUES ('call')"})
		return err
	case 1:
		got, err := p.sql.Batch(ctx, &gatewayv1.BatchRequest{Company: slug, Statements: []*gatewayv1.Statement{{Sql: "UPDATE things SET amount = amount + 1 WHERE name = 'seed'"}, {Sql: all}}})
		if err != nil {
			return err
		}
		row = got.GetResults()[1].GetRows()[0]
	default:
		got, err := query(ctx, p.sql, &gatewayv1.QueryRequest{Company: slug, Sql: all})
		if err != nil {
			return err
		}
		row = got.rows[0]
	}
	if got := row.GetValues()[0].GetText(); got != database {
		return fmt.Errorf("%w: %s got %s", errWrong, slug, got)
	}
	return nil
}

func TestFiveHundredTenantsAreMigratedWithoutOneFailedCall(t *testing.T) {
	t.Parallel()
	const tenants, constant, roaming = 500, 3, 2
	begun := time.Now()
	p := newPaused(t, tenants)
	databases := p.databases()
	t.Logf("%d tenants after %v", tenants, time.Since(begun))

	ctx, stop := context.WithCancel(t.Context())
	calls := &traffic{stop: stop}
	t.Cleanup(calls.end)
	for i := range constant + roaming {
		calls.group.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				slug := "c" + strconv.Itoa(1+i*tenants/constant) // Each call follows the one before, so one meets the pause.
				if i >= constant {
					slug = "c" + strconv.Itoa(1+rand.N(tenants))
				}
				calls.note(ctx, func() error { return p.uses(slug, databases[slug], n%3) })
			}
		})
	}
	calls.answers(t, 500)
	calls.requireNone(t, "nothing has happened yet")

	version := p.addFile("ALTER TABLE things ALTER COLUMN amount TYPE bigint, ADD COLUMN color text NOT NULL DEFAULT 'red';")
	rolled := time.Now()
	ended := p.ended(0, p.startRollout(0, &provisionerv1.StartRolloutRequest{Pause: true, Force: true}))
	took := time.Since(rolled)
	require.Equal(t, provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, ended.GetState(), "%v", ended)
	require.EqualValues(t, tenants, ended.GetSucceeded())
	calls.answers(t, 500)
	calls.end()
	calls.requireNone(t, "each tenant was paused")

	longest := p.metric("tenantry_gateway_longest_hold_seconds")
	t.Logf("a tenant took, pause and all (median, maximum): %s", p.read(p.env["TENANTRY_PROVISIONER_DSN"],
		"SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ns) / 1e6)::text || ' ms, ' || max(duration_ns) / 1000000 || ' ms' FROM rollout_results"))
	t.Logf("%d tenants migrated in %v under %d calls; none failed; the longest was held for %.0f ms", tenants, took, calls.answered.Load(), longest*1000)
	require.Positive(t, longest, "some have to meet a pause for the test to mean something")
	require.Zero(t, p.metric("tenantry_gateway_held_calls"))
	require.Equal(t, []string{strconv.Itoa(tenants)}, p.read(p.env["TENANTRY_REGISTRY_DSN"],
		"SELECT count(*)::text FROM companies c JOIN tenant_databases d ON d.company_id = c.id WHERE c.state = 'ACTIVE' AND d.schema_version = '"+version+"'"))
	require.Equal(t, []string{strconv.Itoa(2 * tenants)}, p.read(p.env["TENANTRY_REGISTRY_DSN"],
		"SELECT count(*)::text FROM audit_events WHERE action IN ('company.maintenance_begun', 'company.maintenance_ended')"))
}

func TestCallsOfATenantWhoseProvisionerDiesInThePauseGoOn(t *testing.T) {
	t.Parallel()
	p := newPaused(t, 1)
	database := p.databases()["c1"]
	p.inDatabase(database, "INSERT INTO things (name) VALUES ('slow') RETURNING name")
	p.addFile("SELECT pg_sleep(40) FROM things WHERE name = 'slow';") // In the template and for the gate it takes no time.
	p.startRollout(0, &provisionerv1.StartRolloutRequest{Pause: true})
	companies := registryv1.NewCompanyServiceClient(p.dial("TENANTRY_REGISTRY", asOperator))
	state := func() registryv1.CompanyState {
		got, err := companies.GetCompany(t.Context(), &registryv1.GetCompanyRequest{Company: "c1"})
		require.NoError(t, err)
		return got.GetCompany().GetState()
	}
	require.Eventually(t, func() bool { return state() == registryv1.CompanyState_COMPANY_STATE_MAINTENANCE }, patience, 5*time.Millisecond)
	for _, c := range p.copies {
		c.kill()
		c.wait(t)
	}
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_MAINTENANCE, state(), "nobody was there to end it")
	var group sync.WaitGroup
	for i := range 3 {
		group.Go(func() {
			if err := p.uses("c1", database, i); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_ACTIVE, state())
	require.Equal(t, []string{"service/registry"}, p.read(p.env["TENANTRY_REGISTRY_DSN"], "SELECT actor FROM audit_events WHERE action = 'company.maintenance_expired'"))
}

func TestACallThatWaitsForAConnectionWhenThePauseBeginsIsHeld(t *testing.T) {
	t.Parallel()
	p := newPaused(t, 1)
	database := p.databases()["c1"]
	id := p.read(p.env["TENANTRY_REGISTRY_DSN"], "SELECT id::text FROM companies")[0]
	conn, err := rpc.Dial(p.env["TENANTRY_REGISTRY"], rpc.TLS{CA: p.env["TENANTRY_CA"], Cert: filepath.Join(p.certificates, "provisioner.pem"),
		Key: filepath.Join(p.certificates, "provisioner-key.pem")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	tenants := registryv1.NewTenantServiceClient(conn)

	connections := func(query string) int {
		return len(p.inDatabase(database, "SELECT pid::text FROM pg_stat_activity WHERE usename = current_database() AND "+query))
	}
	// As many as one company may have.
	const all = 16
	var group sync.WaitGroup
	for range all {
		group.Go(func() {
			if _, err := p.sql.Execute(t.Context(), &gatewayv1.ExecuteRequest{Company: "c1", Sql: "SELECT pg_sleep(3)"}); err != nil {
				t.Errorf("what runs when the pause begins: %v", err)
			}
		})
	}
	require.Eventually(t, func() bool { return connections("wait_event = 'PgSleep'") == all }, patience, 5*time.Millisecond)
	waiting := make(chan error, 1)
	go func() { waiting <- p.uses("c1", database, 0) }()
	require.Eventually(t, func() bool { return p.metric(`tenantry_gateway_connections_waiting{cluster="main"}`) == 1 }, patience, time.Millisecond)
	_, err = tenants.BeginMaintenance(t.Context(), &registryv1.BeginMaintenanceRequest{CompanyId: id, Holder: "test", Duration: durationpb.New(time.Minute)})
	require.NoError(t, err)
	group.Wait()
	require.Eventually(t, func() bool { return connections("true") == 0 }, patience, 5*time.Millisecond, "the gateway leaves the database alone")
	require.Eventually(t, func() bool { return p.metric("tenantry_gateway_held_calls") == 1 }, patience, 5*time.Millisecond)
	require.Empty(t, p.inDatabase(database, "SELECT name FROM things WHERE name = 'call'"))
	_, err = tenants.EndMaintenance(t.Context(), &registryv1.EndMaintenanceRequest{CompanyId: id, Holder: "test"})
	require.NoError(t, err)
	require.NoError(t, <-waiting)
	require.Equal(t, []string{"call"}, p.inDatabase(database, "SELECT name FROM things WHERE name = 'call'"))
}

func TestACallThatWantsANewerSchemaWaitsForIt(t *testing.T) {
	t.Parallel()
	_, err := os.Stat("../../bin/grpcurl")
	require.NoError(t, err, "`make bin/grpcurl` builds it")
	sets, address := copyOfSets(t), freeAddress(t)
	s := newSystem(t, "--migrations", sets, "--upstream", "readings.v1.ReadingsService=readings@"+address)
	sun := s.signUp("sun")
	s.upstream(address)
	token, owner := s.token(sun), s.logIn(sun)
	version := addMigration(t, sets, "add nicknames", "ALTER TABLE people ADD COLUMN nickname text;\n")
	// What takes a while, judging the release, is done before anyone waits.
	ok(t, s.tenantry("migrate-tenant", "sun", "--dry-run"))
	wants := func(ctx context.Context, version string) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "tenantry-min-schema", version)
	}
	execute := func(ctx context.Context, as string) error {
		q := &gatewayv1.ExecuteRequest{Sql: "SELECT nickname FROM people"}
		if as == asOperator {
			q.Company = "sun"
		}
		_, err := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", as)).Execute(ctx, q)
		return err
	}
	waiting := map[string]func() error{
		"a user":      func() error { return execute(wants(owner, version), asNobody) },
		"an operator": func() error { return execute(wants(t.Context(), version), asOperator) },
		"an upstream's": func() error {
			out, err := s.grpcurl(token, "AddMeter", `{"meter": "M-1", "manufacturer": "Calin"}`, "-H", "tenantry-min-schema: "+version)
			if err != nil {
				return fmt.Errorf("%s: %w", out, err)
			}
			return nil
		},
	}
	errs := map[string]chan error{}
	for name, call := range waiting {
		answered := make(chan error, 1)
		errs[name] = answered
		go func() { answered <- call() }()
	}
	time.Sleep(time.Second) // They are under way, or come later and do not wait.
	for name := range waiting {
		require.Empty(t, errs[name], name)
	}
	ok(t, s.tenantry("migrate-tenant", "sun", "--pause"))
	for name := range waiting {
		require.NoError(t, <-errs[name], name)
	}

	hurried, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := requireReason(t, execute(wants(hurried, "99990101000000"), asOperator), codes.FailedPrecondition, fault.SchemaTooOld)
	require.Equal(t, map[string]string{"wanted": "99990101000000", "got": version}, f.Metadata)
	requireReason(t, execute(wants(wants(owner, "1"), "2"), asNobody), codes.InvalidArgument, fault.FieldInvalid)
}
