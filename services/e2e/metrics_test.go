package e2e

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/emptypb"
)

// scrape returns what Prometheus would get.
func scrape(t testing.TB, address, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, http.NoBody)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	got, err := client.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, got.Body.Close()) }()
	body, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	return got.StatusCode, string(body)
}

func TestPrometheusSeesCallsConnectionsSparesAndRollouts(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	s := newSystem(t, "--metrics", address, "--spares", "1", "--pprof")
	sun := s.signUp("sun")
	s.execute(sun, "INSERT INTO people (name) VALUES ('A')")
	ok(t, s.tenantry("migrate", "--json"))
	require.Error(t, s.dial("TENANTRY_GATEWAY", asNobody).Invoke(t.Context(), "/made.up/Name", &emptypb.Empty{}, &emptypb.Empty{}))
	var body string
	require.Eventually(t, func() bool {
		var code int
		code, body = scrape(t, address, "/metrics")
		require.Equal(t, http.StatusOK, code)
		for _, want := range []string{
			`tenantry_rpc_seconds_count{code="OK",method="/tenantry.gateway.v1.SqlService/Execute",service="gateway"} 1`,
			`tenantry_rpc_seconds_count{code="OK",method="/tenantry.provisioner.v1.ProvisionerService/CreateTenant",service="provisioner"} 1`,
			`tenantry_rpc_seconds_count{code="Unauthenticated",method="forwarded",service="gateway"} 1`,
			`tenantry_rpc_seconds_count{code="OK",method="/tenantry.registry.v1.TenantService/ReserveTenant",service="registry"} 1`,
			"\ntenantry_gateway_routes 1\n", "\ntenantry_gateway_routes_age_seconds ",
			`tenantry_gateway_connections_open{cluster="local"} 1`, `tenantry_gateway_connections_used{cluster="local"} 0`,
			`tenantry_gateway_connections_waiting{cluster="local"} 0`, `tenantry_gateway_connections_budget{cluster="local"} `,
			`tenantry_provisioner_spares{cluster="local",state="ready"} 1`,
			`tenantry_provisioner_signups{state="working"} 0`, `tenantry_provisioner_rollouts{state="succeeded"} 1`,
			"\ntenantry_registry_watchers 1\n", "\ntenantry_registry_route_sequence ", "\ngo_goroutines ",
		} {
			if !strings.Contains(body, want) {
				t.Logf("not yet: %s", want)
				return false
			}
		}
		return true
	}, patience, 200*time.Millisecond)
	guide, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	named := regexp.MustCompile(`tenantry_[a-z_]*[a-z]`).FindAllString(string(guide), -1)
	require.Greater(t, len(named), 10)
	s.signUp("moon")
	ok(t, s.tenantry("rollout", "start", "--canary", "1", "--soak", "1h"))
	require.Eventually(t, func() bool {
		_, body = scrape(t, address, "/metrics")
		for _, name := range named {
			if !strings.Contains(body, "# HELP "+name+" ") {
				t.Logf("the operator's guide names what is not there yet: %s", name)
				return false
			}
		}
		return strings.Contains(body, `tenantry_provisioner_rollout_tenants{state="pending"} 1`)
	}, patience, 200*time.Millisecond)
	require.NotContains(t, body, "made.up")
	require.NotRegexp(t, `company[a-z_]*="|="(sun|moon)"`, body, "no tenant is ever a label")
	code, _ := scrape(t, address, "/debug/pprof/heap")
	require.Equal(t, http.StatusOK, code)

	dir := newDirectory(t)
	require.Equal(t, 2, runTenantry(t, nil, "dev", "--data", dir+"/a", "--ephemeral-ports", "--metrics", "0.0.0.0:0", "--pprof").code)
	require.Equal(t, 2, runTenantry(t, nil, "dev", "--data", dir+"/b", "--ephemeral-ports", "--pprof").code)
}
