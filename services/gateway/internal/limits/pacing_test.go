package limits

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// machine is a simulated one that is busy beyond a number of calls a second.
type machine struct {
	*pacing
	capacity float64
	busy     float64
	begun    map[uuid.UUID]int // in this interval
}

// callers call again as soon as they have an answer, which takes ten milliseconds, until the context ends.
func (m *machine) callers(ctx context.Context, n int, company uuid.UUID) {
	for range n {
		go func() {
			for ctx.Err() == nil && m.wait(ctx, company) == nil {
				m.mu.Lock()
				m.begun[company]++
				m.mu.Unlock()
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
}

// quiet has companies call once a second each, who are never to wait.
func (m *machine) quiet(ctx context.Context, t *testing.T, companies int) {
	t.Helper()
	for range companies {
		company := uuid.New()
		go func() {
			for ctx.Err() == nil {
				begun := time.Now()
				if m.wait(ctx, company) == nil && time.Since(begun) > 0 {
					t.Error("a quiet company was slowed")
				}
				time.Sleep(time.Second)
			}
		}()
	}
}

// run lets some intervals pass and returns how many calls a second each company began in them.
func (m *machine) run(intervals int) map[uuid.UUID]float64 {
	rates := map[uuid.UUID]float64{}
	for range intervals {
		time.Sleep(interval)
		m.mu.Lock()
		total := 0.0
		for company, n := range m.begun {
			total += float64(n) / interval.Seconds()
			rates[company] += float64(n) / interval.Seconds() / float64(intervals)
		}
		m.begun = map[uuid.UUID]int{}
		m.mu.Unlock()
		waited := paceTarget / 10
		if total > m.capacity {
			waited = 5 * paceTarget
		}
		m.observe(load{tail: waited, busy: m.busy})
	}
	return rates
}

func simulate(t *testing.T, capacity float64, test func(ctx context.Context, m *machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer time.Sleep(2 * time.Second) // All goroutines see that.
		defer cancel()
		p := newPacing(true)
		p.least = 100
		test(ctx, &machine{pacing: p, capacity: capacity, busy: 0.5, begun: map[uuid.UUID]int{}})
	})
}

func TestWhoMakesMostOfTheCallsIsSlowedForAsLongAsOthersWaitForIt(t *testing.T) {
	t.Parallel()
	simulate(t, 500, func(ctx context.Context, m *machine) {
		flood := uuid.New()
		flooding, ebb := context.WithCancel(ctx)
		m.callers(flooding, 20, flood)
		m.run(10)
		require.InDelta(t, 2000, m.run(10)[flood], 100, "whoever is alone goes as fast as it can")

		m.quiet(ctx, t, 50)
		m.run(100)
		rate := m.run(100)[flood]
		require.Greater(t, rate, 0.8*m.capacity, "it does as much as it can")
		require.Less(t, rate, m.capacity, "and leaves something to others")
		slowed, delayed, refused := m.stats()
		require.Equal(t, 1, slowed)
		require.Positive(t, delayed)
		require.Zero(t, refused, "no call is refused for a short wait")

		ebb()
		m.run(givenUp + 10)
		slowed, _, _ = m.stats()
		require.Zero(t, slowed, "the flood is over")
	})
}

func TestAFloodThatJustBeganIsSlowedFromWhatItMakesAndNotFromItsAverage(t *testing.T) {
	t.Parallel()
	simulate(t, 500, func(ctx context.Context, m *machine) {
		m.quiet(ctx, t, 5)
		m.run(10)
		flood := uuid.New()
		m.callers(ctx, 20, flood)
		m.run(1)
		require.InDelta(t, decrease*2000, m.companies[flood].turns.rate, 200)
	})
}

func TestARateStaysForLongWhereThereWasJustEnough(t *testing.T) {
	t.Parallel()
	simulate(t, 500, func(ctx context.Context, m *machine) {
		m.callers(ctx, 20, uuid.New())
		m.quiet(ctx, t, 5)
		m.run(100)
		late := 0
		for range 300 {
			m.run(1)
			for _, c := range m.companies {
				if c.turns != nil && c.fell == 0 {
					late++
				}
			}
		}
		require.Positive(t, late)
		require.LessOrEqual(t, late, 15, "of 300 intervals")
	})
}

func TestNobodyIsSlowedWhereAllCallAsMuch(t *testing.T) {
	t.Parallel()
	simulate(t, 500, func(ctx context.Context, m *machine) {
		for range 10 {
			m.callers(ctx, 2, uuid.New())
		}
		m.run(100)
		slowed, delayed, _ := m.stats()
		require.Zero(t, slowed)
		require.Zero(t, delayed)
	})
}

func TestNobodyIsSlowedForWaitsThatTheGatewayIsNotTheCauseOf(t *testing.T) {
	t.Parallel()
	simulate(t, 500, func(ctx context.Context, m *machine) {
		m.busy = leastBusy / 2
		m.callers(ctx, 20, uuid.New())
		m.quiet(ctx, t, 5)
		m.run(100)
		slowed, _, _ := m.stats()
		require.Zero(t, slowed)
		m.busy = 2 * leastBusy
		m.run(10)
		slowed, _, _ = m.stats()
		require.Equal(t, 1, slowed)
	})
}

func TestACompanyThatIsLeftAloneIsNotSlowedAnyMore(t *testing.T) {
	t.Parallel()
	simulate(t, 500, func(ctx context.Context, m *machine) {
		flood := uuid.New()
		m.callers(ctx, 10, flood)
		other, leave := context.WithCancel(ctx)
		m.callers(other, 1, uuid.New())
		m.run(50)
		slowed, _, _ := m.stats()
		require.Equal(t, 1, slowed)
		leave()
		m.run(lately + 2)
		require.InDelta(t, 1000, m.run(10)[flood], 50)
	})
}

func TestTheRateNeverFallsBelowItsLeast(t *testing.T) {
	t.Parallel()
	simulate(t, 1, func(ctx context.Context, m *machine) {
		flood := uuid.New()
		m.callers(ctx, 50, flood)
		m.quiet(ctx, t, 1)
		m.run(200)
		require.InDelta(t, m.least, m.run(20)[flood], m.least/10)
	})
}

func TestTurnsAreTakenInOrderGivenBackAndNotWaitedForTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Config{MaxInFlight: 1000, Pacing: true})
		require.NoError(t, err)
		defer l.Close()
		company := uuid.New()
		c := &pace{}
		l.pacing.slow(c, 10)
		l.pacing.companies[company] = c
		begun := time.Now()
		require.NoError(t, l.Begin(t.Context(), user(company)))
		require.Zero(t, time.Since(begun))

		given, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, l.Begin(given, user(company)), context.DeadlineExceeded)
		require.Equal(t, 1, l.Stats().InFlight, "a call that did not begin is not counted")
		require.NoError(t, l.Begin(t.Context(), user(company)))
		require.Equal(t, 100*time.Millisecond, time.Since(begun), "the turn that was given back is taken")

		began := make(chan int, 10)
		for i := range cap(began) {
			go func() {
				if l.Begin(t.Context(), user(company)) == nil {
					began <- i
				}
			}()
			synctest.Wait()
		}
		got := fault.From(l.Begin(t.Context(), user(company)))
		require.Equal(t, codes.Unavailable, got.Code)
		require.Equal(t, fault.Overloaded, got.Reason)
		require.InDelta(t, 1, got.RetryAfter.Seconds(), 0.5)
		require.Equal(t, uint64(1), l.Stats().Pacing)
		require.Equal(t, uint64(12), l.Stats().Delayed, "what was refused did not wait")
		for i := range cap(began) {
			require.Equal(t, i, <-began)
		}
		require.Equal(t, 12, l.Stats().InFlight)
	})
}
