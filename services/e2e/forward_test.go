package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// upstream builds and runs examples/readings behind the system, which must have been started with an --upstream of that
// address. It is another team's program, so it is called as any client would call it: by grpcurl, from its proto file.
func (s *system) upstream(address string) {
	s.t.Helper()
	binary := filepath.Join(s.t.TempDir(), "readings")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "./readings")
	build.Dir, build.Env = "../../examples", append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	authority, err := pki.Open(filepath.Dir(s.env["TENANTRY_CA"]))
	require.NoError(s.t, err)
	files, err := authority.Issue("upstream/readings", "127.0.0.1")
	require.NoError(s.t, err)
	var log bytes.Buffer
	cmd := exec.Command(binary, "--listen", address, "--gateway", s.env["TENANTRY_GATEWAY"], "--tls-ca", s.env["TENANTRY_CA"], "--tls-cert", files.Cert, "--tls-key", files.Key)
	cmd.Stderr = &log
	cmd.SysProcAttr = diesWithParent()
	require.NoError(s.t, cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		require.NoError(s.t, cmd.Wait(), log.String())
	})
}

// grpcurl calls a method of the example through the gateway and returns what it printed.
func (s *system) grpcurl(token, method, body string, flags ...string) (string, error) {
	s.t.Helper()
	tool, err := filepath.Abs("../../bin/grpcurl")
	require.NoError(s.t, err)
	args := append([]string{"-cacert", s.env["TENANTRY_CA"], "-use-reflection", "-import-path", "../../examples/proto", "-proto", "readings/v1/readings.proto",
		"-H", "authorization: Bearer " + token}, flags...)
	args = append(args, "-d", body, s.env["TENANTRY_GATEWAY"], "readings.v1.ReadingsService/"+method)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput()
	return string(out), err
}

func TestAServiceBehindTheGatewayServesEachCompanyFromItsOwnDatabase(t *testing.T) {
	t.Parallel()
	_, err := os.Stat("../../bin/grpcurl")
	require.NoError(t, err, "`make bin/grpcurl` builds it")
	address := freeAddress(t)
	s := newSystem(t, "--upstream", "readings.v1.ReadingsService=readings@"+address)
	sun, moon := s.signUp("sun"), s.signUp("moon")
	s.upstream(address)
	token := map[string]string{}
	for _, c := range []company{sun, moon} {
		token[c.slug] = s.token(c)
	}
	call := func(slug, method, body string, flags ...string) string {
		out, err := s.grpcurl(token[slug], method, body, flags...)
		require.NoError(t, err, out)
		return out
	}

	// Unary, with the upstream's own error details.
	for _, slug := range []string{"sun", "moon"} {
		call(slug, "AddMeter", `{"meter": "M-1", "manufacturer": "Calin"}`)
	}
	require.Contains(t, call("sun", "RecordReading", `{"reading": {"meter": "M-1", "date": "2026-11-20", "totalKwh": "12.5"}}`), `"consumedKwh": "12.5000"`)
	out, err := s.grpcurl(token["sun"], "RecordReading", `{"reading": {"meter": "M-9", "date": "2026-11-20", "totalKwh": "1"}}`)
	require.Error(t, err)
	require.Contains(t, out, "METER_NOT_FOUND")
	require.Contains(t, out, "Code: NotFound")
	out, err = s.grpcurl(token["sun"], "RecordReading", `{"reading": {"meter": "M-1", "date": "2026-11-20", "totalKwh": "13"}}`)
	require.Error(t, err)
	require.Contains(t, out, "SQL_ERROR", "SqlService's own error passes through the upstream and back: %s", out)

	// A stream of requests, a stream of answers with trailers, and both ways.
	require.Contains(t, call("sun", "ImportReadings", `{"reading": {"meter": "M-1", "date": "2026-11-21", "totalKwh": "20"}} {"reading": {"meter": "M-9", "date": "2026-11-21", "totalKwh": "1"}}`), `"stored": 1`)
	list := call("sun", "ListReadings", `{"meter": "M-1"}`, "-v")
	require.Equal(t, 2, strings.Count(list, `"date"`))
	require.Contains(t, list, "readings-count: 2")
	require.Contains(t, call("sun", "Exchange", `{"reading": {"meter": "M-1", "date": "2026-11-22", "totalKwh": "21"}} {"reading": {"meter": "M-1", "date": "2026-11-23", "totalKwh": "23"}}`), `"consumedKwh": "2.0000"`)

	// The other company has none of it, whatever its caller claims.
	require.NotContains(t, call("moon", "ListReadings", `{"meter": "M-1"}`, "-H", "tenantry-assertion: x", "-H", "x-tenant-id: "+sun.id), `"date"`)
	require.EqualValues(t, 0, s.execute(moon, "DELETE FROM meter_consumptions"))
	require.EqualValues(t, 4, s.execute(sun, "UPDATE meter_consumptions SET credit_kwh = 0"))

	out, err = s.grpcurl("x", "ListReadings", `{"meter": "M-1"}`)
	require.Error(t, err)
	require.Contains(t, out, "CREDENTIALS_INVALID")

	// An upstream's certificate alone opens nothing.
	certificates := filepath.Dir(s.env["TENANTRY_CA"])
	conn, err := rpc.Dial(s.env["TENANTRY_GATEWAY"], rpc.TLS{CA: s.env["TENANTRY_CA"], Cert: filepath.Join(certificates, "upstream-readings.pem"), Key: filepath.Join(certificates, "upstream-readings-key.pem")})
	require.NoError(t, err)
	defer conn.Close()
	_, err = gatewayv1.NewSqlServiceClient(conn).Execute(t.Context(), &gatewayv1.ExecuteRequest{Sql: "SELECT 1", Company: "sun"})
	requireReason(t, err, codes.Unauthenticated, fault.CredentialsMissing)
}
