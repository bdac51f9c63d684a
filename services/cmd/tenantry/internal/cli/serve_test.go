package cli

import (
	"os"
	"path/filepath"
	"testing"

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
	want := []gateway.Upstream{{Service: "readings.v1.ReadingsService", Name: "upstream/readings", Target: "127.0.0.1:7500"}}
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
