package conns

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// bubble is a test on a clock of its own.
type bubble struct {
	*testing.T
	pools   *Pools
	servers *fakeServers
}

// inBubble runs a test, and at the end closes the pools and looks for what was noted.
func inBubble(t *testing.T, budget int, cfg Config, test func(t bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServers(budget)
		cfg.dial = s.dial
		p := New(cfg)
		test(bubble{t, p, s})
		require.NoError(t, p.Close(t.Context()))
		require.Empty(t, s.problems)
		require.Zero(t, s.count("a"), "left open")
		require.Empty(t, state(p), "left over")
		for _, c := range *p.clusters.Load() {
			require.Empty(t, c.tenants, "tenants that hold nothing are forgotten")
		}
	})
}

// state is the pools' Stats without what only counts, of the clusters that have connections or waiters.
func state(p *Pools) map[string]Stats {
	now := map[string]Stats{}
	for name, s := range p.Stats() {
		if s = (Stats{Limit: s.Limit, Open: s.Open, Used: s.Used, Idle: s.Idle, Dialing: s.Dialing, Waiting: s.Waiting}); s.Open+s.Waiting > 0 {
			now[name] = s
		}
	}
	return now
}

// must acquires, and fails the test if it cannot.
func (b bubble) must(target Target) *Conn {
	b.Helper()
	c, err := take(b.Context(), b.pools, target)
	require.NoError(b, err)
	return c
}

// result is the end of an Acquire that somebody waited in.
type result struct {
	conn *Conn
	err  error
}

// begin acquires in the background, and returns once that is waiting or done.
func (b bubble) begin(ctx context.Context, target Target) <-chan result {
	done := make(chan result, 1)
	go func() {
		c, err := take(ctx, b.pools, target)
		done <- result{c, err}
	}()
	synctest.Wait()
	return done
}

func TestAConnectionIsUsedAgainByItsTenantAlone(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t bubble) {
		first := t.must(targetOf(1, 9))
		used := linkOf(first)
		give(first)
		first.Release() // A second time does nothing.
		require.Nil(t, first.PgConn())
		require.Equal(t, map[string]Stats{"a": {Limit: 9, Open: 1, Idle: 1}}, state(t.pools))

		other := t.must(targetOf(2, 9))
		again := t.must(targetOf(1, 9))
		require.NotSame(t, used, linkOf(other))
		require.Same(t, used, linkOf(again))
		require.Equal(t, 2, t.servers.dialled())
		give(other)
		give(again)
	})
}

func TestTheConnectionUsedLastIsUsedNext(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t bubble) {
		a, b := t.must(targetOf(1, 9)), t.must(targetOf(1, 9))
		last := linkOf(b)
		give(a)
		give(b)
		c := t.must(targetOf(1, 9))
		require.Same(t, last, linkOf(c))
		give(c)
	})
}

func TestTheLeastRecentlyUsedConnectionMakesRoom(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, Config{}, func(t bubble) {
		a, b := t.must(targetOf(1, 2)), t.must(targetOf(2, 2))
		older, younger := linkOf(b), linkOf(a)
		give(b)
		give(a)
		c := t.must(targetOf(3, 2))
		require.True(t, older.closed)
		require.False(t, younger.closed)
		give(c)
	})
}

func TestConnectionsUsedLatelyAreWarmAlsoWhenTheyMadeRoom(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, Config{IdleTimeout: time.Hour}, func(t bubble) {
		warm := func() int { return t.pools.Stats()["a"].Warm }
		a, b := t.must(targetOf(1, 2)), t.must(targetOf(2, 2))
		require.Zero(t, warm(), "those in use are told of as such")
		give(a)
		give(b)
		require.Equal(t, 2, warm())
		time.Sleep(9 * time.Second)
		c := t.must(targetOf(3, 2))
		require.Equal(t, 2, warm(), "one idle, one that made room just now")
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, 0, warm(), "what is idle was not used for ten seconds, and what made room is not wanted again")
		d := t.must(targetOf(4, 2))
		require.Equal(t, 0, warm(), "nobody used lately what made room")
		give(c)
		give(d)
	})
}

func TestWhatHappensInASecondIsCountedByIt(t *testing.T) {
	t.Parallel()
	var r recent
	begun := time.Now()
	for i := range 40 { // Twenty a second.
		r.add(begun.Add(time.Duration(i) * 50 * time.Millisecond))
	}
	require.Equal(t, 20, r.lastSecond(begun.Add(1999*time.Millisecond)))
	require.Equal(t, 10, r.lastSecond(begun.Add(2500*time.Millisecond)))
	require.Equal(t, 0, r.lastSecond(begun.Add(3*time.Second)))
	require.Equal(t, 0, r.lastSecond(begun.Add(time.Hour)))
}

// come begins a call of each tenant, in that order, and returns a function that waits for the next of them to be served
// and says which. It fails if another is served beside it.
func (b bubble) come(budget int, tenants ...byte) (next func() (byte, *Conn)) {
	waiting := map[int]<-chan result{}
	for i, n := range tenants {
		waiting[i] = b.begin(b.Context(), targetOf(n, budget))
	}
	return func() (byte, *Conn) {
		b.Helper()
		time.Sleep(100 * time.Millisecond)
		served := -1
		for i, mine := range waiting {
			if len(mine) > 0 {
				require.Equal(b, -1, served, "two were served")
				served = i
			}
		}
		require.NotEqual(b, -1, served, "nobody was served")
		got := <-waiting[served]
		require.NoError(b, got.err)
		delete(waiting, served)
		return tenants[served], got.conn
	}
}

func TestTenantsTakeTurnsWhoeverCameFirst(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t bubble) {
		held := t.must(targetOf(9, 1))
		next := t.come(1, 3, 3, 3, 1, 2, 1)
		require.Equal(t, 6, t.pools.Stats()["a"].Waiting)
		give(held)
		for _, want := range []byte{3, 1, 2, 3, 1, 3} {
			tenant, c := next()
			require.Equal(t, want, tenant)
			give(c)
		}
	})
}

func TestAFloodDelaysAnotherTenantByOneTurnAtMost(t *testing.T) {
	t.Parallel()
	for _, budget := range []int{1, 2, 7} {
		inBubble(t, budget, Config{MaxWait: time.Hour}, func(t bubble) {
			const hold = time.Second
			ctx, cancel := context.WithCancel(t.Context())
			var served atomic.Int64
			var flood sync.WaitGroup
			for range 200 {
				flood.Go(func() {
					for ctx.Err() == nil {
						if c, err := take(ctx, t.pools, targetOf(1, budget)); err == nil {
							time.Sleep(hold)
							served.Add(1)
							give(c)
						}
					}
				})
			}
			time.Sleep(10*hold + hold/2)
			for range 20 {
				start := time.Now()
				c := t.must(targetOf(2, budget))
				require.LessOrEqual(t, time.Since(start), hold+10*time.Millisecond)
				give(c)
				time.Sleep(hold / 3)
			}
			require.Greater(t, served.Load(), int64(10*budget), "who floods is not starved, either")
			cancel()
			flood.Wait()
		})
	}
}

func TestANoisyTenantKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, Config{}, func(t bubble) {
		a, b := t.must(targetOf(1, 2)), t.must(targetOf(1, 2))
		ctx, cancel := context.WithCancel(t.Context())
		var noisy []<-chan result
		for range 50 {
			noisy = append(noisy, t.begin(ctx, targetOf(1, 2)))
		}
		quiet := t.begin(t.Context(), targetOf(2, 2))
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
	inBubble(t, 9, Config{PerTenant: 2}, func(t bubble) {
		a, b := t.must(targetOf(1, 9)), t.must(targetOf(1, 9))
		third := t.begin(t.Context(), targetOf(1, 9))
		other := t.must(targetOf(2, 9))
		require.Equal(t, 1, t.pools.Stats()["a"].Waiting)
		require.Equal(t, 3, t.servers.dialled())
		give(a)
		got := <-third
		require.NoError(t, got.err)
		require.Equal(t, 3, t.servers.dialled())
		give(b)
		give(other)
		give(got.conn)
	})
}

func TestWaitingEndsAfterMaxWaitOrWithTheContext(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{MaxWait: 3 * time.Second}, func(t bubble) {
		held := t.must(targetOf(1, 1))
		start := time.Now()
		_, err := t.pools.Acquire(t.Context(), targetOf(2, 1))
		require.Equal(t, 3*time.Second, time.Since(start))
		require.True(t, fault.HasReason(err, fault.ConnectionsExhausted))
		require.Equal(t, codes.ResourceExhausted, fault.From(err).Code)
		require.Positive(t, fault.From(err).RetryAfter)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = t.pools.Acquire(ctx, targetOf(2, 1))
		require.Equal(t, context.DeadlineExceeded, err)
		_, err = t.pools.Acquire(ctx, targetOf(1, 1))
		require.Equal(t, context.DeadlineExceeded, err)
		require.Equal(t, map[string]Stats{"a": {Limit: 1, Open: 1, Used: 1}}, state(t.pools))
		give(held)
	})
}

func TestAFailedOrCancelledDialGivesItsPlaceToTheNext(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{ConnectTimeout: time.Second}, func(t bubble) {
		t.servers.latency = time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		first, second := t.begin(ctx, targetOf(1, 1)), t.begin(t.Context(), targetOf(2, 1))
		cancel()
		require.Equal(t, result{nil, context.Canceled}, <-first)
		got := <-second
		require.True(t, fault.HasReason(got.err, fault.DatabaseUnavailable))
		require.ErrorIs(t, got.err, context.DeadlineExceeded, "the connect timeout's")
		require.Equal(t, codes.Unavailable, fault.From(got.err).Code)
		require.Positive(t, fault.From(got.err).RetryAfter)

		t.servers.latency, t.servers.refuse = time.Millisecond, func() error { return errFinal }
		_, err := t.pools.Acquire(t.Context(), targetOf(1, 1))
		require.ErrorIs(t, err, errFinal)
		require.Empty(t, state(t.pools))
	})
}

func TestABrokenConnectionIsNotGivenOutAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t bubble) {
		c := t.must(targetOf(1, 1))
		linkOf(c).breakDown()
		give(c)
		c = t.must(targetOf(1, 1))
		require.Equal(t, 2, t.servers.dialled())

		idle := linkOf(c)
		give(c)
		time.Sleep(defaultCheckAfter)
		idle.breakDown()
		c = t.must(targetOf(1, 1))
		require.Equal(t, 3, t.servers.dialled())
		give(c)
	})
}

func TestIdleConnectionsAreClosedAfterAWhile(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{IdleTimeout: time.Minute}, func(t bubble) {
		a, b := t.must(targetOf(1, 9)), t.must(targetOf(2, 9))
		give(a)
		time.Sleep(50 * time.Second)
		give(b)
		time.Sleep(30 * time.Second)
		require.Equal(t, 1, t.servers.count("a"))
		c := t.must(targetOf(2, 9))
		require.Equal(t, 2, t.servers.dialled())
		time.Sleep(time.Hour)
		require.Equal(t, 1, t.servers.count("a"), "in use")
		give(c)
		time.Sleep(80 * time.Second)
		require.Empty(t, state(t.pools))
	})
}

func TestDrainClosesIdleConnectionsNowAndUsedOnesWhenReleased(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t bubble) {
		idle, used, other := t.must(targetOf(1, 9)), t.must(targetOf(1, 9)), t.must(targetOf(2, 9))
		give(idle)
		give(other)
		t.pools.Drain(targetOf(1, 9).DatabaseID)
		time.Sleep(time.Second)
		require.Equal(t, map[string]Stats{"a": {Limit: 9, Open: 2, Used: 1, Idle: 1}}, state(t.pools))
		late := t.must(targetOf(1, 9))
		give(used)
		time.Sleep(time.Second)
		require.Equal(t, 2, t.servers.count("a"))
		give(late)
		require.Equal(t, Stats{Limit: 9, Open: 2, Idle: 2}, state(t.pools)["a"], "one made after the drain is kept")
	})
}

func TestATenantThatMovedIsNotServedWhereItWas(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t bubble) {
		was := t.must(targetOf(1, 1))
		give(was)
		for _, change := range []func(*Target){
			func(t *Target) { t.Host = "elsewhere" }, func(t *Target) { t.Port++ },
			func(t *Target) { t.TLS = VerifyFull }, func(t *Target) { t.PasswordVersion++ },
		} {
			target := targetOf(1, 1)
			change(&target)
			give(t.must(target)) // Which looks where it leads.
		}
	})
}

func TestABudgetThatChangesHoldsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, Config{}, func(t bubble) {
		a, b, c := t.must(targetOf(1, 3)), t.must(targetOf(2, 3)), t.must(targetOf(3, 3))
		give(a)
		waiting := t.begin(t.Context(), targetOf(4, 1))
		time.Sleep(time.Second)
		require.Equal(t, 2, t.servers.count("a"), "the idle one is closed, and not for the waiter")
		give(b)
		time.Sleep(time.Second)
		require.Equal(t, 1, t.servers.count("a"))
		require.Empty(t, waiting)
		more := t.must(targetOf(5, 3))
		got := <-waiting
		require.NoError(t, got.err, "the larger budget serves both")
		for _, held := range []*Conn{c, more, got.conn} {
			give(held)
		}
	})
}

func TestCloseWaitsForConnectionsInUseAndTurnsWaitersAway(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t bubble) {
		held := t.must(targetOf(1, 1))
		waiting := t.begin(t.Context(), targetOf(2, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, context.DeadlineExceeded, t.pools.Close(ctx))
		got := <-waiting
		require.True(t, fault.HasReason(got.err, fault.Unavailable))
		_, err := t.pools.Acquire(t.Context(), targetOf(1, 1))
		require.True(t, fault.HasReason(err, fault.Unavailable))

		closed := make(chan error, 1)
		go func() { closed <- t.pools.Close(t.Context()) }()
		synctest.Wait()
		require.Empty(t, closed)
		require.Equal(t, 1, t.servers.count("a"))
		give(held)
		require.NoError(t, <-closed)
		require.Zero(t, t.servers.count("a"))
	})
}

func TestWhoHoldsFewerGoesBeforeWhoCameEarlier(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, Config{}, func(t bubble) {
		a, b := t.must(targetOf(1, 2)), t.must(targetOf(2, 2))
		first, second := t.begin(t.Context(), targetOf(3, 2)), t.begin(t.Context(), targetOf(3, 2))
		other := t.begin(t.Context(), targetOf(4, 2))
		give(a)
		give(b)
		got, others := <-first, <-other
		require.NoError(t, got.err)
		require.NoError(t, others.err)
		require.Empty(t, second)
		give(got.conn)
		last := <-second
		require.NoError(t, last.err)
		give(others.conn)
		give(last.conn)
	})
}

func TestAConnectionGrantedAtTheMomentOfCancellationIsNotLost(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t bubble) {
		give(t.must(targetOf(1, 1)))
		served, err := t.pools.cluster("a").enqueue(targetOf(1, 1), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = t.pools.cluster("a").giveUp(ctx, served, ctx.Err())
		require.Equal(t, context.Canceled, err)
		require.Equal(t, map[string]Stats{"a": {Limit: 1, Open: 1, Idle: 1}}, state(t.pools))

		// Who only waited too long takes it after all.
		served, err = t.pools.cluster("a").enqueue(targetOf(1, 1), nil)
		require.NoError(t, err)
		granted, err := t.pools.cluster("a").giveUp(t.Context(), served, nil)
		require.NoError(t, err)
		t.pools.cluster("a").returnGrant(served, granted)
	})
}

func TestWhatIsGrantedTooLateGoesToTheNext(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t bubble) {
		give(t.must(targetOf(1, 1)))
		for _, tenant := range []byte{1, 2, 3} { // An idle connection, its place, and, its owner gone, a place again.
			late, err := t.pools.cluster("a").enqueue(targetOf(tenant, 1), nil)
			require.NoError(t, err)
			granted := <-late.granted
			next := t.begin(t.Context(), targetOf(9, 1))
			require.Empty(t, next)
			t.pools.cluster("a").returnGrant(late, granted)
			got := <-next
			require.NoError(t, got.err)
			linkOf(got.conn).breakDown()
			give(got.conn)
			time.Sleep(time.Second)
			require.Empty(t, state(t.pools))
			give(t.must(targetOf(1, 1)))
		}
	})
}

func TestWhoWasGivenADeadConnectionKeepsItsTurn(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, Config{}, func(t bubble) {
		give(t.must(targetOf(1, 1)))
		first, err := t.pools.cluster("a").enqueue(targetOf(1, 1), nil)
		require.NoError(t, err)
		dead := (<-first.granted).idle
		second := t.begin(t.Context(), targetOf(1, 1))
		t.pools.cluster("a").requeue(first, dead)
		granted := <-first.granted
		require.Empty(t, second)
		t.pools.cluster("a").returnGrant(first, granted)
		got := <-second
		require.NoError(t, got.err)
		give(got.conn)
	})
}
