package pgsession

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// collected is Results as text.
type collected struct {
	columns  [][]string
	rows     []string
	tags     []string
	stopped  bool
	restarts int
	refuse   error
}

func (c *collected) Columns(_ int, columns []pgconn.FieldDescription) error {
	var names []string
	for _, f := range columns {
		names = append(names, f.Name)
	}
	c.columns = append(c.columns, names)
	return nil
}

func (c *collected) Row(_ int, values [][]byte) error {
	var texts []string
	for _, v := range values {
		texts = append(texts, string(v))
	}
	c.rows = append(c.rows, strings.Join(texts, "|"))
	return c.refuse
}

func (c *collected) Done(_ int, tag string, stopped bool) error {
	c.tags = append(c.tags, tag)
	c.stopped = c.stopped || stopped
	return nil
}

func (c *collected) Restart() { *c = collected{restarts: c.restarts + 1, refuse: c.refuse} }

func statement(sql string, params ...string) Statement {
	st := Statement{Text: Inspect(sql)}
	for _, p := range params {
		st.Params = append(st.Params, []byte(p))
	}
	return st
}

// connect makes a session to a database, and a plain connection beside it.
func connect(tb testing.TB, dsn string) (*Session, *pgconn.PgConn) {
	tb.Helper()
	var conns [2]*pgconn.PgConn
	for i := range conns {
		conn, err := pgconn.Connect(tb.Context(), dsn)
		require.NoError(tb, err)
		conns[i] = conn
		tb.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_ = conn.Close(ctx)
		})
	}
	return New(conns[0], &pgconn.CancelRequestContextWatcherHandler{Conn: conns[0], DeadlineDelay: time.Minute}), conns[1]
}

// run runs statements as one call and resets the session after it, as package conns does.
func run(tb testing.TB, s *Session, call Call) (*collected, error) {
	tb.Helper()
	out := &collected{}
	err := s.Run(tb.Context(), call, out)
	if s.Dirty() {
		require.NoError(tb, s.Reset())
	}
	return out, err
}

func ask(tb testing.TB, s *Session, sql string, params ...string) string {
	tb.Helper()
	out, err := run(tb, s, Call{Statements: []Statement{statement(sql, params...)}})
	require.NoError(tb, err, sql)
	return strings.Join(out.rows, ",")
}

// profiled has a session ask for its profile.
func profiled(tb testing.TB, s *Session) {
	tb.Helper()
	for range profileAfter {
		require.False(tb, s.asked)
		ask(tb, s, "SELECT 1")
	}
	require.True(tb, s.asked)
}

func admin(tb testing.TB, conn *pgconn.PgConn, sql string) string {
	tb.Helper()
	results, err := conn.Exec(tb.Context(), sql).ReadAll()
	require.NoError(tb, err, sql)
	var out []string
	for _, row := range results[len(results)-1].Rows {
		out = append(out, string(row[0]))
	}
	return strings.Join(out, ",")
}

// shop is a schema such as tenants have.
const shop = `CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'a'), (2, 'b');
	CREATE FUNCTION double(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x * 2';
	CREATE FUNCTION best(wanted text) RETURNS text LANGUAGE plpgsql STABLE AS $$ DECLARE found text; BEGIN
		SELECT name INTO found FROM items WHERE name = wanted; IF (found IS NULL) THEN RETURN lower('NONE'); END IF; RETURN found; END $$;
	CREATE VIEW good AS SELECT id, upper(name) AS name, random() AS r FROM items`

func TestOneStatementIsOneRoundTripAndIsPreparedOnce(t *testing.T) {
	t.Parallel()
	s, other := connect(t, pgtest.Database(t))
	admin(t, other, shop)
	require.Equal(t, "1|a", ask(t, s, "SELECT * FROM items WHERE id = $1", "1"))
	for range 3 {
		require.Equal(t, "2|b", ask(t, s, "SELECT * FROM items WHERE id = $1", "2"))
		require.False(t, s.Dirty())
	}
	require.Len(t, s.statements.byKey, 1)
	require.Equal(t, uint64(1), s.statements.made)

	none, err := run(t, s, Call{Statements: []Statement{statement("SELECT id FROM items WHERE false")}})
	require.NoError(t, err)
	require.Equal(t, [][]string{{"id"}}, none.columns, "columns are told without rows")
	first := statement("SELECT generate_series(1, 10)")
	first.MaxRows = 3
	some, err := run(t, s, Call{Statements: []Statement{first}})
	require.NoError(t, err)
	require.Len(t, some.rows, 3)
	require.True(t, some.stopped)
	_, err = run(t, s, Call{Statements: []Statement{statement("-- nothing")}})
	require.NoError(t, err)
}

// counted counts what is written to a connection, and when.
type counted struct {
	net.Conn
	writes int
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes++
	return c.Conn.Write(b)
}

func TestATransactionWithSettingsIsSentAtOnce(t *testing.T) {
	t.Parallel()
	cfg, err := pgconn.ParseConfig(pgtest.Database(t))
	require.NoError(t, err)
	var wire *counted
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		wire = &counted{Conn: conn}
		return wire, err
	}
	conn, err := pgconn.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, conn.Close(ctx))
	})
	s := New(conn, &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute})
	for range 2 {
		before := wire.writes
		call := Call{Begin: "BEGIN READ ONLY", Settings: [][2]string{{"tenantry.user_id", "u"}}, End: "COMMIT", Statements: []Statement{statement("SELECT current_setting('tenantry.user_id')")}}
		out := &collected{}
		require.NoError(t, s.Run(t.Context(), call, out))
		require.Equal(t, []string{"u"}, out.rows)
		require.Equal(t, before+1, wire.writes)
	}
}

func TestATransactionOfManyStatementsIsAllOrNothing(t *testing.T) {
	t.Parallel()
	s, other := connect(t, pgtest.Database(t))
	admin(t, other, shop)
	call := Call{Begin: "BEGIN ISOLATION LEVEL SERIALIZABLE", Settings: [][2]string{{"tenantry.user_id", "u"}, {"tenantry.request_id", "r"}}, End: "COMMIT",
		Statements: []Statement{statement("INSERT INTO items VALUES ($1, $2)", "3", "c"),
			statement("SELECT current_setting('tenantry.user_id') || current_setting('tenantry.request_id') || current_setting('transaction_isolation')")}}
	out, err := run(t, s, call)
	require.NoError(t, err)
	require.Equal(t, []string{"urserializable"}, out.rows)
	require.Equal(t, []string{"INSERT 0 1", "SELECT 1"}, out.tags)
	require.Empty(t, ask(t, s, "SELECT coalesce(current_setting('tenantry.user_id', true), '')"))

	_, err = run(t, s, call)
	var failed *StatementError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, 0, failed.Index)
	require.Equal(t, "23505", failed.Err.Code)
	require.Equal(t, "3", ask(t, s, "SELECT count(*) FROM items"))
	require.Equal(t, Idle, s.Tx())

	// More than a socket's buffers hold, both ways.
	big := strings.Repeat("x", 100<<10)
	var many []Statement
	for range 100 {
		many = append(many, statement("SELECT $1::text", big))
	}
	out, err = run(t, s, Call{Begin: "BEGIN", Statements: many, End: "COMMIT"})
	require.NoError(t, err)
	require.Len(t, out.rows, 100)
	require.Equal(t, big, out.rows[99])
}

// TestNothingThatACallLeavesIsSeenByTheNext tries every way of leaving something that we know, on a database with quiet
// and with loud functions.
func TestNothingThatACallLeavesIsSeenByTheNext(t *testing.T) {
	t.Parallel()
	const setting, locks = "SELECT coalesce(current_setting('my.secret', true), '')", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
	for name, c := range map[string]struct{ schema, does, look, want string }{
		"SET":                          {"", "SET search_path = elsewhere", "SHOW search_path", `"$user", public`},
		"a time limit":                 {"", "SET statement_timeout = '7s'", "SHOW statement_timeout", "0"},
		"SET ROLE":                     {"", "SET ROLE pg_monitor", "SELECT current_user = session_user", "t"},
		"SET SESSION AUTHORIZATION":    {"", "SET SESSION AUTHORIZATION pg_monitor", "SELECT session_user = 'pg_monitor'", "f"},
		"set_config":                   {"", "SELECT set_config('my.secret', 'x', false)", setting, ""},
		"set_config, quoted":           {"", `SELECT "set_config"('my.secret', 'x', false)`, setting, ""},
		"set_config, qualified":        {"", "SELECT pg_catalog . /* ( */ set_config('my.secret', 'x', false)", setting, ""},
		"set_config, in Unicode":       {"", `SELECT U&"\0073et_config"('my.secret', 'x', false)`, setting, ""},
		"set_config, after a string":   {"", `SELECT E'\'', set_config('my.secret', 'x', false), ''`, setting, ""},
		"set_config, after $":          {"", `SELECT $a$'$b$$a$, set_config('my.secret', 'x', false) --'`, setting, ""},
		"set_config, after a comment":  {"", `SELECT /* /* */ ' */ set_config('my.secret', 'x', false) --'`, setting, ""},
		"set_config, after a name":     {"", `SELECT 1 AS "a'b", set_config('my.secret', 'x', false) AS "'"`, setting, ""},
		"set_config, as from item":     {"", "SELECT * FROM set_config('my.secret', 'x', false) AS c(a)", setting, ""},
		"pg_settings":                  {"", "UPDATE pg_settings SET setting = 'elsewhere' WHERE name = 'search_path'", "SHOW search_path", `"$user", public`},
		"PREPARE":                      {"", "PREPARE p AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements WHERE from_sql", "0"},
		"LISTEN":                       {"", "LISTEN news", "SELECT count(*) FROM pg_listening_channels()", "0"},
		"a lock":                       {"", "SELECT pg_advisory_lock(7)", locks, "0"},
		"a lock, tried":                {"", "SELECT pg_try_advisory_lock_shared(7, 8)", locks, "0"},
		"a lock, before an error":      {"", "SELECT pg_advisory_lock(7), 1 / (random() * 0)::int", locks, "0"},
		"a cursor":                     {"", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors WHERE is_holdable", "0"},
		"a temporary table":            {"", "CREATE TEMP TABLE mine()", "SELECT count(*) FROM pg_class WHERE relname = 'mine' AND relpersistence = 't'", "0"},
		"a sequence":                   {"CREATE SEQUENCE q", "SELECT nextval('q')", "SELECT lastval()", "55000"},
		"an identity":                  {"CREATE TABLE i (id int GENERATED ALWAYS AS IDENTITY)", "INSERT INTO i DEFAULT VALUES", "SELECT lastval()", "55000"},
		"an identity, in a CTE":        {"CREATE TABLE i (id int GENERATED ALWAYS AS IDENTITY)", "WITH x AS (INSERT INTO i DEFAULT VALUES RETURNING id) SELECT * FROM x", "SELECT lastval()", "55000"},
		"random numbers":               {"", "SELECT setseed(0.5)", "SELECT random() = 0.9851677175347999", "f"},
		"random numbers, set":          {"", "SET seed = 0.5", "SELECT random() = 0.9851677175347999", "f"},
		"read-only sessions":           {"", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW transaction_read_only", "off"},
		"an open transaction":          {"", "BEGIN", "SAVEPOINT s", "25P01"},
		"DO":                           {"", "DO $$ BEGIN PERFORM set_config('my.secret', 'x', false); END $$", setting, ""},
		"DO, a lock":                   {"", "DO 'BEGIN PERFORM pg_advisory_lock(7); END'", locks, "0"},
		"CALL":                         {"CREATE PROCEDURE leave() LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('my.secret', 'x', false); COMMIT; END $$", "CALL leave()", setting, ""},
		"a function":                   {"CREATE FUNCTION leave() RETURNS text LANGUAGE sql AS $$ SELECT set_config('my.secret', 'x', false) $$", "SELECT leave()", setting, ""},
		"a function, dynamic":          {"CREATE FUNCTION leave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET my.' || 'secret = ''x'''; END $$", "SELECT leave()", setting, ""},
		"a function, SQL's own":        {"CREATE FUNCTION leave() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT set_config('my.secret', 'x', false); END", "SELECT leave()", setting, ""},
		"a function, SET":              {"CREATE FUNCTION leave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET my.secret = 'x'; END $$", "SELECT leave()", setting, ""},
		"a function, of a row":         {"CREATE FUNCTION leave(items) RETURNS text LANGUAGE sql AS $$ SELECT set_config('my.secret', 'x', false) $$", "SELECT i.leave FROM items i", setting, ""},
		"a function like a known one":  {"CREATE FUNCTION public.lower(items) RETURNS text LANGUAGE sql AS $$ SELECT set_config('my.secret', 'x', false) $$", "SELECT lower(i) FROM items i", setting, ""},
		"an immutable one, when made":  {"CREATE FUNCTION leave() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(7); RETURN 0; END $$", "SELECT 1 / leave()", locks, "0"},
		"a view":                       {"CREATE VIEW leave AS SELECT set_config('my.secret', 'x', false)", "SELECT * FROM leave", setting, ""},
		"a policy":                     {"ALTER TABLE items ENABLE ROW LEVEL SECURITY; ALTER TABLE items FORCE ROW LEVEL SECURITY; CREATE POLICY p ON items USING (set_config('my.secret', 'x', false) = 'x'); CREATE ROLE polly_%s IN ROLE pg_read_all_data; GRANT polly_%[1]s TO CURRENT_USER; CREATE VIEW seen AS SELECT * FROM items; ALTER VIEW seen OWNER TO polly_%[1]s", "SELECT * FROM seen", setting, ""},
		"a domain":                     {"CREATE DOMAIN leave AS text CHECK (set_config('my.secret', 'x', false) = 'x')", "SELECT 'x'::leave", setting, ""},
		"an operator":                  {"CREATE OPERATOR ## (FUNCTION = pg_advisory_lock, LEFTARG = int, RIGHTARG = int)", "SELECT 1 ## 2", locks, "0"},
		"an aggregate":                 {"CREATE AGGREGATE leave(text, boolean) (SFUNC = set_config, STYPE = text, INITCOND = 'my.secret')", "SELECT leave(name, false) FROM items WHERE id = 1", setting, ""},
		"a trigger":                    {"CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('my.secret', 'x', false); RETURN NEW; END $$; CREATE TRIGGER t BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION leave()", "UPDATE items SET name = 'z'", setting, ""},
		"a trigger, a prepared stmt":   {"CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'PREPARE p AS SELECT 1'; RETURN NEW; END $$; CREATE TRIGGER t BEFORE UPDATE ON items FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION leave()", "UPDATE items SET name = 'z' WHERE id = 1", "EXECUTE p", "26000"},
		"SQL in a string":              {"", "SELECT query_to_xml('SELECT set_config(''my.secret'', ''x'', false)', true, true, '')", setting, ""},
		"a changed encoding":           {"", "SET client_encoding = 'SJIS'", "SHOW client_encoding", "UTF8"},
		"other strings":                {"", "SET standard_conforming_strings = off", "SHOW standard_conforming_strings", "on"},
		"statements of others":         {"", "SELECT 'secret'", "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%secret%' AND statement NOT LIKE '%count%'", "0"},
		"statements of others, hidden": {"", "SELECT 'secret'", "SELECT query_to_xml('SELECT 1 FROM pg_' || 'prepared_statements WHERE statement LIKE ''%secr%'' AND statement NOT LIKE ''%xml%''', true, true, '')::text LIKE '%<row%'", "f"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, other := connect(t, pgtest.Database(t))
			schema := shop + ";" + c.schema
			if strings.Contains(schema, "%[1]s") {
				unique := fmt.Sprint(s.PID())
				schema = strings.NewReplacer("%s", unique, "%[1]s", unique).Replace(schema)
				t.Cleanup(func() {
					_, err := other.Exec(context.Background(), "DROP OWNED BY polly_"+unique+"; DROP ROLE polly_"+unique).ReadAll()
					require.NoError(t, err)
				})
			}
			admin(t, other, schema)
			profiled(t, s)
			if c.does != "SELECT 1 / leave()" && !strings.Contains(c.does, "random() * 0") {
				// More than once: what it does must not fail because of what it did, either.
				for range 2 {
					_, err := run(t, s, Call{Statements: []Statement{statement(c.does)}})
					require.NoError(t, err)
				}
			} else {
				_, err := run(t, s, Call{Statements: []Statement{statement(c.does)}})
				require.Error(t, err)
			}
			out, err := run(t, s, Call{Statements: []Statement{statement(c.look)}})
			if failed := (&StatementError{}); errors.As(err, &failed) {
				require.Equal(t, c.want, failed.Err.Code, "%v", err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, strings.Join(out.rows, ","))
		})
	}
}

// TestWhatLeavesNothingIsNotReset says for which statements no reset is made: were it none, all would be slow.
func TestWhatLeavesNothingIsNotReset(t *testing.T) {
	t.Parallel()
	s, other := connect(t, pgtest.Database(t))
	admin(t, other, shop)
	admin(t, other, "CREATE EXTENSION pgcrypto; CREATE EXTENSION citext; CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET my.secret = 'x'; RETURN NEW; END $$")
	profiled(t, s)
	for _, sql := range []string{
		"SELECT name FROM items WHERE id = 1", "SELECT count(*), max(id), now(), coalesce(lower(name), '') FROM items GROUP BY 3, 4",
		"SELECT * FROM good", "SELECT double(id), best(name) FROM items", "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n FROM t",
		"SELECT id FROM items WHERE id IN (1, 2) FOR UPDATE", "VALUES (1, 'set_config(1)')", "TABLE items", "SHOW search_path", "SELECT '1.5'::numeric(10, 2), CAST(1 AS varchar(3))",
		"(SELECT 1) UNION (SELECT 2)", "SELECT extract(year FROM now()), row_number() OVER (ORDER BY id), sum(id) FILTER (WHERE id > 1) OVER () FROM items",
		"SELECT * FROM json_each('{}') AS j(k, v)", "SELECT 'a'::citext = 'A'",
	} {
		out := &collected{}
		require.NoError(t, s.Run(t.Context(), Call{Statements: []Statement{statement(sql)}}, out), sql)
		require.False(t, s.Dirty(), sql)
	}
}

func TestAStatementThatChangedIsMadeAgainUnseen(t *testing.T) {
	t.Parallel()
	s, other := connect(t, pgtest.Database(t))
	admin(t, other, shop)
	ask(t, s, "SELECT 1")
	require.Equal(t, "1|a", ask(t, s, "SELECT * FROM items WHERE id = 1"))
	// Another result type.
	admin(t, other, "ALTER TABLE items ADD COLUMN more int DEFAULT 7")
	require.Equal(t, "1|a|7", ask(t, s, "SELECT * FROM items WHERE id = 1"))
	// A statement that is gone.
	admin(t, s.Conn(), "DEALLOCATE ALL")
	s.exposed = false
	require.Equal(t, "1|a|7", ask(t, s, "SELECT * FROM items WHERE id = 1"))
	// A name that is taken.
	admin(t, s.Conn(), fmt.Sprintf("PREPARE tenantry_%d AS SELECT 'not yours'", s.statements.made+1))
	s.exposed = false
	require.Equal(t, "2|b|7", ask(t, s, "SELECT * FROM items WHERE id = 2"))

	// In a transaction of many statements, all are run again, once.
	call := Call{Begin: "BEGIN", End: "COMMIT", Statements: []Statement{statement("INSERT INTO items VALUES (3, 'c')"), statement("SELECT * FROM items WHERE id = 1")}}
	require.Equal(t, "1|a|7", ask(t, s, "SELECT * FROM items WHERE id = 1"))
	admin(t, other, "ALTER TABLE items DROP COLUMN more")
	out, err := run(t, s, call)
	require.NoError(t, err)
	require.Equal(t, []string{"1|a"}, out.rows)
	require.Equal(t, 1, out.restarts)
	require.Equal(t, "3", ask(t, s, "SELECT count(*) FROM items"))

	// In a transaction that stays open, nothing is kept that could change.
	require.Equal(t, "2|b", ask(t, s, "SELECT * FROM items WHERE id = 2"))
	admin(t, other, "ALTER TABLE items ADD COLUMN more int")
	opened := &collected{}
	require.NoError(t, s.Run(t.Context(), Call{Begin: "BEGIN"}, opened))
	require.NoError(t, s.Run(t.Context(), Call{Statements: []Statement{statement("SELECT * FROM items WHERE id = 2")}}, opened))
	require.Equal(t, []string{"2|b|"}, opened.rows)
	require.NoError(t, s.Run(t.Context(), Call{End: "ROLLBACK"}, opened))

	s.Forget()
	require.True(t, s.Dirty())
	require.Equal(t, "2|b|", ask(t, s, "SELECT * FROM items WHERE id = 2"))
	require.Len(t, s.statements.byKey, 1)
}

func TestTheStatementsThatAreKeptAreBounded(t *testing.T) {
	t.Parallel()
	s, other := connect(t, pgtest.Database(t))
	for i := range maxStatements + 50 {
		require.Equal(t, fmt.Sprint(i), ask(t, s, fmt.Sprintf("SELECT %d", i)))
	}
	require.Len(t, s.statements.byKey, maxStatements)
	require.Equal(t, fmt.Sprint(maxStatements), admin(t, s.Conn(), "SELECT count(*) FROM pg_prepared_statements"))
	require.NoError(t, s.Reset())
	for i := range 40 {
		text := fmt.Sprintf("SELECT %d /* %s */", i, strings.Repeat("x", maxStatementText-100))
		require.Equal(t, fmt.Sprint(i), ask(t, s, text))
	}
	require.LessOrEqual(t, s.statements.bytes, maxStatementBytes)
	require.Equal(t, "9", ask(t, s, "SELECT 9 /* "+strings.Repeat("x", maxStatementText)+" */"))
	var many []Statement
	for i := range 2 * maxStatements {
		many = append(many, statement(fmt.Sprintf("SELECT %d + 0", i)))
	}
	out, err := run(t, s, Call{Statements: many})
	require.NoError(t, err)
	require.Len(t, out.rows, 2*maxStatements)
	require.LessOrEqual(t, len(s.statements.byKey), maxStatements)
	require.NotNil(t, other)
}

func TestAnEndedContextEndsTheStatementAndADeadServerBreaksTheSession(t *testing.T) {
	t.Parallel()
	s, other := connect(t, pgtest.Database(t))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.Run(ctx, Call{Statements: []Statement{statement("SELECT pg_sleep(600)")}}, &collected{})
	var failed *StatementError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, "57014", failed.Err.Code)
	require.Equal(t, "1", ask(t, s, "SELECT 1"))

	refused := errors.New("no more")
	err = s.Run(t.Context(), Call{Statements: []Statement{statement("SELECT generate_series(1, 1000000000)")}}, &collected{refuse: refused})
	require.ErrorIs(t, err, refused)
	require.Equal(t, "1", ask(t, s, "SELECT 1"))
	require.NoError(t, s.Check(time.Millisecond))

	copied := s.Run(t.Context(), Call{Statements: []Statement{statement("COPY pg_description FROM/**/STDIN")}}, &collected{})
	require.ErrorAs(t, copied, &failed)
	require.Equal(t, "1", ask(t, s, "SELECT 1"))
	require.NoError(t, s.Run(t.Context(), Call{Statements: []Statement{statement("COPY (SELECT 1) TO STDOUT")}}, &collected{}))
	require.Equal(t, "1", ask(t, s, "SELECT 1"))

	terminated := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() {
		defer close(terminated)
		_, _ = other.Exec(context.Background(), fmt.Sprintf("SELECT pg_terminate_backend(%d)", s.PID())).ReadAll()
	})
	err = s.Run(t.Context(), Call{Statements: []Statement{statement("SELECT pg_sleep(600)")}}, &collected{})
	<-terminated
	require.ErrorIs(t, err, ErrBroken)
	require.True(t, s.Broken())
	require.Error(t, s.Reset())
	require.ErrorIs(t, s.Run(t.Context(), Call{Statements: []Statement{statement("SELECT 1")}}, &collected{}), ErrUnusable)
}

// TestTheKnownFunctionsAreWhatPostgreSQLSays holds the lists against the server's catalogue.
func TestTheKnownFunctionsAreWhatPostgreSQLSays(t *testing.T) {
	t.Parallel()
	_, conn := connect(t, pgtest.Database(t))
	volatile := map[string]bool{}
	for _, name := range strings.Split(admin(t, conn, "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'v'"), ",") {
		volatile[name] = true
	}
	for name := range harmless {
		require.Equal(t, set(volatileAndHarmless)[name], volatile[name], name)
	}
	for name := range notCalls {
		require.False(t, volatile[name] && name != "system" && name != "bernoulli", name)
	}
	for name := range resettable {
		require.True(t, volatile[name], name)
	}
	for _, name := range []string{"query_to_xml", "cursor_to_xml", "ts_stat", "ts_rewrite"} {
		require.True(t, volatile[name] && !harmless[name] && !resettable[name], "%s runs SQL that it is given", name)
	}
}
