package pgserver_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// reachable returns a directory that every user may pass through, which t.TempDir's are not, nor root's TMPDIR always.
func reachable(t *testing.T) string {
	t.Helper()
	parent := ""
	if os.Geteuid() == 0 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "pgserver-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

func startServer(t *testing.T, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	server, err := pgserver.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop(context.Background())) })
	return server
}

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	require.NoError(t, err)
	last := results[len(results)-1]
	if len(last.Rows) == 0 {
		return ""
	}
	return string(last.Rows[0][0])
}

// postmaster returns the id of the process that serves dir.
func postmaster(t *testing.T, dir string) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(line)
	require.NoError(t, err)
	return pid
}

// serving returns the live processes that were started for the cluster in dir, or that its postmaster started: those
// bear no directory, but all stand in it.
func serving(t *testing.T, dir string) []string {
	t.Helper()
	resolved, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	var found []string
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && cwd == resolved {
			found = append(found, filepath.Base(filepath.Dir(link)))
		}
	}
	return found
}

func TestServerAnswersOnLoopbackAndOnlyToThePassword(t *testing.T) {
	t.Parallel()
	cfg := config(filepath.Join(reachable(t), "pg"))
	cfg.MaxConnections = 33
	cfg.Superuser = "boss"
	cfg.Settings = map[string]string{"work_mem": "7MB"}
	server := startServer(t, cfg)

	for setting, want := range map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": strconv.Itoa(server.Port()), "ssl": "off",
		"max_connections": "33", "work_mem": "7MB", "fsync": "off", "server_encoding": "UTF8", "password_encryption": "scram-sha-256",
	} {
		require.Equal(t, want, query(t, server.DSN("template1"), "SHOW "+setting), setting)
	}
	require.Equal(t, "boss", query(t, server.DSN("postgres"), "SELECT current_user"))
	require.Equal(t, "scram-sha-256", query(t, server.DSN("postgres"), "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"))

	_, err := pgconn.Connect(t.Context(), strings.Replace(server.DSN("postgres"), "p%40ss", "guess", 1))
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, "28P01", pgErr.Code)
}

func TestStopLeavesNoProcessAndStartGoesOnWithTheSameDataAndPort(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	server := startServer(t, config(dir))
	query(t, server.DSN("postgres"), "CREATE TABLE kept AS SELECT 7 AS x")
	open, err := pgconn.Connect(t.Context(), server.DSN("postgres"))
	require.NoError(t, err)
	require.NotEmpty(t, serving(t, dir))

	require.NoError(t, server.Stop(t.Context()))

	require.Empty(t, serving(t, dir))
	require.NoError(t, server.Err())
	require.NoError(t, server.Stop(t.Context()), "stopping may be repeated")
	require.Error(t, open.Exec(t.Context(), "SELECT 1").Close(), "a session does not outlive the server")
	require.True(t, open.IsClosed())

	again := startServer(t, server.Config())
	require.Equal(t, server.Port(), again.Port())
	require.Equal(t, "7", query(t, again.DSN("postgres"), "SELECT x FROM kept"))
}

func TestKillCrashesTheServerAndKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	var log strings.Builder
	cfg := config(dir)
	cfg.Log = &log
	server := startServer(t, cfg)
	query(t, server.DSN("postgres"), "CREATE TABLE kept AS SELECT 7 AS x")

	require.NoError(t, server.Kill())
	require.Empty(t, serving(t, dir))

	again := startServer(t, server.Config())
	require.Equal(t, "7", query(t, again.DSN("postgres"), "SELECT x FROM kept"))
	require.NoError(t, again.Stop(t.Context()))
	require.Contains(t, log.String(), "automatic recovery in progress")
}

func TestServerThatEndsByItselfSaysSo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	server := startServer(t, config(dir))
	require.NoError(t, server.Err())

	require.NoError(t, syscall.Kill(postmaster(t, dir), syscall.SIGTERM))

	select {
	case <-server.Done():
	case <-time.After(20 * time.Second):
		require.Fail(t, "Done was not closed")
	}
	require.ErrorContains(t, server.Err(), "received smart shutdown request")
}

func TestTakenPortIsNamedInTheError(t *testing.T) {
	t.Parallel()
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer other.Close()
	dir := filepath.Join(reachable(t), "pg")
	cfg := config(dir)
	cfg.Port = other.Addr().(*net.TCPAddr).Port

	_, err = pgserver.Start(t.Context(), cfg)

	require.ErrorContains(t, err, "Address already in use")
	require.ErrorContains(t, err, strconv.Itoa(cfg.Port))
	cfg.Port = 0
	startServer(t, cfg) // the failed start gave up the directory
}

func TestAnotherServerOnThePortIsNotTakenForOnesOwn(t *testing.T) {
	t.Parallel()
	first := startServer(t, config(filepath.Join(reachable(t), "pg")))
	cfg := config(filepath.Join(reachable(t), "pg"))
	cfg.Port = first.Port()

	_, err := pgserver.Start(t.Context(), cfg)

	require.ErrorContains(t, err, "Address already in use")
}

func TestWrongPasswordForAnExistingClusterIsAnErrorAndNoHang(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	require.NoError(t, startServer(t, config(dir)).Stop(t.Context()))
	cfg := config(dir)
	cfg.Password = "another"

	_, err := pgserver.Start(t.Context(), cfg)

	require.ErrorContains(t, err, "28P01")
	require.Empty(t, serving(t, dir))
}

func TestBadSettingIsExplainedByTheServersLog(t *testing.T) {
	t.Parallel()
	cfg := config(filepath.Join(reachable(t), "pg"))
	cfg.Settings = map[string]string{"no_such_setting": "1"}

	_, err := pgserver.Start(t.Context(), cfg)

	require.ErrorContains(t, err, `unrecognized configuration parameter "no_such_setting"`)
}

func TestCancelledStartLeavesNothingHalfMade(t *testing.T) {
	t.Parallel()
	parent := reachable(t)
	dir := filepath.Join(parent, "pg")
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()

	_, err := pgserver.Start(ctx, config(dir))

	require.Error(t, err)
	left, err := filepath.Glob(dir + "*")
	require.NoError(t, err)
	require.Equal(t, []string{dir + ".lock"}, left)
	startServer(t, config(dir))
}

func TestDirectoryOfOtherFilesIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	file := filepath.Join(dir, "thesis.txt")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir+".lock")) })

	_, err := pgserver.Start(t.Context(), config(dir))
	require.ErrorContains(t, err, "want nothing, an empty directory or a cluster")

	require.ErrorContains(t, pgserver.Remove(t.Context(), dir), "want a cluster to remove")
	require.FileExists(t, file)
}

func TestRemoveDeletesAClusterButNotUnderALiveOwner(t *testing.T) {
	t.Parallel()
	parent := reachable(t)
	dir := filepath.Join(parent, "pg")
	server := startServer(t, config(dir))

	require.ErrorIs(t, pgserver.Remove(t.Context(), dir), pgserver.ErrOwned)
	require.Equal(t, "1", query(t, server.DSN("postgres"), "SELECT 1"))

	require.NoError(t, server.Stop(t.Context()))
	require.NoError(t, pgserver.Remove(t.Context(), dir))
	left, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, pgserver.Remove(t.Context(), dir), "removing nothing is fine")
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := pgserver.Start(t.Context(), pgserver.Config{Port: 65536, MaxConnections: -1})
	for _, want := range []string{"no Dir: want", "no Password: want", "Port: got 65536", "MaxConnections: got -1"} {
		require.ErrorContains(t, err, want)
	}
}
