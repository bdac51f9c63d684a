package migrate_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestAFileWithoutATransactionGoesOnBehindTheLastStatement(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	s := set(t, "CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1);",
		"-- atlas:txmode none\n\nINSERT INTO a VALUES (7);\nCREATE UNIQUE INDEX CONCURRENTLY i ON a (id);\nINSERT INTO a VALUES (8);")
	_, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.True(t, fault.HasReason(err, fault.MigrationFailed), "%v", err)
	require.Equal(t, "23505", fault.From(err).Metadata["sqlstate"])
	require.Equal(t, []string{"1/3 true"}, texts(t, conn,
		"SELECT applied || '/' || total || ' ' || (error IS NOT NULL AND error_stmt LIKE 'CREATE%')::text FROM atlas_schema_revisions.atlas_schema_revisions WHERE version = '00000002'"))

	exec(t, conn, "DROP INDEX i")
	exec(t, conn, "DELETE FROM a WHERE id = 1")
	got, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.NoError(t, err)
	require.Len(t, got.Applied, 1)
	require.Equal(t, []string{"7", "8"}, texts(t, conn, "SELECT id::text FROM a ORDER BY 1"), "the first statement was not run again")
	requireStatus(t, dsn, s, "", atlascli.Status{OK: true, Current: "00000002"})
}

func TestTheCLIFinishesAFileThatTheEngineAppliedInPart(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	s := set(t, "-- atlas:txmode none\n\nCREATE TABLE a (id int);\nINSERT INTO b VALUES (1);\nVACUUM a;")
	_, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.True(t, fault.HasReason(err, fault.MigrationFailed), "%v", err)
	exec(t, conn, "CREATE TABLE b (id int)")
	cli, err := atlascli.New("")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, s.WriteTo(dir))
	_, err = cli.Apply(t.Context(), dsn, dir, "")
	require.NoError(t, err)
	got, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.NoError(t, err)
	require.Empty(t, got.Applied)
}

func TestManyAtOnceApplyASetOnce(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	s := set(t, "CREATE TABLE a (id int);", "-- atlas:txmode none\n\nCREATE INDEX CONCURRENTLY i ON a (id);", "INSERT INTO a VALUES (1);")
	var group sync.WaitGroup
	applied, failures := make([]int, 6), make([]error, 6)
	for i := range applied {
		conn := connect(t, dsn)
		group.Go(func() {
			got, err := migrate.Apply(context.Background(), conn, s, migrate.Options{LockTimeout: 20 * time.Second})
			applied[i], failures[i] = len(got.Applied), err
		})
	}
	group.Wait()
	require.NoError(t, errors.Join(failures...))
	total := 0
	for _, n := range applied {
		total += n
	}
	require.Equal(t, 3, total)
	require.Equal(t, []string{"1"}, texts(t, connect(t, dsn), "SELECT id::text FROM a"))
}

func TestALockThatIsHeldIsWaitedForThenReported(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn, other := connect(t, dsn), connect(t, dsn)
	exec(t, other, "CREATE TABLE a (id int)")
	s := set(t, "CREATE TABLE b (id int);", "ALTER TABLE a ADD x int;")
	tx, err := other.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE a")
	require.NoError(t, err)
	got, err := migrate.Apply(t.Context(), conn, s, migrate.Options{LockTimeout: 10 * time.Millisecond})
	require.True(t, fault.HasReason(err, fault.LockTimeout), "%v", err)
	require.Equal(t, "55P03", fault.From(err).Metadata["sqlstate"])
	require.Equal(t, "ALTER TABLE a ADD x int;", fault.From(err).Metadata["statement"])
	require.Equal(t, "00000001", got.To)

	var release sync.WaitGroup
	release.Go(func() {
		time.Sleep(300 * time.Millisecond)
		_ = tx.Rollback(context.Background())
	})
	defer release.Wait()
	_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{LockTimeout: 100 * time.Millisecond})
	require.NoError(t, err, "it is tried again")
}

func TestAMigrationThatIsCutOffLeavesAWholeFileAndNoLock(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn, other := connect(t, dsn), connect(t, dsn)
	s := set(t, "CREATE TABLE a (id int);", "CREATE TABLE b (id int); SELECT pg_sleep(600); CREATE TABLE c (id int);")
	done := make(chan error, 1)
	go func() {
		_, err := migrate.Apply(context.Background(), conn, s, migrate.Options{})
		done <- err
	}()
	require.Eventually(t, func() bool {
		return len(texts(t, other, "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")) == 1
	}, time.Minute, 20*time.Millisecond)
	exec(t, other, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	require.Error(t, <-done)
	require.Equal(t, []string{"a"}, texts(t, other, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"))
	require.Eventually(t, func() bool {
		return len(texts(t, other, "SELECT locktype FROM pg_locks WHERE locktype = 'advisory'")) == 0
	}, time.Minute, 10*time.Millisecond)
	requireStatus(t, dsn, s, "", atlascli.Status{Current: "00000001", Pending: 1})

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := migrate.Apply(ctx, connect(t, dsn), s, migrate.Options{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// Cancelling may come before the statement, and be forgotten. Pgx closes such a connection after a quarter of a minute.
	_, err = migrate.Apply(t.Context(), connect(t, dsn), s, migrate.Options{StatementTimeout: 50 * time.Millisecond, LockTimeout: time.Minute})
	require.True(t, fault.HasReason(err, fault.MigrationFailed), "%v", err)
	require.Equal(t, "57014", fault.From(err).Metadata["sqlstate"])
}

func TestAStatementOfAMigrationEndsWithItsClient(t *testing.T) {
	t.Parallel()
	for name, directive := range map[string]string{"in a transaction": "", "in none": "-- atlas:txmode none\n\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Database(t)
			other := connect(t, dsn)
			sleeps := func() bool {
				return len(texts(t, other, "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")) == 1
			}
			through, cut := oneConnection(t, dsn)
			conn, s := connect(t, through), set(t, directive+"SELECT pg_sleep(600);")
			done := make(chan error, 1)
			go func() {
				_, err := migrate.Apply(context.Background(), conn, s, migrate.Options{})
				done <- err
			}()
			require.Eventually(t, sleeps, time.Minute, 20*time.Millisecond)
			cut() // As when the process is killed: nobody is left to ask for an end.
			require.Error(t, <-done)
			require.Eventually(t, func() bool { return !sleeps() }, time.Minute, 20*time.Millisecond)
		})
	}
}

// oneConnection is the DSN of a server for the first who connects, until that is cut.
func oneConnection(t *testing.T, dsn string) (through string, cut func()) {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	out, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	u.Host = l.Addr().String()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in, err := l.Accept()
		_ = l.Close()
		if err != nil {
			return
		}
		var back sync.WaitGroup
		back.Go(func() { _, _ = io.Copy(in, out); _ = in.Close() })
		_, _ = io.Copy(out, in)
		_ = out.Close()
		back.Wait()
	}()
	cut = func() {
		_ = l.Close() // Each may be by now.
		_ = out.Close()
		<-ended
	}
	t.Cleanup(cut)
	return u.String(), cut
}

func TestAnIndexThatCouldNotBeBuiltIsBuiltByTheNextTry(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{"CREATE INDEX CONCURRENTLY i ON a (id);", `CREATE INDEX CONCURRENTLY IF NOT EXISTS "i" ON "public" . a (id);`, "CREATE INDEX CONCURRENTLY ON a (id);"} {
		t.Run(sql, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Database(t)
			conn, other := connect(t, dsn), connect(t, dsn)
			exec(t, conn, "CREATE TABLE a (id int)")
			tx, err := other.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), "INSERT INTO a VALUES (1)")
			require.NoError(t, err)
			s := set(t, "-- atlas:txmode none\n\n"+sql)
			_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{LockTimeout: 20 * time.Millisecond})
			require.True(t, fault.HasReason(err, fault.LockTimeout), "%v", err)
			require.NoError(t, tx.Rollback(t.Context()))
			_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{})
			require.NoError(t, err)
			require.Equal(t, []string{"true"}, texts(t, conn, "SELECT indisvalid::text FROM pg_index WHERE indrelid = 'a'::regclass"))
			requireStatus(t, dsn, s, "", atlascli.Status{OK: true, Current: "00000001"})
		})
	}
}

// The process that builds an index dies, the server goes on, and nobody is left to record it.
func TestAnIndexThatWasBuiltWithoutARecordIsNotBuiltTwice(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	exec(t, conn, "CREATE TABLE a (id int)")
	s := set(t, "-- atlas:txmode none\n\nCREATE INDEX CONCURRENTLY i ON a (id);\nINSERT INTO a VALUES (1);")
	_, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.NoError(t, err)
	exec(t, conn, `UPDATE atlas_schema_revisions.atlas_schema_revisions SET applied = 0, partial_hashes = '[]',
		error = 'Tenantry: this was begun, and has not ended yet', error_stmt = 'CREATE INDEX CONCURRENTLY i ON a (id);'`)
	_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"2"}, texts(t, conn, "SELECT count(*)::text FROM a"))

	// One that the file did not begin is another's.
	exec(t, conn, "UPDATE atlas_schema_revisions.atlas_schema_revisions SET applied = 0, partial_hashes = '[]', error = NULL, error_stmt = NULL")
	_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.Equal(t, "42P07", fault.From(err).Metadata["sqlstate"], "%v", err)
}

func TestAFileMayBeginTransactionsOfItsOwn(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn, other := connect(t, dsn), connect(t, dsn)
	exec(t, conn, "CREATE TABLE a (id int)")
	tx, err := other.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE a")
	require.NoError(t, err)
	s := set(t, "-- atlas:txmode none\n\nCREATE TABLE b (id int);\nBEGIN;\nCREATE TABLE c (id int);\nALTER TABLE a ADD x int;\nCOMMIT;\n")
	_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{LockTimeout: 20 * time.Millisecond})
	require.True(t, fault.HasReason(err, fault.LockTimeout), "%v", err)
	require.Equal(t, []string{"1/5"}, texts(t, conn, "SELECT applied || '/' || total FROM atlas_schema_revisions.atlas_schema_revisions"),
		"its transaction was rolled back with its record")
	require.NoError(t, tx.Rollback(t.Context()))
	_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.NoError(t, err)
	requireStatus(t, dsn, s, "", atlascli.Status{OK: true, Current: "00000001"})

	conn = connect(t, pgtest.Database(t))
	_, err = migrate.Apply(t.Context(), conn, set(t, "-- atlas:txmode none\n\nBEGIN; CREATE TABLE c (id int);"), migrate.Options{})
	require.True(t, fault.HasReason(err, fault.MigrationFailed), "%v", err)
	require.ErrorContains(t, err, "COMMIT")
	require.Empty(t, texts(t, conn, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"))
}

func TestWhatAFileSetsForItsSessionEndsWithIt(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"", "-- atlas:txmode none\n\n"} {
		conn := connect(t, pgtest.Database(t))
		first := mode + "SELECT pg_catalog.set_config('search_path', '', false);\nSET lock_timeout = 1;"
		if mode == "" {
			first += "\nSET SESSION AUTHORIZATION pg_monitor;"
		}
		_, err := migrate.Apply(t.Context(), conn, set(t, first, mode+"CREATE TABLE a (id int);"), migrate.Options{})
		require.NoError(t, err)
		_, err = migrate.Apply(t.Context(), conn, set(t, mode+"CREATE TABLE p (id int);", first), migrate.Options{RevisionsSchema: "atlas_plugin_x"})
		require.NoError(t, err)
		require.Equal(t, []string{`"$user", public 0 true`}, texts(t, conn,
			"SELECT current_setting('search_path') || ' ' || current_setting('lock_timeout') || ' ' || (session_user = (SELECT usename FROM pg_stat_activity WHERE pid = pg_backend_pid()))::text"))
	}
}

func TestTheConnectionIsInNoTransactionAfterAFailure(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Database(t))
	_, err := migrate.Apply(t.Context(), conn, set(t, "SELECT 1/0;"), migrate.Options{})
	require.Error(t, err)
	require.Equal(t, byte('I'), conn.PgConn().TxStatus())
	_, err = conn.Exec(t.Context(), "SELECT 1", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}
