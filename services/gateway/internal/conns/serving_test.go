package conns

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestAReserveIsLeftToTenantsThatHoldNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, 16, Config{PerTenant: 64}, func(t bubble) {
		var held []*Conn
		for range 14 {
			held = append(held, t.must(targetOf(1, 16)))
		}
		more := t.begin(t.Context(), targetOf(1, 16))
		time.Sleep(time.Second)
		require.Empty(t, more, "the last two are not for who holds fourteen")
		held = append(held, t.must(targetOf(2, 16)), t.must(targetOf(3, 16)))
		give(held[0])
		give(held[1])
		time.Sleep(time.Second)
		require.Empty(t, more, "the reserve is whole again before the flood has more")
		give(held[15])
		got := <-more
		require.NoError(t, got.err)
		give(got.conn)
		for _, c := range held[2:15] {
			give(c)
		}
	})
}

func TestTenantsThatAlwaysWantMoreHoldTheSameHoweverSlowTheyAre(t *testing.T) {
	t.Parallel()
	inBubble(t, 12, Config{PerTenant: 64, MaxWait: time.Hour}, func(t bubble) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for tenant, hold := range map[byte]time.Duration{1: 2 * time.Second, 2: 20 * time.Millisecond} {
			for range 50 {
				go func() {
					for ctx.Err() == nil {
						if c, err := take(ctx, t.pools, targetOf(tenant, 12)); err == nil {
							time.Sleep(hold)
							give(c)
						}
					}
				}()
			}
		}
		time.Sleep(20 * time.Second)
		c := t.pools.cluster("a")
		for range 100 {
			time.Sleep(13 * time.Millisecond)
			c.mu.Lock()
			slow := c.tenants[targetOf(1, 12).DatabaseID].used
			c.mu.Unlock()
			require.LessOrEqual(t, slow, 6)
		}
		cancel()
		time.Sleep(time.Minute)
	})
}

func TestADirtyConnectionIsCleanedInTheBackgroundAndWaitedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t bubble) {
		c := t.must(targetOf(1, 9))
		give(c)
		require.Zero(t, t.servers.cleans, "a clean one costs the server nothing")

		c = t.must(targetOf(1, 9))
		dirty := linkOf(c)
		dirty.soil()
		start := time.Now()
		give(c)
		require.Zero(t, time.Since(start), "nobody waits for it who has no use for it")
		require.Equal(t, Stats{Limit: 9, Open: 1, Used: 1}, state(t.pools)["a"])
		c = t.must(targetOf(1, 9)) // Which looks whether it is clean.
		require.Same(t, dirty, linkOf(c))
		require.Equal(t, 1, t.servers.cleans)

		// One that is expected is waited for by one caller; the other has one dialled.
		dirty.soil()
		give(c)
		first, second := t.begin(t.Context(), targetOf(1, 9)), t.begin(t.Context(), targetOf(1, 9))
		a, b := <-first, <-second
		require.Equal(t, 2, t.servers.dialled())
		give(a.conn)
		give(b.conn)

		// And if it cannot be cleaned, another is dialled.
		c = t.must(targetOf(1, 9))
		linkOf(c).breakDown()
		give(c)
		c = t.must(targetOf(1, 9))
		give(c)
		time.Sleep(time.Second)
		require.Equal(t, 1, state(t.pools)["a"].Open, "the other one is still there, or a new one")
	})
}

func TestAConnectionIsRenewedWhenTheSchemaIsAnother(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t bubble) {
		target := targetOf(1, 9)
		var used []*fakeLink
		for _, schema := range []string{"1", "1", "2", "2", "3"} {
			target.SchemaVersion = schema
			c := t.must(target) // Which looks for statements of another schema.
			used = append(used, linkOf(c))
			give(c)
		}
		require.Equal(t, 1, t.servers.dialled(), "it is the same connection all the time")
		require.Equal(t, 2, used[4].renewals)

		// One that is in use while the schema changes is renewed at its next use.
		c := t.must(target)
		target.SchemaVersion = "4"
		other := t.must(target)
		give(other)
		give(c)
		c, other = t.must(target), t.must(target)
		require.Equal(t, 3, linkOf(c).renewals)
		require.Zero(t, linkOf(other).renewals, "it never knew another")
		give(c)
		give(other)
	})
}

func TestOneDeadConnectionHasTheOthersChecked(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t bubble) {
		var all []*Conn
		for n := range byte(5) {
			all = append(all, t.must(targetOf(n+1, 9)))
		}
		links := make([]*fakeLink, 0, 5)
		for _, c := range all {
			links = append(links, linkOf(c))
		}
		for _, c := range all[1:] {
			give(c)
		}
		for _, l := range links[:4] {
			l.breakDown()
		}
		require.Equal(t, 5, t.servers.count("a"), "nobody knows")
		give(all[0])
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, 1, t.servers.count("a"), "only the one that lives is left")
		require.Equal(t, Stats{Limit: 9, Open: 1, Idle: 1}, state(t.pools)["a"])
		require.False(t, links[4].isClosed())

		// The same when it is found by who takes it, while the others are too young to be checked for their age.
		time.Sleep(defaultCheckAfter)
		a, b := t.must(targetOf(1, 9)), t.must(targetOf(2, 9))
		old, young := links[4], linkOf(a)
		give(a)
		give(b)
		old.breakDown()
		young.breakDown()
		give(t.must(targetOf(5, 9)))
		time.Sleep(100 * time.Millisecond)
		require.True(t, young.isClosed())
		require.Equal(t, 2, t.servers.count("a"))
	})
}

func TestAThousandTenantsThatWakeAtOnceAreDialledAFewAtATime(t *testing.T) {
	t.Parallel()
	inBubble(t, 100, Config{DialsPerCluster: 3, MaxWait: time.Minute}, func(t bubble) {
		t.servers.maxDials, t.servers.latency = 3, 10*time.Millisecond
		start := time.Now()
		next := make([]<-chan result, 0, 90)
		for n := range byte(90) {
			next = append(next, t.begin(t.Context(), targetOf(n, 100)))
		}
		require.Equal(t, Stats{Limit: 100, Open: 3, Used: 3, Dialing: 3, Waiting: 87}, state(t.pools)["a"])
		impatient, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		_, err := t.pools.Acquire(impatient, targetOf(99, 100))
		require.Equal(t, context.DeadlineExceeded, err)
		for i, mine := range next {
			got := <-mine
			require.NoError(t, got.err)
			require.Equal(t, time.Duration(i/3+1)*10*time.Millisecond, time.Since(start), "in the order in which they came")
			defer give(got.conn)
		}
	})
}

func TestAServerThatCannotBeReachedIsTriedByOneWhileTheOthersWait(t *testing.T) {
	t.Parallel()
	inBubble(t, 100, Config{MaxWait: 10 * time.Second}, func(t bubble) {
		t.servers.refuse = func() error { return errPasses }
		first := t.begin(t.Context(), targetOf(100, 100))
		time.Sleep(10 * time.Millisecond)
		waiting := []<-chan result{first}
		for n := range byte(90) {
			waiting = append(waiting, t.begin(t.Context(), targetOf(n, 100)))
		}
		t.servers.set(1, func() error { return errPasses })
		time.Sleep(4 * time.Second)
		require.Less(t, t.servers.dialled(), 25, "about two a second")
		require.Greater(t, t.servers.dialled(), 10)
		require.Equal(t, 91, t.pools.Stats()["a"].Waiting+t.pools.Stats()["a"].Dialing)

		t.servers.set(8, func() error { return nil })
		start := time.Now()
		for _, mine := range waiting {
			got := <-mine
			require.NoError(t, got.err)
			defer give(got.conn)
		}
		require.Less(t, time.Since(start), longestBackOff+50*time.Millisecond)
		now := t.pools.Stats()["a"]
		require.Equal(t, uint64(91), now.Dials-now.DialFailures)
		require.Zero(t, now.Timeouts)
	})
}

func TestWhoWaitsForAServerThatCannotBeReachedIsToldSo(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{MaxWait: 3 * time.Second}, func(t bubble) {
		t.servers.refuse = func() error { return errPasses }
		start := time.Now()
		first := t.begin(t.Context(), targetOf(1, 9))
		_, err := t.pools.Acquire(t.Context(), targetOf(2, 9))
		require.True(t, fault.HasReason(err, fault.DatabaseUnavailable))
		require.ErrorIs(t, err, errPasses)
		require.ErrorIs(t, (<-first).err, errPasses)
		require.InDelta(t, 3*time.Second, time.Since(start), float64(2*time.Millisecond))
		require.Equal(t, uint64(2), t.pools.Stats()["a"].Timeouts)
	})
}

func TestATenantThatTheServerRefusesHoldsUpNobody(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{DialsPerCluster: 1}, func(t bubble) {
		t.servers.maxDials = 1
		t.servers.refuse = func() error { return errFinal }
		start := time.Now()
		_, err := t.pools.Acquire(t.Context(), targetOf(1, 9))
		require.ErrorIs(t, err, errFinal)
		require.True(t, fault.HasReason(err, fault.DatabaseUnavailable))
		t.servers.refuse = func() error { return nil }
		give(t.must(targetOf(2, 9)))
		require.Equal(t, 2*time.Millisecond, time.Since(start), "two dials, and no pause")
	})
}

func TestWithoutALeaseNothingIsDialled(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, Config{Leased: true}, func(t bubble) {
		waiting := t.begin(t.Context(), targetOf(1, 9))
		time.Sleep(time.Second)
		require.Zero(t, t.servers.dialled())
		stats := t.pools.Stats()["a"]
		require.Equal(t, []int{0, 0, 1}, []int{stats.Open, stats.Used, stats.Waiting})
		t.pools.SetShare("a", 3)
		got := <-waiting
		require.NoError(t, got.err)
		give(got.conn)
	})
}

func TestASmallerShareIsReachedAsConnectionsAreReleased(t *testing.T) {
	t.Parallel()
	inBubble(t, 6, Config{}, func(t bubble) {
		var held []*Conn
		for n := range byte(6) {
			held = append(held, t.must(targetOf(n, 6)))
		}
		give(held[0])
		give(held[1])
		t.pools.SetShare("a", 3)
		time.Sleep(time.Second)
		stats := t.pools.Stats()["a"]
		require.Equal(t, []int{4, 4}, []int{stats.Open, stats.Used}, "the idle ones are closed")
		waiting := t.begin(t.Context(), targetOf(7, 6))
		give(held[2])
		time.Sleep(time.Second)
		require.Equal(t, 3, t.pools.Stats()["a"].Open)
		require.Empty(t, waiting)
		give(held[3])
		got := <-waiting
		require.NoError(t, got.err)
		require.Equal(t, 3, t.servers.count("a"))

		t.pools.SetShare("a", 100)
		more := make([]*Conn, 0, 3)
		for n := range byte(3) {
			more = append(more, t.must(targetOf(n+10, 6)))
		}
		last := t.begin(t.Context(), targetOf(20, 6))
		require.Empty(t, last, "the budget holds, whatever the share")
		for _, c := range append(more, got.conn, held[4], held[5]) {
			give(c)
		}
		gotLast := <-last
		give(gotLast.conn)
	})
}

func TestDrainedConnectionsThatAreDirtyAreClosedAndNotCleaned(t *testing.T) {
	t.Parallel()
	inBubble(t, 9, Config{}, func(t bubble) {
		c := t.must(targetOf(1, 9))
		linkOf(c).soil()
		t.pools.Drain(targetOf(1, 9).DatabaseID)
		give(c)
		synctest.Wait()
		time.Sleep(time.Second)
		require.Zero(t, t.servers.cleans)
		require.Zero(t, t.servers.count("a"))
	})
}
