package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// keeping are the flags of a gateway that keeps a snapshot, at a path of its own.
func (a *apart) keeping(variable string, more ...string) []string {
	return append([]string{"gateway", "--master-key", filepath.Join(a.keys, "master.hex"), "--signing-key", filepath.Join(a.keys, "assertion.pem"), "--instance", variable,
		"--route-snapshot", filepath.Join(a.dir, variable+".snapshot")}, more...)
}

// gauge is a metric of a process, by its name and labels; false where there is none.
func gauge(t testing.TB, address, name string) (float64, bool) {
	t.Helper()
	_, body := scrape(t, address, "/metrics")
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(body)
	if found == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(found[1], 64)
	require.NoError(t, err)
	return v, true
}

// keeps waits until what a gateway knows now is in its snapshot. One more company is news, without which the snapshot that
// is there may do for minutes.
func (a *apart) keeps(address string) {
	a.t.Helper()
	now := time.Now()
	a.signUp("news-" + strconv.FormatInt(now.UnixNano(), 36))
	require.Eventually(a.t, func() bool {
		age, ok := gauge(a.t, address, "tenantry_gateway_route_snapshot_age_seconds")
		return ok && age < time.Since(now).Seconds()
	}, patience, 20*time.Millisecond)
}

// routesAge is how old callers are told that the routes are; 0 where they are told nothing.
func (a *apart) routesAge(c customer) time.Duration {
	a.t.Helper()
	var header metadata.MD
	_, err := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody)).Execute(c.ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"}, grpc.Header(&header))
	require.NoError(a.t, err)
	for _, text := range header.Get("tenantry-routes-age") {
		ms, err := strconv.Atoi(text)
		require.NoError(a.t, err)
		return time.Duration(ms) * time.Millisecond
	}
	return 0
}

func TestAGatewayStartsFromItsSnapshotWhileTheRegistryIsAway(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	registry := a.everything(20)
	told := freeAddress(t)
	args := a.keeping("TENANTRY_GATEWAY", "--metrics", told)
	gateway := a.serve("TENANTRY_GATEWAY", "gateway", args...)
	known := a.customers(3)
	good, suspended, ended := known[0], known[1], known[2]
	client := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))
	key, err := registryv1.NewApiKeyServiceClient(a.dial("TENANTRY_REGISTRY", asNobody)).CreateApiKey(good.ctx, &registryv1.CreateApiKeyRequest{Name: "k"})
	require.NoError(t, err)
	program := good
	program.ctx = metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key.GetKey())
	require.NoError(t, program.reads(client))
	calls := a.load("TENANTRY_GATEWAY", 2, good, program)
	calls.answers(t, 50)
	_, err = registryv1.NewSessionServiceClient(a.dial("TENANTRY_GATEWAY", asNobody)).Logout(ended.ctx, &registryv1.LogoutRequest{})
	require.NoError(t, err)
	_, err = registryv1.NewCompanyServiceClient(a.dial("TENANTRY_REGISTRY", asOperator)).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: suspended.slug, Reason: "x"})
	require.NoError(t, err)
	ends(t, func() error { return suspended.reads(client) }, fault.CompanySuspended)
	ends(t, func() error { return ended.reads(client) }, fault.CredentialsInvalid)
	require.Eventually(t, func() bool {
		lag, ok := gauge(t, told, "tenantry_gateway_routes_lag")
		return ok && lag == 0
	}, patience, 20*time.Millisecond)
	calls.requireNone(t, "all is there")
	a.keeps(told)

	// A second process must not take the first one's.
	second := runTenantry(t, a.variables(), append(args, "--listen", freeAddress(t), "--metrics", freeAddress(t), "--tls-ca", a.env["TENANTRY_CA"],
		"--tls-cert", filepath.Join(a.certificates, "gateway.pem"), "--tls-key", filepath.Join(a.certificates, "gateway-key.pem"))...)
	require.NotZero(t, second.code)
	require.Contains(t, second.errOut, "another process has it")

	registry.kill()
	gateway.kill()
	died := time.Now()
	registry.wait(t)
	gateway.wait(t)
	calls.end()

	away := func() {
		t.Helper()
		// A client that was cut off dials again after a moment.
		require.Eventually(t, func() bool { return good.reads(client) == nil }, patience, 50*time.Millisecond)
		require.NoError(t, program.reads(client))
		requireReason(t, suspended.reads(client), codes.PermissionDenied, fault.CompanySuspended)
		requireReason(t, ended.reads(client), codes.Unauthenticated, fault.CredentialsInvalid)
		from, _ := gauge(t, told, "tenantry_gateway_routes_from_snapshot")
		require.Positive(t, from)
		share, _ := gauge(t, told, `tenantry_gateway_connections_share{cluster="main"}`)
		require.Positive(t, share)
		age, _ := gauge(t, told, "tenantry_gateway_routes_age_seconds")
		require.GreaterOrEqual(t, age, time.Since(died).Seconds()-1)
		_, err := registryv1.NewSessionServiceClient(a.dial("TENANTRY_GATEWAY", asNobody)).Login(t.Context(), &registryv1.LoginRequest{Email: good.owner, Password: password})
		requireReason(t, err, codes.Unavailable, fault.Unavailable)
	}
	gateway = a.serve("TENANTRY_GATEWAY", "gateway", args...)
	away()
	health := healthpb.NewHealthClient(a.dial("TENANTRY_GATEWAY", asNobody))
	partHealth := func() healthpb.HealthCheckResponse_ServingStatus {
		got, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "routes"})
		require.NoError(t, err)
		return got.GetStatus()
	}
	require.Eventually(t, func() bool { return partHealth() == healthpb.HealthCheckResponse_NOT_SERVING }, patience, 100*time.Millisecond, "health tells that the routes are old")
	require.GreaterOrEqual(t, a.routesAge(good), 15*time.Second, "callers are told")
	require.Contains(t, gateway.output(), "serving with the routes of a snapshot")
	// It ends in order, and the next one has what it had, since nobody could be told that it left.
	gateway.terminate()
	require.Zero(t, gateway.wait(t), gateway.output())
	gateway = a.serve("TENANTRY_GATEWAY", "gateway", args...)
	away()

	registry = a.serve("TENANTRY_REGISTRY", "registry", a.registryArgs...)
	require.Eventually(t, func() bool { return a.routesAge(good) == 0 }, patience, 50*time.Millisecond, "the age is gone")
	require.Eventually(t, func() bool {
		from, ok := gauge(t, told, "tenantry_gateway_routes_from_snapshot")
		return ok && from == 0
	}, patience, 50*time.Millisecond)
	require.Eventually(t, func() bool { return partHealth() == healthpb.HealthCheckResponse_SERVING }, patience, 50*time.Millisecond)
	requireReason(t, suspended.reads(client), codes.PermissionDenied, fault.CompanySuspended)
	// A provisioner that lost the registry looks for it again after a while.
	signup := &provisionerv1.CreateTenantRequest{RequestId: uuid.NewString(), Company: &registryv1.CompanyDraft{Name: "A new one", Slug: "a-new-one"},
		Owner: &registryv1.OwnerDraft{Name: "Owner", Email: "owner@a-new-one.example", Password: password}}
	added := company{slug: "a-new-one", owner: signup.GetOwner().GetEmail()}
	require.Eventually(t, func() bool {
		got, err := provisionerv1.NewProvisionerServiceClient(a.dial("TENANTRY_PROVISIONER", asSignup)).CreateTenant(t.Context(), signup)
		added.id = got.GetCompanyId()
		return err == nil
	}, patience, 200*time.Millisecond)
	_, err = client.Execute(a.logIn(added), &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
	require.NoError(t, err)

	// With the registry there, what is on the disk is brought up to date before anybody is told that the gateway is well, but
	// on a machine on which the registry's answer takes longer than it is waited for.
	for deadline := time.Now().Add(patience); ; {
		gateway.kill()
		gateway.wait(t)
		gateway = a.serve("TENANTRY_GATEWAY", "gateway", args...)
		if !strings.Contains(gateway.output(), "serving with the routes of a snapshot") || time.Now().After(deadline) {
			break
		}
	}
	require.Contains(t, gateway.output(), "the registry brought the routes of the snapshot up to date")
	require.NotContains(t, gateway.output(), "serving with the routes of a snapshot")
	require.Eventually(t, func() bool { return good.reads(client) == nil }, patience, 50*time.Millisecond)

	// What is not as it was written is not used.
	gateway.terminate()
	require.Zero(t, gateway.wait(t), gateway.output())
	path := filepath.Join(a.dir, "TENANTRY_GATEWAY.snapshot")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(text), key.GetKey())
	text[len(text)/2] ^= 1
	require.NoError(t, os.WriteFile(path, text, 0o600))
	registry.terminate()
	require.Zero(t, registry.wait(t), registry.output())
	gateway = startProcess(t, a.variables(), append(args, "--listen", a.env["TENANTRY_GATEWAY"], "--tls-ca", a.env["TENANTRY_CA"],
		"--tls-cert", filepath.Join(a.certificates, "gateway.pem"), "--tls-key", filepath.Join(a.certificates, "gateway-key.pem"))...)
	require.Eventually(t, func() bool { return strings.Contains(gateway.output(), "the route snapshot is not used") }, patience, 50*time.Millisecond)
	time.Sleep(3 * time.Second) // Longer than a registry is waited for.
	require.Error(t, good.reads(client))
	require.NotZero(t, runTenantry(t, a.variables(), "health", a.env["TENANTRY_GATEWAY"], "--tls-ca", a.env["TENANTRY_CA"], "--timeout", "1s").code)
}

func TestGatewaysThatStartFromTheirSnapshotsNeverPassTheBudgetTogether(t *testing.T) {
	t.Parallel()
	const budget = 12
	both := []string{"TENANTRY_GATEWAY", "TENANTRY_SECOND_GATEWAY"}
	a := newApart(t)
	registry := a.everything(budget)
	told := map[string]string{both[0]: freeAddress(t), both[1]: freeAddress(t)}
	start := func() (gateways []*process) {
		for _, g := range both {
			gateways = append(gateways, a.serve(g, "gateway", a.keeping(g, "--metrics", told[g])...))
		}
		return gateways
	}
	gateways := start()
	known := a.customers(4)
	counted := a.count()
	under := func(f func()) {
		var loads []*traffic
		for _, g := range both {
			loads = append(loads, a.load(g, 2, known...))
		}
		for _, l := range loads {
			l.answers(t, 100)
		}
		f()
		for _, l := range loads {
			l.answers(t, 50)
			l.end()
			l.requireNone(t, "its gateway is there")
		}
	}
	under(func() {
		a.requireShares(func(shares map[string]int) bool { return shares[both[0]] >= 3 && shares[both[1]] >= 3 }, "each has much")
	})
	for _, g := range both {
		a.keeps(told[g])
	}
	// They are killed while they are busy, and so is the registry.
	calls := a.load(both[0], 2, known...)
	calls.answers(t, 50)
	registry.kill()
	registry.wait(t)
	for range 2 {
		for _, g := range gateways {
			g.kill()
			g.wait(t)
		}
		gateways = start()
		under(func() {})
	}
	calls.end()
	a.serve("TENANTRY_REGISTRY", "registry", a.registryArgs...)
	under(func() {
		a.requireShares(func(shares map[string]int) bool {
			return shares[both[0]] > 0 && shares[both[1]] > 0 && shares[both[0]]+shares[both[1]] <= budget
		}, "the registry counts them again")
	})
	for _, g := range gateways {
		g.terminate()
		require.Zero(t, g.wait(t), g.output())
	}
	counted.end()
	t.Logf("at most %d connections at once, in %d counts", counted.most.Load(), counted.looks.Load())
	require.LessOrEqual(t, counted.most.Load(), int64(budget))
	require.GreaterOrEqual(t, counted.most.Load(), int64(budget)/2, "the budget is used")
}
