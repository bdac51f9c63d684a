package sqlapi

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

func TestATransactionIsKeptByCommitAndUndoneByRollback(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	for _, c := range []struct {
		step   *gatewayv1.TransactRequest
		status gatewayv1.TransactionStatus
		names  string
	}{{rollback(), rolledBack, "a,b"}, {commit(), committed, "a,b,c"}} {
		tx := f.begin(nil)
		_, end := tx.do(run("INSERT INTO items VALUES ($1, $2)", text("3"), text("c")))
		require.EqualValues(t, 1, end.GetRowsAffected())
		require.Equal(t, []string{"1|a", "2|b", "3|c"}, tx.run("SELECT * FROM items ORDER BY id"))
		require.Equal(t, "a,b", f.ask("SELECT name FROM items ORDER BY id"), "nobody else sees it yet")
		_, end = tx.do(c.step)
		require.Equal(t, c.status, end.GetStatus())
		require.Nil(t, end.GetError())
		require.NoError(t, tx.ended())
		require.Equal(t, c.names, f.ask("SELECT name FROM items ORDER BY id"))
	}
	require.EqualValues(t, 1, f.settled().Dials)

	// Steps need not wait for answers, and large results come in parts.
	tx := f.begin(nil)
	for _, step := range []*gatewayv1.TransactRequest{run("SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g"), run("DELETE FROM items"), commit()} {
		tx.send(step)
	}
	rows, end, err := tx.answer()
	require.NoError(t, err)
	require.Len(t, rows, 20000)
	require.EqualValues(t, 20000, end.GetRowsAffected())
	_, end, err = tx.answer()
	require.NoError(t, err)
	require.EqualValues(t, 3, end.GetRowsAffected())
	require.NoError(t, tx.ended())
	require.Equal(t, "0", f.ask("SELECT count(*) FROM items"))
}

func TestAnErrorAbortsTheTransactionAndDoesNotEndTheStream(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	tx := f.begin(nil)
	tx.run("INSERT INTO items VALUES (3, 'c')")
	for _, name := range []string{"here", "Here", "order"} {
		_, end := tx.do(savepoint(name))
		require.Nil(t, end.GetError())
		tx.run(fmt.Sprintf("INSERT INTO items VALUES (%d, '%s')", 10+len(name)+int(name[0]), name))
	}
	failed := tx.fails(run("SELECT nothing"), codes.InvalidArgument, fault.SQLError, aborted)
	require.Equal(t, "42703", failed.GetMetadata()["sqlstate"])
	require.Equal(t, "8", failed.GetMetadata()["position"])
	for _, step := range []*gatewayv1.TransactRequest{run("SELECT 1"), savepoint("more"), release("here"), run("DO 'BEGIN END'")} {
		failed = tx.fails(step, codes.FailedPrecondition, fault.SQLError, aborted)
		require.Equal(t, "25P02", failed.GetMetadata()["sqlstate"])
	}
	_, end := tx.do(rollbackTo("Here"))
	require.Nil(t, end.GetError())
	require.Equal(t, open, end.GetStatus())
	require.Equal(t, []string{"a", "b", "c", "here"}, tx.run("SELECT name FROM items ORDER BY id"))
	_, end = tx.do(release("here"))
	require.Nil(t, end.GetError())
	failed = tx.fails(rollbackTo("here"), codes.FailedPrecondition, fault.SQLError, aborted)
	require.Equal(t, "3B001", failed.GetMetadata()["sqlstate"])

	_, end = tx.do(commit())
	require.Equal(t, rolledBack, end.GetStatus())
	require.Equal(t, fault.TransactionRolledBack, end.GetError().GetReason())
	requireReason(t, tx.ended(), codes.Aborted, fault.TransactionRolledBack)
	require.Equal(t, "a,b", f.ask("SELECT name FROM items ORDER BY id"))

	// After the way back the rest is kept; an error after rows were sent is one as well.
	tx = f.begin(nil)
	tx.run("INSERT INTO items VALUES (3, 'c')")
	tx.do(savepoint("s"))
	tx.fails(run("SELECT 1 / (50000 - g), repeat('x', 100) FROM generate_series(1, 100000) g"), codes.InvalidArgument, fault.SQLError, aborted)
	tx.do(rollbackTo("s"))
	_, end = tx.do(commit())
	require.Equal(t, committed, end.GetStatus())
	require.NoError(t, tx.ended())
	require.Equal(t, "a,b,c", f.ask("SELECT name FROM items ORDER BY id"))
	require.EqualValues(t, 1, f.settled().Dials)
}

func TestACommitThatPostgreSQLRefusesIsTheCallsError(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	f.ask("ALTER TABLE items ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED; SELECT ''")
	tx := f.begin(nil)
	tx.run("INSERT INTO items VALUES (3, 'a')")
	_, end := tx.do(commit())
	require.Equal(t, rolledBack, end.GetStatus())
	require.Equal(t, "23505", end.GetError().GetMetadata()["sqlstate"])
	requireReason(t, tx.ended(), codes.AlreadyExists, fault.SQLError)
	require.Equal(t, "2", f.ask("SELECT count(*) FROM items"))
}

func TestWhoeverLeavesHasTheTransactionRolledBackAndTheConnectionIsUsedAgain(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	backend := f.must(&gatewayv1.QueryRequest{Sql: "SELECT pg_backend_pid()"})
	leave := map[string]func(tx *talk){
		"goes away": func(tx *talk) {
			tx.cancel()
			require.Error(t, tx.ended())
		},
		"goes away while a statement runs": func(tx *talk) {
			tx.send(run("SELECT pg_sleep(600)"))
			require.Eventually(t, func() bool {
				return f.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()") == "1"
			}, patience, time.Millisecond)
			tx.cancel()
			require.Error(t, tx.ended())
		},
		"sends no more": func(tx *talk) {
			require.NoError(t, tx.stream.CloseSend())
			requireReason(t, tx.ended(), codes.FailedPrecondition, fault.TransactionLeftOpen)
		},
		"begins again": func(tx *talk) {
			tx.send(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{}}})
			requireReason(t, tx.ended(), codes.InvalidArgument, fault.FieldInvalid)
		},
	}
	for name, leave := range leave {
		tx := f.begin(nil)
		tx.run("INSERT INTO items VALUES (3, 'c')")
		tx.run("SET work_mem = '77MB'")
		tx.run("SELECT pg_advisory_lock(7)")
		leave(tx)
		require.EqualValues(t, 1, f.settled().Dials, name)
		require.Equal(t, backend[0]+"|2|f", f.must(&gatewayv1.QueryRequest{Sql: "SELECT pg_backend_pid(), (SELECT count(*) FROM items), current_setting('work_mem') = '77MB'"})[0], name)
		require.Equal(t, "t", f.ask("SELECT pg_try_advisory_xact_lock(7)"), name)
	}

	for name, first := range map[string]*gatewayv1.TransactRequest{"a statement": run("SELECT 1"), "a commit": commit()} {
		stream, err := f.client.Transact(t.Context())
		require.NoError(t, err)
		require.NoError(t, stream.Send(first), name)
		_, err = stream.Recv()
		require.Equal(t, "step", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"], name)
	}
	stream, err := f.client.Transact(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid)
	require.EqualValues(t, 1, f.settled().Dials, "none of these had a connection")
}

func TestATransactionEndsWithItsLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits Limits
		then   []*gatewayv1.TransactRequest
		reason string
	}{
		"no next step":           {Limits{Idle: 2 * time.Second}, nil, fault.TransactionIdle},
		"too long, idle":         {Limits{Transaction: 3 * time.Second}, nil, fault.TransactionTimeout},
		"too long, running":      {Limits{Transaction: 3 * time.Second}, []*gatewayv1.TransactRequest{run("SELECT pg_sleep(600)")}, fault.TransactionTimeout},
		"too long, nobody reads": {Limits{Transaction: 3 * time.Second}, []*gatewayv1.TransactRequest{run("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")}, fault.TransactionTimeout},
		"nobody reads rows":      {Limits{Statement: 5 * time.Second}, []*gatewayv1.TransactRequest{run("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")}, fault.StatementTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, c.limits, person)
			f.must(&gatewayv1.QueryRequest{Sql: "SELECT 1"})
			tx := f.begin(nil)
			tx.run("INSERT INTO items VALUES (3, 'c')")
			for _, step := range c.then {
				tx.send(step)
			}
			// The connection is free whether the caller reads or not.
			stats := f.settled()
			require.LessOrEqual(t, stats.Open, 1)
			require.Eventually(t, func() bool {
				return f.ask("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()") == "0"
			}, patience, time.Millisecond, "PostgreSQL is told to roll back, and not waited for")
			require.Equal(t, "2", f.ask("SELECT count(*) FROM items"))
			requireReason(t, tx.ended(), codes.DeadlineExceeded, c.reason)
		})
	}
}

func TestAnAnswerThatNobodyReadsHoldsNoConnection(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{Idle: 2 * time.Second}, person)
	tx := f.begin(nil)
	// Each is less than a part of its own, so nothing is sent while a statement runs; together they are more than the
	// stream takes.
	for range 30 {
		if tx.stream.Send(run("SELECT repeat('x', 60000)")) != nil {
			break
		}
	}
	f.settled()
	requireReason(t, tx.ended(), codes.DeadlineExceeded, fault.TransactionIdle)
}

func TestAStatementThatTakesTooLongAbortsTheTransactionAndNoMore(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{Statement: 2 * time.Second}, person)
	tx := f.begin(nil)
	tx.do(savepoint("s"))
	tx.fails(run("SELECT pg_sleep(600)"), codes.DeadlineExceeded, fault.StatementTimeout, aborted)
	tx.do(rollbackTo("s"))
	tx.run("INSERT INTO items VALUES (3, 'c')")
	_, end := tx.do(commit())
	require.Equal(t, committed, end.GetStatus())
	require.NoError(t, tx.ended())
	require.EqualValues(t, 1, f.settled().Dials)
}

func TestAStatementCannotEndTheTransactionUnnoticed(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	f.ask("CREATE PROCEDURE leave() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$; GRANT EXECUTE ON PROCEDURE leave TO PUBLIC; SELECT ''")
	tx := f.begin(nil)
	tx.run("INSERT INTO items VALUES (3, 'c')")
	for _, sql := range []string{"COMMIT", " -- x\n;/* y */;cOmmit AND CHAIN", "ROLLBACK", "abort", "END", "BEGIN", "START TRANSACTION", "PREPARE TRANSACTION 'x'", ";ROLLBACK WORK"} {
		tx.fails(run(sql), codes.InvalidArgument, fault.TransactionControl, open)
	}
	tx.do(savepoint("s"))
	for _, sql := range []string{"CALL leave()", "DO 'BEGIN ROLLBACK; END'", "SELECT 1; COMMIT"} {
		tx.fails(run(sql), codes.InvalidArgument, fault.SQLError, aborted)
		tx.do(rollbackTo("s"))
	}
	tx.run("SAVEPOINT own")
	tx.run("ROLLBACK TO own")
	tx.do(rollback())
	require.NoError(t, tx.ended())
	require.Equal(t, "2", f.ask("SELECT count(*) FROM items"))

	// Nothing that is known does, and if something did, it would be told.
	conn, err := f.pools.Acquire(t.Context(), f.target())
	require.NoError(t, err)
	defer conn.Release()
	ended := &transaction{Service: &Service{limits: Limits{Statement: patience}}, session: conn.Session()}
	failed, err := ended.do(t.Context(), pgsession.Call{Begin: "BEGIN"}, &execution{})
	require.NoError(t, err)
	require.Nil(t, failed)
	_, err = ended.control(t.Context(), "COMMIT")
	requireReason(t, err, codes.FailedPrecondition, fault.TransactionEnded)
}

func TestAWrongParameterIsNamedAndTheTransactionGoesOn(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	tx := f.begin(nil)
	failed := tx.fails(run("SELECT $1::json", &gatewayv1.Value{Value: &gatewayv1.Value_Json{Json: "{"}}), codes.InvalidArgument, fault.FieldInvalid, open)
	require.Equal(t, "statement.params[0].json", failed.GetMetadata()["field"])
	tx.run("SELECT 1")
}

func TestASerializationFailureSaysThatAnotherTryMayHelp(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	options := &gatewayv1.TransactionOptions{Isolation: gatewayv1.IsolationLevel_ISOLATION_LEVEL_SERIALIZABLE}
	one, other := f.begin(options), f.begin(options)
	for id, tx := range map[int]*talk{1: one, 2: other} {
		require.Equal(t, []string{"serializable"}, tx.run("SHOW transaction_isolation"))
		tx.run("SELECT sum(length(name)) FROM items")
		tx.run(fmt.Sprintf("UPDATE items SET name = 'longer' WHERE id = %d", id))
	}
	_, end := one.do(commit())
	require.Equal(t, committed, end.GetStatus())
	require.NoError(t, one.ended())
	_, end = other.do(commit())
	require.Equal(t, rolledBack, end.GetStatus())
	require.Equal(t, "40001", end.GetError().GetMetadata()["sqlstate"])
	require.Positive(t, end.GetError().GetRetryAfter().AsDuration())
	failed := requireReason(t, other.ended(), codes.Aborted, fault.SQLError)
	require.Positive(t, failed.RetryAfter)
	require.Equal(t, "40001", failed.Metadata["sqlstate"])
}

func TestATransactionIsFinishedWhileItsConnectionsAreDrained(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	tx := f.begin(nil)
	tx.run("INSERT INTO items VALUES (3, 'c')")
	f.pools.Drain(f.route.DatabaseID)
	tx.run("INSERT INTO items VALUES (4, 'd')")
	_, end := tx.do(commit())
	require.Equal(t, committed, end.GetStatus())
	require.NoError(t, tx.ended())
	require.Equal(t, "4", f.ask("SELECT count(*) FROM items"))
	require.Zero(t, f.settled().Open, "the connection is not used again")
}

func TestATransactionThatLosesItsConnectionEndsWithIt(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	tx := f.begin(nil)
	tx.run("INSERT INTO items VALUES (3, 'c')")
	f.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	tx.send(run("SELECT 1"))
	requireReason(t, tx.ended(), codes.Unavailable, fault.DatabaseUnavailable)

	tx = f.begin(nil)
	f.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	tx.send(commit())
	require.Contains(t, requireReason(t, tx.ended(), codes.Unavailable, fault.DatabaseUnavailable).Text, "is not known")
	require.Equal(t, "2", f.ask("SELECT count(*) FROM items"))
}

func TestNothingOfOthersIsSeenInATransaction(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	f.must(&gatewayv1.QueryRequest{Sql: "SELECT 'a secret of another person'"})
	tx := f.begin(nil)
	require.Equal(t, []string{"0"}, tx.run("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%a secret%' AND statement NOT LIKE '%count%'"))
	require.Equal(t, []string{"f"}, tx.run("SELECT query_to_xml('SELECT 1 FROM pg_' || 'prepared_statements WHERE statement LIKE ''%a secr%'' AND statement NOT LIKE ''%xml%''', true, true, '')::text LIKE '%<row%'"))
	tx.run("PREPARE p AS SELECT 'mine'")
	require.Equal(t, []string{"mine"}, tx.run("EXECUTE p"))
	tx.do(commit())
	require.NoError(t, tx.ended())
	_, _, err := f.query(t.Context(), &gatewayv1.QueryRequest{Sql: "EXECUTE p"})
	require.Equal(t, "26000", requireReason(t, err, codes.InvalidArgument, fault.SQLError).Metadata["sqlstate"])
}

func TestAnOperatorNamesTheCompanyOfATransaction(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, identity.Caller{Kind: identity.Operator, Name: "operator/alice"})
	for company, reason := range map[string]string{"": fault.FieldInvalid, "nobody": fault.CompanyNotReady, "sun": ""} {
		stream, err := f.client.Transact(t.Context())
		require.NoError(t, err)
		require.NoError(t, stream.Send(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{Company: company}}}))
		require.NoError(t, stream.CloseSend())
		_, err = stream.Recv()
		if reason == "" {
			require.NoError(t, err)
			_, err = stream.Recv()
			requireReason(t, err, codes.FailedPrecondition, fault.TransactionLeftOpen)
			continue
		}
		require.True(t, fault.HasReason(err, reason), "%v", err)
	}
}
