package conns

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

func TestTheCheckOfAnIdleConnectionIsQuickAndFindsADeadOne(t *testing.T) {
	t.Parallel()
	server, key, id := pgtest.Server(t), credential.NewMasterKey(), uuid.New()
	admin, err := pgconn.Connect(t.Context(), server.DSN("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close(t.Context())) }()
	run := func(format string, args ...any) {
		_, err := admin.Exec(t.Context(), fmt.Sprintf(format, args...)).ReadAll()
		require.NoError(t, err)
	}
	name := tenant.DatabaseName(id)
	password, err := key.RolePassword(id, 1)
	require.NoError(t, err)
	verifier, err := credential.SCRAMVerifier(password)
	require.NoError(t, err)
	run("CREATE ROLE %s LOGIN PASSWORD '%s'", name, verifier)
	run("CREATE DATABASE %s OWNER %s", name, name)

	d := dialer{masterKey: key, timeout: time.Minute}
	made, err := d.dial(t.Context(), Target{Host: "127.0.0.1", Port: server.Port(), DatabaseID: id, PasswordVersion: 1})
	require.NoError(t, err)
	conn := made.(*pgLink).conn
	for range 3 {
		start := time.Now()
		require.NoError(t, made.check())
		require.Less(t, time.Since(start), cancelTimeout, "no statement is being cancelled")
		require.NoError(t, made.clean(t.Context()))
	}
	run("SELECT pg_terminate_backend(%d, 60000)", conn.PID())
	require.Eventually(t, func() bool { return made.check() != nil }, time.Minute, time.Millisecond)
	require.ErrorIs(t, made.clean(t.Context()), errNotClean)
	made.close()
	run("DROP DATABASE %s", name)
	run("DROP ROLE %s", name)
}

func TestAConnectionWhoseCancellationNobodyConfirmedIsNotKept(t *testing.T) {
	t.Parallel()
	conn, err := pgconn.Connect(t.Context(), pgtest.Database(t))
	require.NoError(t, err)
	l := &pgLink{conn: conn, session: pgsession.New(conn, &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()})}
	defer l.close()
	require.NoError(t, l.clean(t.Context()))
	l.watch.unanswered.Store(true)
	require.ErrorIs(t, l.clean(t.Context()), errNotClean)
}
