package devserver

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// awkward holds what shells give a meaning to.
func awkward() Environment {
	return Environment{
		Gateway: "127.0.0.1:7400", Registry: "127.0.0.1:7401", Provisioner: "127.0.0.1:7402",
		CA: "/home/ada lovelace/ca.pem", OperatorCert: "/it's/$HOME.pem", OperatorKey: `/a"b`, SignupCert: "/a&b", SignupKey: "/a;b",
		AdminDSN: "postgres://postgres:p@127.0.0.1:7432/postgres?sslmode=disable&a=b", RegistryDSN: "x", ProvisionerDSN: "",
	}
}

func TestDevEnvIsReadBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dev.env")
	env := awkward()
	require.NoError(t, env.write(path))
	got, err := ReadEnvironment(path)
	require.NoError(t, err)
	for _, v := range env.variables() {
		require.Equal(t, *v.value, got[v.name], v.name)
	}
	require.Len(t, got, len(env.variables()))
}

func TestAShellReadsDevEnvAlike(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dev.env")
	env := awkward()
	require.NoError(t, env.write(path))
	for _, v := range env.variables() {
		got, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", `. "$1"; eval "printf %s \"\$$2\""`, "sh", path, v.name).Output()
		require.NoError(t, err)
		require.Equal(t, *v.value, string(got), v.name)
	}
}

func TestAWrongLineOfDevEnvIsNamed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dev.env")
	for text, want := range map[string]string{
		"A=1\nnonsense\n":     `line 2: got "nonsense", want NAME=VALUE`,
		"=1\n":                "line 1",
		"set -a TENANTRY=1\n": "line 1",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := ReadEnvironment(path)
		require.ErrorContains(t, err, want)
	}
}

func TestDevEnvIsForItsOwnerAloneAndLeavesNoHalves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "dev.env")
	env := awkward()
	require.NoError(t, env.write(path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestSecretsAreMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	dir, err := openDirectory(filepath.Join(t.TempDir(), "data"), false)
	require.NoError(t, err)
	defer func() { require.NoError(t, dir.close()) }()
	first, err := openSecrets(dir)
	require.NoError(t, err)
	again, err := openSecrets(dir)
	require.NoError(t, err)
	require.Equal(t, first.masterKey.Hex(), again.masterKey.Hex())
	require.Equal(t, first.postgresPassword, again.postgresPassword)
	require.NotEmpty(t, first.postgresPassword)
	err = filepath.Walk(dir.path, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && !strings.HasSuffix(path, ".pem") || strings.HasSuffix(path, "-key.pem") || strings.HasPrefix(path, dir.keys()) {
			require.Zero(t, info.Mode().Perm()&0o077, path)
		}
		return err
	})
	require.NoError(t, err)
}

func TestADirectoryIsOnesOwnUntilItIsClosed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data")
	first, err := openDirectory(path, false)
	require.NoError(t, err)
	_, err = openDirectory(path, false)
	require.ErrorIs(t, err, ErrRunning)
	require.NoError(t, first.close())
	second, err := openDirectory(path, false)
	require.NoError(t, err)
	require.NoError(t, second.close())
}

func TestATakenPortIsToldWithItsServiceAndFreesTheOthers(t *testing.T) {
	t.Parallel()
	taken, err := listenOn(t.Context(), "test", 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	port := portOf(t, taken.Addr().String())

	_, err = listen(t.Context(), Ports{Provisioner: port})
	require.ErrorContains(t, err, "the provisioner's address")
	require.ErrorContains(t, err, "is taken by another process")
	_, err = listen(t.Context(), Ports{Postgres: port})
	require.ErrorContains(t, err, "PostgreSQL's address")

	free, err := listen(t.Context(), Ports{})
	require.NoError(t, err)
	gateway := portOf(t, free.gateway.Addr().String())
	free.closeUnserved()
	again, err := listen(t.Context(), Ports{Gateway: gateway})
	require.NoError(t, err, "closing must free the port")
	again.closeUnserved()
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	require.NoError(t, err)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	return port
}
