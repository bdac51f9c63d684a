package e2e

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// apart is a system as in production: each service a process of its own, with its own certificate, on a PostgreSQL that
// none of them started. Everything is made with the command line.
type apart struct {
	*system
	certificates, keys string
	registryArgs       []string
	postgres           *pgserver.Server
}

func newApart(t *testing.T) *apart {
	t.Helper()
	dir := newDirectory(t)
	a := &apart{system: &system{t: t, dir: dir, env: map[string]string{}}, certificates: filepath.Join(dir, "certificates"), keys: filepath.Join(dir, "keys")}
	require.NoError(t, os.Mkdir(a.keys, 0o700))
	server, err := pgserver.Start(t.Context(), pgserver.Config{Dir: filepath.Join(dir, "postgres"), Password: "secret", MaxConnections: 200})
	require.NoError(t, err)
	a.postgres = server
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, a.postgres.Stop(ctx))
		require.NoError(t, pgserver.Remove(ctx, filepath.Join(dir, "postgres")))
	})
	for _, name := range []string{"service/registry", "service/provisioner", "service/gateway", "operator/ops", "signup/web"} {
		ok(t, runTenantry(t, nil, "certificate", "issue", name, "--dir", a.certificates, "--host", "127.0.0.1"))
	}
	ok(t, runTenantry(t, nil, "key", "new", "signing", filepath.Join(a.keys, "access.pem")))
	ok(t, runTenantry(t, nil, "key", "new", "signing", filepath.Join(a.keys, "assertion.pem")))
	ok(t, runTenantry(t, nil, "key", "new", "master", filepath.Join(a.keys, "master.hex")))
	a.env = map[string]string{
		"TENANTRY_CA": filepath.Join(a.certificates, "ca.pem"), "TENANTRY_ADMIN_DSN": server.DSN("postgres"),
		"TENANTRY_REGISTRY_DSN": server.DSN("micro_power_manager"), "TENANTRY_PROVISIONER_DSN": server.DSN("provisioner"),
		"TENANTRY_OPERATOR_CERT": filepath.Join(a.certificates, "operator-ops.pem"), "TENANTRY_OPERATOR_KEY": filepath.Join(a.certificates, "operator-ops-key.pem"),
		"TENANTRY_SIGNUP_CERT": filepath.Join(a.certificates, "signup-web.pem"), "TENANTRY_SIGNUP_KEY": filepath.Join(a.certificates, "signup-web-key.pem"),
		"TENANTRY_REGISTRY": freeAddress(t), "TENANTRY_PROVISIONER": freeAddress(t), "TENANTRY_GATEWAY": freeAddress(t), "TENANTRY_SECOND_GATEWAY": freeAddress(t),
	}
	ok(t, a.tenantry("migrate", "central"))
	a.registryArgs = []string{"registry", "--signing-key", filepath.Join(a.keys, "access.pem")}
	return a
}

// restartPostgres stops PostgreSQL, cutting everyone off, and starts it again at the same address.
func (a *apart) restartPostgres() {
	a.t.Helper()
	cfg := a.postgres.Config()
	require.NoError(a.t, a.postgres.Stop(a.t.Context()))
	var err error
	a.postgres, err = pgserver.Start(a.t.Context(), cfg)
	require.NoError(a.t, err)
}

// serve starts a service at the address of a variable, and waits until it is healthy.
func (a *apart) serve(variable, certificate string, args ...string) *process {
	a.t.Helper()
	args = append(args, "--listen", a.env[variable], "--tls-ca", a.env["TENANTRY_CA"], "--tls-cert", filepath.Join(a.certificates, certificate+".pem"),
		"--tls-key", filepath.Join(a.certificates, certificate+"-key.pem"))
	p := startProcess(a.t, a.variables(), args...)
	require.Eventually(a.t, func() bool {
		return !p.alive() || runTenantry(a.t, a.variables(), "health", a.env[variable], "--tls-ca", a.env["TENANTRY_CA"], "--timeout", "3s").code == 0
	}, patience, 100*time.Millisecond)
	require.True(a.t, p.alive(), p.output())
	return p
}

func TestServicesApartInSeveralCopies(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	registry := a.serve("TENANTRY_REGISTRY", "registry", a.registryArgs...)
	host, port := splitAddress(t, a.env["TENANTRY_ADMIN_DSN"])
	ok(t, a.tenantry("cluster", "register", "main", "--host", host, "--port", port, "--tls", "disable"))
	admin, jobs := filepath.Join(a.keys, "admin.dsn"), freeAddress(t)
	require.NoError(t, os.WriteFile(admin, []byte(a.env["TENANTRY_ADMIN_DSN"]), 0o600))
	provisioner := a.serve("TENANTRY_PROVISIONER", "provisioner", "provisioner", "--cluster", "main="+admin, "--master-key", filepath.Join(a.keys, "master.hex"), "--jobs-ui", jobs)
	gatewayArgs := []string{"gateway", "--master-key", filepath.Join(a.keys, "master.hex"), "--signing-key", filepath.Join(a.keys, "assertion.pem")}
	gateways := []*process{a.serve("TENANTRY_GATEWAY", "gateway", gatewayArgs...), a.serve("TENANTRY_SECOND_GATEWAY", "gateway", gatewayArgs...)}

	code, page := scrape(t, jobs, "/")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, page, "<title>River</title>")
	sun := a.signUp("sun")
	ctx := a.logIn(sun)
	works := func(variable string) error {
		_, err := gatewayv1.NewSqlServiceClient(a.dial(variable, asNobody)).Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
		return err
	}
	both := []string{"TENANTRY_GATEWAY", "TENANTRY_SECOND_GATEWAY"}
	for _, g := range both {
		require.NoError(t, works(g))
	}

	// The registry is killed: what is known goes on, and it comes back to gateways that learn what happened next.
	registry.kill()
	registry.wait(t)
	for _, g := range both {
		require.NoError(t, works(g))
	}
	// What has to be written into the audit log first does not run.
	_, err := fleetQuery(t.Context(), gatewayv1.NewFleetSqlServiceClient(a.dial("TENANTRY_GATEWAY", asOperator)), &gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT 1"})
	requireReason(t, err, codes.Unavailable, fault.Unavailable)
	registry = a.serve("TENANTRY_REGISTRY", "registry", a.registryArgs...)
	_, err = registryv1.NewCompanyServiceClient(a.dial("TENANTRY_REGISTRY", asOperator)).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: "sun", Reason: "x"})
	require.NoError(t, err)
	for _, g := range both {
		ends(t, func() error { return works(g) }, fault.CompanySuspended)
	}
	for _, p := range append(gateways, provisioner, registry) {
		p.terminate()
		require.Zero(t, p.wait(t), p.output())
	}
}

// splitAddress is the host and port of a URI.
func splitAddress(t testing.TB, dsn string) (host, port string) {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	return u.Hostname(), u.Port()
}
