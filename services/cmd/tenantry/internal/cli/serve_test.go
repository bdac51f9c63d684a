package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/gateway"
)

func TestAPasswordIsFoundInEveryKindOfDSN(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]bool{
		"postgres://a@b/c":            false,
		"postgres://a:secret@b/c":     true,
		"postgres://a@b/c?password=x": true,
		"postgres://a@b/c?sslmode=x":  false,
		"host=b user=a":               false,
		"host=b password=x":           true,
		"host=b PASSWORD=x user=a":    true,
	} {
		require.Equal(t, want, hasPassword(dsn), dsn)
	}
}

func TestADSNsPasswordMayComeFromAFileOrTheEnvironmentOnly(t *testing.T) {
	const dsn = "postgres://a:secret@b/c"
	_, err := databaseFlags{DSN: dsn}.dsn("TENANTRY_REGISTRY_DSN")
	require.Equal(t, exitUsage, exitCode(err))
	require.NotContains(t, err.Error(), "secret")

	t.Setenv("TENANTRY_REGISTRY_DSN", dsn)
	got, err := databaseFlags{DSN: dsn}.dsn("TENANTRY_REGISTRY_DSN")
	require.NoError(t, err)
	require.Equal(t, dsn, got)

	file := filepath.Join(t.TempDir(), "dsn")
	require.NoError(t, os.WriteFile(file, []byte(dsn+"\n"), 0o600))
	got, err = databaseFlags{DSNFile: file}.dsn("TENANTRY_REGISTRY_DSN")
	require.NoError(t, err)
	require.Equal(t, dsn, got)
}

func TestTheJobsPagesAreForLoopbackOnly(t *testing.T) {
	t.Parallel()
	l, err := (&provisionerCmd{}).jobsUI(t.Context())
	require.NoError(t, err)
	require.Nil(t, l)
	l, err = (&provisionerCmd{JobsUI: "127.0.0.1:0"}).jobsUI(t.Context())
	require.NoError(t, err)
	taken := l.Addr().String()
	for _, address := range []string{"0.0.0.0:0", ":0", "nonsense", taken} {
		_, err := (&provisionerCmd{JobsUI: address}).jobsUI(t.Context())
		require.Equal(t, exitUsage, exitCode(err), address)
		require.ErrorContains(t, err, "--jobs-ui")
	}
	require.NoError(t, l.Close())
}

func TestUpstreamsAreReadWithAndWithoutTheirGroup(t *testing.T) {
	t.Parallel()
	want := []gateway.Upstream{{Services: []string{"readings.v1.ReadingsService"}, Name: "upstream/readings", Addresses: []string{"127.0.0.1:7500"}}}
	for _, text := range []string{"readings.v1.ReadingsService=readings@127.0.0.1:7500", "readings.v1.ReadingsService=upstream/readings@127.0.0.1:7500"} {
		got, err := upstreamFlags{Upstream: []string{text}}.upstreams()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", "a", "a=b", "a@b:1", "=b@c:1", "a=@c:1", "a=b@", "a=operator/b@c:1"} {
		_, err := upstreamFlags{Upstream: []string{text}}.upstreams()
		require.Equal(t, exitUsage, exitCode(err), text)
	}
}

func TestLimitsAreSaneByDefaultAndOffInDevelopment(t *testing.T) {
	t.Parallel()
	parse := func(args ...string) (root, error) {
		var r root
		parser, err := kong.New(&r, kong.ExplicitGroups(groups()), kong.Vars{"version": ""})
		require.NoError(t, err)
		_, err = parser.Parse(args)
		return r, err
	}
	serving := []string{"gateway", "--registry=r:1", "--master-key=k", "--signing-key=k", "--tls-ca=f", "--tls-cert=f", "--tls-key=f"}
	r, err := parse(serving...)
	require.NoError(t, err)
	got, err := r.Gateway.limits()
	require.NoError(t, err)
	require.Equal(t, gateway.Limits{PerAddress: 10, MaxInFlight: 10_000, Pacing: true}, got)
	r, err = parse("dev")
	require.NoError(t, err)
	got, err = r.Dev.limits()
	require.NoError(t, err)
	require.Zero(t, got)
	r, err = parse(append(serving, "--rate-per-company=0.5", "--rate-per-credential=3", "--rate-per-address=0", "--max-in-flight=7")...)
	require.NoError(t, err)
	got, err = r.Gateway.limits()
	require.NoError(t, err)
	require.Equal(t, gateway.Limits{PerCompany: 0.5, PerCredential: 3, MaxInFlight: 7, Pacing: true}, got)
	for _, bad := range []string{"--rate-per-company=-1", "--rate-per-credential=NaN", "--rate-per-address=Inf", "--max-in-flight=-1"} {
		r, err := parse(append(serving, bad)...)
		require.NoError(t, err)
		_, err = r.Gateway.limits()
		require.Equal(t, exitUsage, exitCode(err), bad)
	}
}
