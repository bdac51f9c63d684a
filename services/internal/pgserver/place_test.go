package pgserver_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// unreachable returns a directory that only its owner may pass through. For anybody but root that makes no difference:
// PostgreSQL then runs as its owner, and the cluster is where it was asked for.
func unreachable(t *testing.T) string {
	t.Helper()
	dir := reachable(t)
	require.NoError(t, os.Chmod(dir, 0o700))
	return dir
}

// removeAtEnd removes the cluster, wherever it went.
func removeAtEnd(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() { require.NoError(t, pgserver.Remove(context.Background(), dir)) })
}

func TestUnreachableDirectoryWorksAndKeepsItsData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(unreachable(t), "data", "pg")
	var log strings.Builder
	cfg := config(dir)
	cfg.Log = &log
	server := startServer(t, cfg)
	query(t, server.DSN("postgres"), "CREATE TABLE kept AS SELECT 7 AS x")
	require.FileExists(t, filepath.Join(dir, "PG_VERSION"), "the cluster must be seen where it was asked for")
	require.NotEmpty(t, serving(t, dir))
	resolved, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)

	_, err = pgserver.Start(t.Context(), config(dir))
	require.ErrorIs(t, err, pgserver.ErrOwned)
	require.NoError(t, server.Stop(t.Context()))
	again := startServer(t, config(dir))
	require.Equal(t, "7", query(t, again.DSN("postgres"), "SELECT x FROM kept"))

	if resolved != dir {
		require.Contains(t, log.String(), "the cluster is kept in "+resolved)
	}
	require.NoError(t, again.Stop(t.Context()))
	require.NoError(t, pgserver.Remove(t.Context(), dir))
	for _, path := range []string{dir, resolved} {
		left, err := filepath.Glob(path + "*")
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func TestRemovedDirectoryBeginsAnew(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(unreachable(t), "data", "pg")
	removeAtEnd(t, dir)
	server := startServer(t, config(dir))
	query(t, server.DSN("postgres"), "CREATE TABLE kept AS SELECT 7 AS x")
	require.NoError(t, server.Stop(t.Context()))

	// What people do to get rid of everything; the password goes with it.
	require.NoError(t, os.RemoveAll(filepath.Dir(dir)))

	cfg := config(dir)
	cfg.Password = "another"
	again := startServer(t, cfg)
	require.Empty(t, query(t, again.DSN("postgres"), "SELECT to_regclass('kept')"))
}

func TestCopyOfADirectoryDoesNotShareItsCluster(t *testing.T) {
	t.Parallel()
	parent := unreachable(t)
	dir, copied := filepath.Join(parent, "pg"), filepath.Join(parent, "copied")
	removeAtEnd(t, dir)
	server := startServer(t, config(dir))
	resolved, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	require.NoError(t, os.Symlink(resolved, copied))

	_, err = pgserver.Start(t.Context(), config(copied))
	require.Error(t, err)
	require.Equal(t, "1", query(t, server.DSN("postgres"), "SELECT 1"))
	if resolved != dir {
		require.ErrorContains(t, err, "the cluster of a directory elsewhere")
	}
}

func TestEmptyDirectoryIsTaken(t *testing.T) {
	t.Parallel()
	for name, parent := range map[string]string{"reachable": reachable(t), "unreachable": unreachable(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(parent, "pg")
			require.NoError(t, os.Mkdir(dir, 0o755))
			removeAtEnd(t, dir)
			server := startServer(t, config(dir))
			require.Equal(t, "1", query(t, server.DSN("postgres"), "SELECT 1"))
		})
	}
}

func TestWhatAKilledInitdbLeftIsRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	left := dir + ".initdb-123"
	require.NoError(t, os.MkdirAll(filepath.Join(left, "data", "base"), 0o700))

	startServer(t, config(dir))

	require.NoDirExists(t, left)
}

func TestClusterOfARemovedTemporaryDirectoryGoesWithTheNextStart(t *testing.T) {
	t.Parallel()
	top := unreachable(t)
	dir := filepath.Join(top, "checkout", "pg")
	server := startServer(t, config(dir))
	resolved, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	require.NoError(t, server.Stop(t.Context()))
	require.NoError(t, os.RemoveAll(filepath.Join(top, "checkout")))

	// Another directory altogether, of whose kind there may be none to come at the old place.
	other := filepath.Join(unreachable(t), "pg")
	removeAtEnd(t, other)
	startServer(t, config(other))

	left, err := filepath.Glob(resolved + "*")
	require.NoError(t, err)
	require.Empty(t, left)
}
