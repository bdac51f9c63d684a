package conns

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// inBubble runs a test on a clock of its own, and at the end closes the pools and looks for what was noted.
func inBubble(t *testing.T, budget int, cfg Config, test func(t *testing.T, p *Pools, s *servers)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServers(budget)
		cfg.dial = s.dial
		p := New(cfg)
		test(t, p, s)
		require.NoError(t, p.Close(t.Context()))
		require.Empty(t, s.problems)
		require.Zero(t, s.count("a"), "left open")
		require.Empty(t, p.Stats())
	})
}

// must acquires, and fails the test if it cannot.
func must(t *testing.T, p *Pools, target Target) *Conn {
	t.Helper()
	c, err := take(t.Context(), p, target)
	require.NoError(t, err)
	return c
}

// result is the end of an Acquire that somebody waited in.
type result struct {
	conn *Conn
	err  error
}

// begin acquires in the background, and returns once that is waiting or done.
func begin(ctx context.Context, p *Pools, target Target) <-chan result {
	done := make(chan result, 1)
	go func() {
		c, err := take(ctx, p, target)
		done <- result{c, err}
	}()
	synctest.Wait()
	return done
}

func TestAConnectionIsUsedAgainByItsTenantAlone(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t *testing.T, p *Pools, s *servers) {
		first := must(t, p, targetOf(1, 9))
		used := linkOf(first)
		give(first)
		first.Release() // A second time does nothing.
		require.Nil(t, first.PgConn())
		require.Equal(t, map[string]Stats{"a": {Budget: 9, Open: 1, Idle: 1}}, p.Stats())

		other := must(t, p, targetOf(2, 9))
		again := must(t, p, targetOf(1, 9))
		require.NotSame(t, used, linkOf(other))
		require.Same(t, used, linkOf(again))
		require.Equal(t, 2, s.dialled())
		give(other)
		give(again)
	})
}

func TestTheConnectionUsedLastIsUsedNext(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t *testing.T, p *Pools, _ *servers) {
		a, b := must(t, p, targetOf(1, 9)), must(t, p, targetOf(1, 9))
		last := linkOf(b)
		give(a)
		give(b)
		c := must(t, p, targetOf(1, 9))
		require.Same(t, last, linkOf(c))
		give(c)
	})
}

func TestTheLeastRecentlyUsedConnectionMakesRoom(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, Config{}, func(t *testing.T, p *Pools, _ *servers) {
		a, b := must(t, p, targetOf(1, 2)), must(t, p, targetOf(2, 2))
		older, younger := linkOf(b), linkOf(a)
		give(b)
		give(a)
		c := must(t, p, targetOf(3, 2))
		require.True(t, older.closed)
		require.False(t, younger.closed)
		give(c)
	})
}

func TestWaitersAreServedInTheOrderOfTheirArrival(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t *testing.T, p *Pools, s *servers) {
		held := must(t, p, targetOf(9, 1))
		var order []<-chan result
		for _, n := range []byte{3, 1, 2, 3, 3, 1} {
			order = append(order, begin(t.Context(), p, targetOf(n, 1)))
		}
		require.Equal(t, 6, p.Stats()["a"].Waiting)
		give(held)
		for i, mine := range order {
			got := <-mine
			require.NoError(t, got.err)
			synctest.Wait()
			for _, later := range order[i+1:] {
				require.Empty(t, later)
			}
			give(got.conn)
		}
		require.Equal(t, 6, s.dialled(), "the fifth waiter could use the fourth's")
	})
}

func TestANoisyTenantKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, Config{}, func(t *testing.T, p *Pools, _ *servers) {
		a, b := must(t, p, targetOf(1, 2)), must(t, p, targetOf(1, 2))
		ctx, cancel := context.WithCancel(t.Context())
		var noisy []<-chan result
		for range 50 {
			noisy = append(noisy, begin(ctx, p, targetOf(1, 2)))
		}
		quiet := begin(t.Context(), p, targetOf(2, 2))
		give(a)
		got := <-quiet
		require.NoError(t, got.err)
		for _, n := range noisy {
			require.Empty(t, n)
		}
		cancel()
		for _, n := range noisy {
			require.Equal(t, result{nil, context.Canceled}, <-n)
		}
		give(b)
		give(got.conn)
	})
}

func TestATenantHasNoMoreThanItsCapAndIsInNobodysWay(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{PerTenant: 2}, func(t *testing.T, p *Pools, s *servers) {
		a, b := must(t, p, targetOf(1, 9)), must(t, p, targetOf(1, 9))
		third := begin(t.Context(), p, targetOf(1, 9))
		other := must(t, p, targetOf(2, 9))
		require.Equal(t, 1, p.Stats()["a"].Waiting)
		require.Equal(t, 3, s.dialled())
		give(a)
		got := <-third
		require.NoError(t, got.err)
		require.Equal(t, 3, s.dialled())
		give(b)
		give(other)
		give(got.conn)
	})
}

func TestWaitingEndsAfterMaxWaitOrWithTheContext(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{MaxWait: 3 * time.Second}, func(t *testing.T, p *Pools, _ *servers) {
		held := must(t, p, targetOf(1, 1))
		start := time.Now()
		_, err := p.Acquire(t.Context(), targetOf(2, 1))
		require.Equal(t, 3*time.Second, time.Since(start))
		require.True(t, fault.HasReason(err, fault.ConnectionsExhausted))
		require.Equal(t, codes.ResourceExhausted, fault.From(err).Code)
		require.Positive(t, fault.From(err).RetryAfter)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.Acquire(ctx, targetOf(2, 1))
		require.Equal(t, context.DeadlineExceeded, err)
		_, err = p.Acquire(ctx, targetOf(1, 1))
		require.Equal(t, context.DeadlineExceeded, err)
		require.Equal(t, map[string]Stats{"a": {Budget: 1, Open: 1}}, p.Stats())
		give(held)
	})
}

func TestAFailedOrCancelledDialGivesItsPlaceToTheNext(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{ConnectTimeout: time.Second}, func(t *testing.T, p *Pools, s *servers) {
		s.latency = time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		first, second := begin(ctx, p, targetOf(1, 1)), begin(t.Context(), p, targetOf(2, 1))
		cancel()
		require.Equal(t, result{nil, context.Canceled}, <-first)
		got := <-second
		require.True(t, fault.HasReason(got.err, fault.DatabaseUnavailable))
		require.ErrorIs(t, got.err, context.DeadlineExceeded, "the connect timeout's")
		require.Equal(t, codes.Unavailable, fault.From(got.err).Code)
		require.Positive(t, fault.From(got.err).RetryAfter)

		s.latency, s.refuse = time.Millisecond, func() bool { return true }
		_, err := p.Acquire(t.Context(), targetOf(1, 1))
		require.ErrorIs(t, err, errDial)
		require.Empty(t, p.Stats())
	})
}

func TestABrokenConnectionIsNotGivenOutAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t *testing.T, p *Pools, s *servers) {
		c := must(t, p, targetOf(1, 1))
		linkOf(c).breakDown()
		give(c)
		c = must(t, p, targetOf(1, 1))
		require.Equal(t, 2, s.dialled())

		idle := linkOf(c)
		give(c)
		time.Sleep(defaultCheckAfter)
		idle.breakDown()
		c = must(t, p, targetOf(1, 1))
		require.Equal(t, 3, s.dialled())
		give(c)
	})
}

func TestIdleConnectionsAreClosedAfterAWhile(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{IdleTimeout: time.Minute}, func(t *testing.T, p *Pools, s *servers) {
		a, b := must(t, p, targetOf(1, 9)), must(t, p, targetOf(2, 9))
		give(a)
		time.Sleep(50 * time.Second)
		give(b)
		time.Sleep(30 * time.Second)
		require.Equal(t, 1, s.count("a"))
		c := must(t, p, targetOf(2, 9))
		require.Equal(t, 2, s.dialled())
		time.Sleep(time.Hour)
		require.Equal(t, 1, s.count("a"), "in use")
		give(c)
		time.Sleep(80 * time.Second)
		require.Empty(t, p.Stats())
	})
}

func TestDrainClosesIdleConnectionsNowAndUsedOnesWhenReleased(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t *testing.T, p *Pools, s *servers) {
		idle, used, other := must(t, p, targetOf(1, 9)), must(t, p, targetOf(1, 9)), must(t, p, targetOf(2, 9))
		give(idle)
		give(other)
		p.Drain(targetOf(1, 9).DatabaseID)
		time.Sleep(time.Second)
		require.Equal(t, map[string]Stats{"a": {Budget: 9, Open: 2, Idle: 1}}, p.Stats())
		late := must(t, p, targetOf(1, 9))
		give(used)
		time.Sleep(time.Second)
		require.Equal(t, 2, s.count("a"))
		give(late)
		require.Equal(t, Stats{Budget: 9, Open: 2, Idle: 2}, p.Stats()["a"], "one made after the drain is kept")
	})
}

func TestATenantThatMovedIsNotServedWhereItWas(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t *testing.T, p *Pools, _ *servers) {
		was := must(t, p, targetOf(1, 1))
		give(was)
		for _, change := range []func(*Target){
			func(t *Target) { t.Host = "elsewhere" }, func(t *Target) { t.Port++ },
			func(t *Target) { t.TLS = VerifyFull }, func(t *Target) { t.PasswordVersion++ },
		} {
			target := targetOf(1, 1)
			change(&target)
			give(must(t, p, target)) // Which looks where it leads.
		}
	})
}

func TestABudgetThatChangesHoldsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, Config{}, func(t *testing.T, p *Pools, s *servers) {
		a, b, c := must(t, p, targetOf(1, 3)), must(t, p, targetOf(2, 3)), must(t, p, targetOf(3, 3))
		give(a)
		waiting := begin(t.Context(), p, targetOf(4, 1))
		time.Sleep(time.Second)
		require.Equal(t, 2, s.count("a"), "the idle one is closed, and not for the waiter")
		give(b)
		time.Sleep(time.Second)
		require.Equal(t, 1, s.count("a"))
		require.Empty(t, waiting)
		more := must(t, p, targetOf(5, 3))
		got := <-waiting
		require.NoError(t, got.err, "the larger budget serves both")
		for _, held := range []*Conn{c, more, got.conn} {
			give(held)
		}
	})
}

func TestCloseWaitsForConnectionsInUseAndTurnsWaitersAway(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t *testing.T, p *Pools, s *servers) {
		held := must(t, p, targetOf(1, 1))
		waiting := begin(t.Context(), p, targetOf(2, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, context.DeadlineExceeded, p.Close(ctx))
		got := <-waiting
		require.True(t, fault.HasReason(got.err, fault.Unavailable))
		_, err := p.Acquire(t.Context(), targetOf(1, 1))
		require.True(t, fault.HasReason(err, fault.Unavailable))

		closed := make(chan error, 1)
		go func() { closed <- p.Close(t.Context()) }()
		synctest.Wait()
		require.Empty(t, closed)
		require.Equal(t, 1, s.count("a"))
		give(held)
		require.NoError(t, <-closed)
		require.Zero(t, s.count("a"))
	})
}
