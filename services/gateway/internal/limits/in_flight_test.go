package limits

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestWhoHasMostInFlightIsShedFirst(t *testing.T) {
	t.Parallel()
	f := newInFlight(100)
	flood, quiet, third := uuid.New(), uuid.New(), uuid.New()
	for range 100 {
		require.True(t, f.begin(flood), "nobody else needs it")
	}
	require.False(t, f.begin(flood))
	for range 50 {
		require.True(t, f.begin(quiet), "up to an equal part")
	}
	require.False(t, f.begin(quiet))
	for range 33 {
		require.True(t, f.begin(third))
	}
	require.False(t, f.begin(third))
	calls, _, shed := f.stats()
	require.Equal(t, 183, calls)
	require.Equal(t, uint64(3), shed)

	for range 84 {
		f.end(flood)
	}
	require.True(t, f.begin(flood), "there is room, whoever takes it")
	require.Equal(t, map[uuid.UUID]int{flood: 17, quiet: 50, third: 33}, f.held)
	for range 50 {
		f.end(quiet)
	}
	require.NotContains(t, f.held, quiet, "who has no calls is forgotten")
}

func TestAllTogetherNeverHaveMoreThanTwiceTheMaximum(t *testing.T) {
	t.Parallel()
	f := newInFlight(64)
	for range 1000 {
		company := uuid.New()
		for f.begin(company) {
		}
		calls, _, _ := f.stats()
		require.LessOrEqual(t, calls, 128)
	}
}

func TestAShedCallSaysWhenToTryAgain(t *testing.T) {
	t.Parallel()
	l := start(t, Config{MaxInFlight: 1})
	company := uuid.New()
	first := user(company)
	require.NoError(t, l.Begin(t.Context(), first))
	got := fault.From(l.Begin(t.Context(), user(company)))
	require.Equal(t, codes.Unavailable, got.Code)
	require.Equal(t, fault.Overloaded, got.Reason)
	require.Positive(t, got.RetryAfter)
	require.LessOrEqual(t, got.RetryAfter, 2*shedFor)
	l.End(first)
	require.NoError(t, l.Begin(t.Context(), user(company)))
	require.Equal(t, Stats{Refusals: Refusals{InFlight: 1}, InFlight: 1, Limit: 1}, l.Stats())
}

// server is a simulated one that can do some calls at once; what is more waits, each for another turn of 2 ms.
type server struct {
	*inFlight
	capacity int
	running  []uuid.UUID
}

// interval offers calls of these companies, one of each in turn, lets all end, and has the limit see how long they waited.
func (s *server) interval(offered int, companies ...uuid.UUID) (waited time.Duration) {
	for i := range offered {
		if c := companies[i%len(companies)]; s.begin(c) {
			s.running = append(s.running, c)
		}
	}
	waited = time.Duration(max(0, len(s.running)-s.capacity)) * 2 * time.Millisecond * 100 / time.Duration(s.capacity)
	for _, c := range s.running {
		s.end(c)
	}
	s.running = nil
	s.observe(waited)
	return waited
}

func TestTheLimitFallsWhenWaitsGrowAndRecovers(t *testing.T) {
	t.Parallel()
	f := newInFlight(10_000)
	f.least = 10
	s := &server{inFlight: f, capacity: 200}
	company := uuid.New()
	for range 100 {
		s.interval(180, company)
	}
	_, limit, shed := f.stats()
	require.Equal(t, 10_000, limit, "below its capacity nothing is limited")
	require.Zero(t, shed)

	for range 30 { // three seconds of more than twice what it can do
		s.interval(500, company)
	}
	lowest, highest, slow := 10_000, 0, 0
	for range 200 {
		if s.interval(500, company) > target {
			slow++
		}
		_, limit, _ = f.stats()
		lowest, highest = min(lowest, limit), max(highest, limit)
	}
	require.Greater(t, lowest, 150, "it does as much as it can")
	require.Less(t, highest, 260)
	require.Less(t, slow, 100, "waits are above the target while the limit is found out again, and no longer")
	_, _, shed = f.stats()
	require.Positive(t, shed)

	s.capacity = 20 // it becomes slow
	for range 50 {
		s.interval(500, company)
	}
	_, limit, _ = f.stats()
	require.Less(t, limit, 40)

	s.capacity = 100_000 // and well again
	for range 400 {
		s.interval(500, company)
	}
	_, limit, _ = f.stats()
	require.Equal(t, 10_000, limit)
}

func TestUnderOverloadTheQuietAreServedAndTheFloodIsShed(t *testing.T) {
	t.Parallel()
	f := newInFlight(10_000)
	f.least = 10
	flood, quiet := uuid.New(), uuid.New()
	refused := 0
	for i := range 100 {
		for range 300 {
			if f.begin(flood) {
				defer f.end(flood)
			}
		}
		if !f.begin(quiet) {
			refused++
		} else {
			f.end(quiet)
		}
		if i > 0 {
			f.observe(time.Second)
		}
	}
	require.Zero(t, refused)
}

func TestTheLimitNeverFallsBelowItsLeast(t *testing.T) {
	t.Parallel()
	f := newInFlight(10_000)
	for range 1000 {
		f.observe(time.Second)
	}
	_, limit, _ := f.stats()
	require.Equal(t, leastPerProcessor*runtime.GOMAXPROCS(0), limit)
	small := newInFlight(3)
	small.observe(time.Second)
	require.Equal(t, 1, small.limit)
}

func TestWaitsAreThoseThatCameSince(t *testing.T) {
	t.Parallel()
	bounds := []float64{0, 0.001, 0.01, 0.1, 1}
	for _, c := range []struct {
		counts, before []uint64
		median, tail   time.Duration
	}{
		{[]uint64{10, 10, 100, 10}, nil, 10 * time.Millisecond, 10 * time.Millisecond},
		{[]uint64{10, 10, 100, 30}, nil, 10 * time.Millisecond, 100 * time.Millisecond},
		{[]uint64{10, 10, 100, 110}, []uint64{10, 10, 100, 10}, 100 * time.Millisecond, 100 * time.Millisecond},
		{[]uint64{10, 10, 100, 20}, []uint64{10, 10, 100, 10}, 0, 0}, // too few to tell
	} {
		median, tail := quantilesOf(bounds, c.counts, c.before)
		require.Equal(t, c.median, median)
		require.Equal(t, c.tail, tail)
	}
}

// TestProcessorsThatCannotKeepUpAreSeen uses the runtime's own figures.
func TestProcessorsThatCannotKeepUpAreSeen(t *testing.T) {
	w := newWaits()
	long := func() bool {
		now := w.read()
		return now.median > target && now.tail >= now.median && now.busy > 0.01
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for range 100 * runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for ctx.Err() == nil {
				end := time.Now().Add(2 * time.Millisecond)
				for time.Now().Before(end) {
					_ = uuid.New()
				}
				runtime.Gosched()
			}
		})
	}
	require.Eventually(t, long, time.Minute, interval)
	cancel()
	group.Wait()
	w.read()
	require.Eventually(t, func() bool { return !long() }, time.Minute, interval)
}

func BenchmarkACallThatIsNotTooMuch(b *testing.B) {
	l := start(b, Config{PerCompany: 1e9, PerCredential: 1e9, PerAddress: 1e9, MaxInFlight: 10_000, Pacing: true})
	from := address("192.0.2.1")
	run := func(b *testing.B, next func() bool) {
		b.Helper()
		caller := user(uuid.New())
		nobody := *caller
		nobody.Kind = 0
		for next() {
			if err := l.Arrive(nobody, from, false); err != nil {
				b.Error(err)
			}
			if err := l.Begin(b.Context(), caller); err != nil {
				b.Error(err)
			}
			l.End(caller)
		}
	}
	b.Run("one", func(b *testing.B) { b.ReportAllocs(); run(b, b.Loop) })
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) { run(b, p.Next) })
	})
}
