package scratch_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/scratch"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestWhatWasLeftIsDroppedOnceItIsOld(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	s := scratch.Server{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, server.DSN("postgres")) },
		DSN:     func(database string) (string, error) { return server.DSN(database), nil },
	}
	databases := func() (names []string) {
		require.NoError(t, s.Run(t.Context(), func(conn *pgx.Conn) error {
			rows, err := conn.Query(t.Context(), "SELECT datname FROM pg_database WHERE datname LIKE 'scratch%' ORDER BY 1")
			if err == nil {
				names, err = pgx.CollectRows(rows, pgx.RowTo[string])
			}
			return err
		}))
		return names
	}
	dsn, drop, err := s.Database(t.Context())
	require.NoError(t, err)
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	name := u.Path[1:]
	require.NoError(t, s.Run(t.Context(), func(conn *pgx.Conn) error {
		if _, err := conn.Exec(t.Context(), "CREATE ROLE somebody LOGIN PASSWORD 'secret'"); err != nil {
			return err
		}
		// One of somebody else's, which says nothing of when it was made.
		return pg.CreateDatabase(t.Context(), conn, scratch.Prefix+"mine")
	}))
	u.User = url.UserPassword("somebody", "secret")
	_, err = pgx.Connect(t.Context(), u.String())
	require.ErrorContains(t, err, "permission denied", "nobody else can enter")

	require.NoError(t, s.DropOld(t.Context(), time.Hour))
	require.ElementsMatch(t, []string{name, scratch.Prefix + "mine"}, databases(), "it may be in use")
	time.Sleep(1100 * time.Millisecond) // Names tell seconds.
	require.NoError(t, s.DropOld(t.Context(), time.Millisecond))
	require.Equal(t, []string{scratch.Prefix + "mine"}, databases())
	require.NoError(t, drop(), "whoever comes too late has nothing to do")
}
