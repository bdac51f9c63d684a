package pg_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestATransactionThatDeadlocksIsRunAgain(t *testing.T) {
	t.Parallel()
	pool, err := pg.Open(t.Context(), pgtest.Database(t), "pg test", 4)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "CREATE TABLE n (id int PRIMARY KEY, v int); INSERT INTO n VALUES (1, 0), (2, 0)")
	require.NoError(t, err)

	// Both hold their first row before either asks for the other's, on the first try alone.
	var both sync.WaitGroup
	both.Add(2)
	var done sync.WaitGroup
	tries, failures := make([]int, 2), make([]error, 2)
	for i, order := range [][2]int{{1, 2}, {2, 1}} {
		done.Go(func() {
			failures[i] = pg.Tx(t.Context(), pool, func(tx pgx.Tx) error {
				tries[i]++
				if _, err := tx.Exec(t.Context(), "UPDATE n SET v = v + 1 WHERE id = $1", order[0]); err != nil {
					return err
				}
				if tries[i] == 1 {
					both.Done()
					both.Wait()
				}
				_, err := tx.Exec(t.Context(), "UPDATE n SET v = v + 1 WHERE id = $1", order[1])
				return err
			})
		})
	}
	done.Wait()
	require.NoError(t, errors.Join(failures...))
	require.Equal(t, 3, tries[0]+tries[1], "one of the two deadlocked and was run again")
	var sum int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT sum(v) FROM n").Scan(&sum))
	require.Equal(t, 4, sum)
}

func TestAnErrorRollsBackAndIsNotRepeated(t *testing.T) {
	t.Parallel()
	pool, err := pg.Open(t.Context(), pgtest.Database(t), "pg test", 2)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "CREATE TABLE n (id int CONSTRAINT n_is_unique PRIMARY KEY)")
	require.NoError(t, err)
	tries := 0
	err = pg.Tx(t.Context(), pool, func(tx pgx.Tx) error {
		tries++
		_, err := tx.Exec(t.Context(), "INSERT INTO n VALUES (1), (1)")
		return err
	})
	require.Equal(t, "n_is_unique", pg.Violated(err))
	require.Equal(t, pgerrcode.UniqueViolation, pg.Code(err))
	require.Equal(t, 1, tries)
	require.False(t, pg.IsUnavailable(err))
}

func TestAServerThatIsAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	_, err := pg.Open(t.Context(), "postgres://x@127.0.0.1:1/x", "pg test", 1)
	require.Error(t, err)
	require.True(t, pg.IsUnavailable(err))
	require.True(t, fault.HasReason(pg.Unavailable(err), fault.DatabaseUnavailable))
	require.True(t, fault.Retryable(pg.Unavailable(err)))
	require.Equal(t, context.Canceled, pg.Unavailable(context.Canceled), "the caller's going is not the server's absence")
	other := fault.New(codes.NotFound, fault.CompanyNotFound, "none").Because(err)
	require.Equal(t, error(other), pg.Unavailable(other), "what is a fault already stays it")

	pool, err := pg.Open(t.Context(), pgtest.Database(t), "pg test", 1)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())")
	require.True(t, pg.IsUnavailable(err), "%v", err)
	require.Equal(t, `"a""b"`, pg.Quote(`a"b`))
}
