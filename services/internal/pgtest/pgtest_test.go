package pgtest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/pgserver"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

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

func TestParallelTestsGetEmptyDatabasesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 2)
	t.Run("both", func(t *testing.T) {
		for _, name := range []string{"one", "two"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.Database(t)
				// Fails in a database that is another test's.
				query(t, dsn, "CREATE TABLE mine (x int)")
				seen <- query(t, dsn, "SELECT current_database()")
			})
		}
	})
	first, second := <-seen, <-seen
	require.NotEqual(t, first, second)
	require.Equal(t, "0", query(t, pgtest.AdminDSN(t),
		"SELECT count(*) FROM pg_database WHERE datname IN ('"+first+"', '"+second+"')"), "databases must go with their tests")
}

func TestServerOfItsOwnKeepsItsDataOverAKill(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	require.NotEqual(t, pgtest.Server(t).Port(), server.Port())
	query(t, server.DSN("postgres"), "SET synchronous_commit = on; CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)")

	require.NoError(t, server.Kill())
	again := pgtest.Restart(t, server)

	require.Equal(t, server.Port(), again.Port())
	require.Equal(t, "7", query(t, again.DSN("postgres"), "SELECT x FROM kept"))
}

func TestServersOfTheirOwnTakeTheirOwnSettings(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, func(cfg *pgserver.Config) {
		cfg.MaxConnections = 17
		cfg.Settings["work_mem"] = "7MB"
	})
	require.Equal(t, "17", query(t, server.DSN("postgres"), "SHOW max_connections"))
	require.Equal(t, "7MB", query(t, server.DSN("postgres"), "SHOW work_mem"))
	require.Equal(t, "400", query(t, pgtest.AdminDSN(t), "SHOW max_connections"))
	require.NotEqual(t, "7MB", query(t, pgtest.AdminDSN(t), "SHOW work_mem"))
}

func TestDatabaseGoesThoughSomebodyIsStillConnected(t *testing.T) {
	t.Parallel()
	var open *pgconn.PgConn
	var name string
	t.Run("leaves a connection", func(t *testing.T) {
		dsn := pgtest.Database(t)
		name = query(t, dsn, "SELECT current_database()")
		var err error
		open, err = pgconn.Connect(context.Background(), dsn)
		require.NoError(t, err)
	})
	defer func() { _ = open.Close(t.Context()) }()
	require.Equal(t, "0", query(t, pgtest.AdminDSN(t), "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'"))
}
