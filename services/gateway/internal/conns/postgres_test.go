package conns_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/pgserver"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

// site is a server with tenants, and Pools that know its master key.
type site struct {
	server *pgserver.Server
	key    credential.MasterKey
	pools  *conns.Pools
}

func newSite(t *testing.T, server *pgserver.Server) site {
	t.Helper()
	s := site{server: server, key: credential.NewMasterKey()}
	s.pools = conns.New(conns.Config{MasterKey: s.key, MaxWait: 2 * time.Second})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, s.pools.Close(ctx))
	})
	return s
}

// admin runs SQL as the superuser, and returns the first column.
func (s site) admin(t *testing.T, database, sql string) string {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), s.server.DSN(database))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	return ask(t, conn, sql)
}

// tenant makes a database and its role.
func (s site) tenant(t *testing.T) conns.Target {
	t.Helper()
	id := uuid.New()
	name := tenant.DatabaseName(id)
	password, err := s.key.RolePassword(id, 1)
	require.NoError(t, err)
	verifier, err := credential.SCRAMVerifier(password)
	require.NoError(t, err)
	s.admin(t, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", name, verifier))
	s.admin(t, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", name, name))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		conn, err := pgconn.Connect(ctx, s.server.DSN("postgres"))
		require.NoError(t, err)
		for _, sql := range []string{"DROP DATABASE " + name + " WITH (FORCE)", "DROP ROLE " + name} {
			_, err = conn.Exec(ctx, sql).ReadAll()
			require.NoError(t, err)
		}
		require.NoError(t, conn.Close(ctx))
	})
	return conns.Target{Cluster: "a", Host: "127.0.0.1", Port: s.server.Port(), Budget: 4, DatabaseID: id, PasswordVersion: 1}
}

func (s site) acquire(t *testing.T, target conns.Target) *conns.Conn {
	t.Helper()
	c, err := s.pools.Acquire(t.Context(), target)
	require.NoError(t, err)
	return c
}

// ask runs statements, and returns the first columns of the last one's rows.
func ask(t *testing.T, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	require.NoError(t, err, sql)
	var values []string
	for _, row := range results[len(results)-1].Rows {
		values = append(values, string(row[0]))
	}
	return strings.Join(values, ",")
}

func TestEachTenantIsLoggedInToItsOwnDatabaseAsItself(t *testing.T) {
	s := newSite(t, pgtest.Server(t))
	targets := []conns.Target{s.tenant(t), s.tenant(t)}
	// What libpq's users have set for themselves is not for us.
	t.Setenv("PGUSER", "postgres")
	t.Setenv("PGOPTIONS", "-c search_path=elsewhere")
	t.Setenv("PGAPPNAME", "other")
	t.Setenv("PGSSLMODE", "verify-full")
	t.Setenv("PGSSLROOTCERT", "/nowhere")
	t.Setenv("PGTARGETSESSIONATTRS", "read-only")
	t.Setenv("PGTZ", "Asia/Tokyo")
	t.Setenv("PGCONNECT_TIMEOUT", "many")
	t.Setenv("PGMINPROTOCOLVERSION", "9")
	t.Setenv("PGREQUIREAUTH", "gss")
	for _, target := range targets {
		c := s.acquire(t, target)
		name := tenant.DatabaseName(target.DatabaseID)
		require.Equal(t, name+" "+name+" tenantry gateway",
			ask(t, c.PgConn(), "SELECT current_user || ' ' || current_database() || ' ' || current_setting('application_name')"))
		require.NotEqual(t, "elsewhere", ask(t, c.PgConn(), "SHOW search_path"))
		require.NotEqual(t, "Asia/Tokyo", ask(t, c.PgConn(), "SHOW timezone"))
		c.Release()
	}
}

func TestNothingThatOneCallSetsIsSeenByTheNext(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Server(t))
	target := s.tenant(t)
	database := tenant.DatabaseName(target.DatabaseID)
	for name, c := range map[string]struct{ does, look, want string }{
		"a setting":          {"SET search_path = elsewhere", "SHOW search_path", `"$user", public`},
		"a time limit":       {"SET statement_timeout = '7s'", "SHOW statement_timeout", "1min"},
		"another limit":      {"SET idle_in_transaction_session_timeout = 0", "SHOW idle_in_transaction_session_timeout", "1min"},
		"a name":             {"SET application_name = 'x'", "SHOW application_name", "tenantry gateway"},
		"a role":             {"SET ROLE pg_database_owner", "SELECT current_user", database},
		"a setting of its":   {"SELECT set_config('my.secret', 'x', false)", "SELECT coalesce(current_setting('my.secret', true), '')", ""},
		"a prepared stmt":    {"PREPARE p AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements", "0"},
		"a channel":          {"LISTEN news", "SELECT count(*) FROM pg_listening_channels()", "0"},
		"a session lock":     {"SELECT pg_advisory_lock(7)", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", "0"},
		"an open tx":         {"BEGIN; CREATE TABLE left_over()", "SELECT count(*) FROM pg_tables WHERE tablename = 'left_over'", "0"},
		"a failed tx":        {"BEGIN; SAVEPOINT s; SET LOCAL work_mem = '1MB'", "SHOW work_mem", "4MB"},
		"a WITH HOLD cursor": {"DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors", "0"},
		"a temporary table":  {"CREATE TEMP TABLE mine()", "SELECT count(*) FROM pg_class WHERE relname = 'mine'", "0"},
		"a sequence's value": {"CREATE SEQUENCE s; SELECT nextval('s')", "SELECT count(*) FROM pg_sequences WHERE last_value IS NULL", "0"},
		"read-only sessions": {"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW transaction_read_only", "off"},
	} {
		first := s.acquire(t, target)
		ask(t, first.PgConn(), c.does)
		pid := first.PgConn().PID()
		first.Release()
		second := s.acquire(t, target)
		require.Equal(t, pid, second.PgConn().PID(), "%s: cleaned, not thrown away", name)
		require.Equal(t, c.want, ask(t, second.PgConn(), c.look), name)
		second.Release()
	}

	failed := s.acquire(t, target)
	_, err := failed.PgConn().Exec(t.Context(), "BEGIN; SELECT 1/0").ReadAll()
	require.Error(t, err)
	require.Equal(t, byte('E'), failed.PgConn().TxStatus())
	failed.Release()
	next := s.acquire(t, target)
	require.Equal(t, "1", ask(t, next.PgConn(), "SELECT 1"))
	require.Equal(t, byte('I'), next.PgConn().TxStatus())
	next.Release()
}

func TestACancelledStatementEndsInPostgreSQLAndItsConnectionLivesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Server(t))
	target := s.tenant(t)
	c := s.acquire(t, target)
	pid := c.PgConn().PID()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.PgConn().Exec(ctx, "SELECT pg_sleep(600)").ReadAll()
		done <- err
	}()
	running := fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND state = 'active' AND query LIKE '%%pg_sleep%%'", pid)
	require.Eventually(t, func() bool { return s.admin(t, "postgres", running) == "1" }, time.Minute, 10*time.Millisecond)
	cancel()
	require.Equal(t, "57014", pg.Code(<-done))
	require.Equal(t, "0", s.admin(t, "postgres", running))
	c.Release()

	again := s.acquire(t, target)
	require.Equal(t, pid, again.PgConn().PID())
	require.Equal(t, "1", ask(t, again.PgConn(), "SELECT 1"))
	again.Release()
}

func TestAConnectionLeftInTheMiddleOfSomethingIsClosedAndItsStatementEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Server(t))
	target := s.tenant(t)
	c := s.acquire(t, target)
	pid := c.PgConn().PID()
	c.PgConn().Exec(t.Context(), "SELECT pg_sleep(600)") // Nobody reads the result.
	c.Release()
	there := fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE pid = %d", pid)
	require.Eventually(t, func() bool { return s.admin(t, "postgres", there) == "0" }, time.Minute, 10*time.Millisecond)
	next := s.acquire(t, target)
	require.NotEqual(t, pid, next.PgConn().PID())
	next.Release()
}

func TestAPasswordThatIsBeingRotatedIsFoundOnEitherSide(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Server(t))
	target := s.tenant(t)
	name := tenant.DatabaseName(target.DatabaseID)
	password, err := s.key.RolePassword(target.DatabaseID, 4)
	require.NoError(t, err)
	s.admin(t, "postgres", "ALTER ROLE "+name+" PASSWORD '"+password+"'")
	for version, found := range map[int32]bool{2: false, 3: true, 4: true, 5: true, 6: false} {
		target.PasswordVersion = version
		s.pools.Drain(target.DatabaseID)
		c, err := s.pools.Acquire(t.Context(), target)
		if !found {
			require.Equal(t, "28P01", pg.Code(err), "version %d", version)
			require.True(t, fault.HasReason(err, fault.DatabaseUnavailable), err)
			continue
		}
		require.NoError(t, err, "version %d", version)
		c.Release()
	}
}

func TestATenantThatTheServerDoesNotLetInIsToldAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Server(t))
	target := s.tenant(t)
	name := tenant.DatabaseName(target.DatabaseID)
	refused := func(code string, target conns.Target) {
		t.Helper()
		_, err := s.pools.Acquire(t.Context(), target)
		require.Equal(t, code, pg.Code(err))
		require.True(t, fault.HasReason(err, fault.DatabaseUnavailable), err)
	}
	other := target
	other.PasswordVersion = 3
	refused("28P01", other)
	s.admin(t, "postgres", "ALTER DATABASE "+name+" RENAME TO "+name+"_away")
	refused("3D000", target)
	s.admin(t, "postgres", "ALTER DATABASE "+name+"_away RENAME TO "+name)
	s.admin(t, "postgres", "ALTER DATABASE "+name+" OWNER TO postgres")
	s.admin(t, "postgres", "REVOKE CONNECT ON DATABASE "+name+" FROM PUBLIC, "+name)
	refused("42501", target)
	require.Zero(t, s.pools.Stats()["a"].Timeouts)
	require.EqualValues(t, 3, s.pools.Stats()["a"].DialFailures)
}

func TestAServerThatIsGoneOrLetsNobodyInIsUnavailable(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Server(t))
	target := s.tenant(t)
	wrong := target
	wrong.PasswordVersion = 3
	_, err := s.pools.Acquire(t.Context(), wrong)
	require.True(t, fault.HasReason(err, fault.DatabaseUnavailable), err)
	require.Equal(t, "28P01", pg.Code(err))

	encrypted := target
	encrypted.TLS = conns.VerifyFull
	_, err = s.pools.Acquire(t.Context(), encrypted)
	require.True(t, fault.HasReason(err, fault.DatabaseUnavailable), err)
	require.ErrorContains(t, err, "server refused TLS connection")

	gone := target
	gone.Port = 1
	_, err = s.pools.Acquire(t.Context(), gone)
	require.True(t, fault.HasReason(err, fault.DatabaseUnavailable), err)
	require.Zero(t, s.pools.Stats()["a"].Open)
}
