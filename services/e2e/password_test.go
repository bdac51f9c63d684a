package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/pg"
)

func TestPasswordsAreRotatedWithoutOneFailedCall(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.everything(20, "TENANTRY_GATEWAY")
	known := a.customers(4)
	key, err := credential.LoadMasterKey(filepath.Join(a.keys, "master.hex"))
	require.NoError(t, err)
	password := func(c customer, version int32) string {
		id, err := uuid.Parse(c.database[len("tenant_"):])
		require.NoError(t, err)
		derived, err := key.RolePassword(id, version)
		require.NoError(t, err)
		return derived
	}
	letsIn := func(c customer, version int32) bool {
		cfg, err := pgx.ParseConfig(a.env["TENANTRY_ADMIN_DSN"])
		require.NoError(t, err)
		cfg.User, cfg.Database, cfg.Password = c.database, c.database, password(c, version)
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			require.Equal(t, pgerrcode.InvalidPassword, pg.Code(err), "%v", err)
			return false
		}
		require.NoError(t, conn.Close(t.Context()))
		return true
	}

	calls := a.load("TENANTRY_GATEWAY", 2, known...)
	calls.answers(t, 100)
	for _, version := range []string{"2", "3"} {
		out := ok(t, a.tenantry("rotate-passwords"))
		for _, c := range known {
			require.Contains(t, out, `"slug":"`+c.slug+`","password_version":`+version+"}")
		}
		calls.answers(t, 100)
	}
	calls.end()
	calls.requireNone(t, "no rotation is noticed")
	for _, c := range known {
		require.False(t, letsIn(c, 2), "a password that was replaced is worth nothing")
		require.True(t, letsIn(c, 3))
	}

	// A provisioner that dies before the registry knows leaves a role that is ahead of it. Who connects then gets in, and the
	// next rotation makes the same password and tells.
	c := known[0]
	a.inDatabase(c.database, "DO $$ BEGIN ALTER ROLE "+pg.Quote(c.database)+" PASSWORD '"+password(c, 4)+"'; END $$")
	a.inDatabase(c.database, "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = '"+c.database+"'")
	client := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))
	require.Eventually(t, func() bool { return c.reads(client) == nil }, patience, 10*time.Millisecond, "the first call may meet a connection that is gone")
	require.Contains(t, ok(t, a.tenantry("rotate-passwords", "--company", c.slug)), `"password_version":4}`)
	require.True(t, letsIn(c, 4))
	require.NoError(t, c.reads(client))
}
