package budget_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantry/tenantry/services/gateway/internal/budget"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
)

var errFull = errors.New("the disk is full")

// disk is what a process leaves behind.
type disk struct {
	t     *testing.T // the bubble's
	mu    sync.Mutex
	saved budget.Saved
	full  bool
	slow  time.Duration
	// order notes what was saved, and what a heartbeat said, of cluster a.
	order []step
}

type step struct {
	saved, told int // one of them; the other is -1
}

func (d *disk) save(s budget.Saved) error {
	d.mu.Lock()
	full, slow := d.full, d.slow
	d.mu.Unlock()
	time.Sleep(slow)
	if full {
		return errFull
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Answered = s.Answered.Round(0) // A file has no monotonic clock.
	d.saved = s
	d.order = append(d.order, step{s.Shares["a"].Share, -1})
	return nil
}

func (d *disk) read() budget.Saved {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saved
}

func (d *disk) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// process is a gateway's budget that runs, until it is killed or ends.
type process struct {
	*budget.Budget
	kill func()
}

// process starts one with what is on the disk.
func (d *disk) process(w *world) *process {
	d.t.Helper()
	saved := d.read()
	b := budget.New(budget.Config{Registry: w, Pools: w, Instance: "test", LongestCall: 35 * time.Second, Saved: &saved, Save: d.save})
	ctx, stop := context.WithCancel(d.t.Context())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	synctest.Wait()
	return &process{b, func() {
		stop()
		running.Wait()
		w.change(func() { w.shares, w.stats = map[string]int{}, map[string]conns.Stats{} })
	}}
}

// bubble runs a test with a registry and a disk, where time passes when all wait.
func bubble(t *testing.T, f func(w *world, d *disk)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{grants: map[string]int32{"a": 6, "small": 1}, shares: map[string]int{}, stats: map[string]conns.Stats{}}
		f(w, &disk{t: t})
	})
}

// told is what the last heartbeat said that this gateway's share of a is.
func (w *world) told() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.beats[len(w.beats)-1].request.GetClusters() {
		if u.GetCluster() == "a" {
			return int(u.GetShare())
		}
	}
	return 0
}

func TestSharesOutlastTheProcessForAsLongAsTheyAreLeased(t *testing.T) {
	bubble(t, func(w *world, d *disk) {
		p := d.process(w)
		pass(20 * time.Second)
		w.change(func() { w.away = true })
		p.kill()
		last := d.read().Answered
		require.LessOrEqual(t, time.Since(last), 7*time.Second, "what is on the disk is not much older than the last answer")

		pass(10 * time.Second)
		p = d.process(w)
		w.sent()
		pass(settle - look)
		require.Equal(t, -1, w.share("a"), "the other's connections may be still there")
		require.Empty(t, w.sent(), "what it has is not decided yet")
		pass(2 * look)
		require.Equal(t, []int{6, 1}, []int{w.share("a"), w.share("small")})
		require.InDelta(t, time.Since(last), p.Age(), float64(look))
		pass(time.Until(last.Add(lease)) - look)
		require.Equal(t, 6, w.share("a"))
		pass(2 * look)
		require.Equal(t, []int{2, 1}, []int{w.share("a"), w.share("small")}, "a little is left")
		p.kill()

		p = d.process(w)
		pass(settle + look)
		require.Equal(t, []int{2, 1}, []int{w.share("a"), w.share("small")}, "and to the next")
		pass(time.Until(last.Add(forget)) + look)
		require.Equal(t, 0, w.share("a"))
		p.kill()

		p = d.process(w)
		pass(10 * time.Second)
		require.Equal(t, -1, w.share("a"), "nothing is left")
		w.change(func() { w.away = false })
		pass(time.Second)
		require.Equal(t, 6, w.share("a"))
		p.kill()
	})
}

// settle is how long shares that were on the disk wait.
const settle = 2 * time.Second

func TestAShareThatShrinksIsOnTheDiskBeforeTheRegistryIsToldOfIt(t *testing.T) {
	bubble(t, func(w *world, d *disk) {
		p := d.process(w)
		pass(10 * time.Second)
		require.Equal(t, 6, d.read().Shares["a"].Share)
		// The disk takes longer than several heartbeats.
		d.change(func() { d.slow = 3500 * time.Millisecond })
		w.change(func() { w.grants["a"] = 4 })
		pass(time.Second + look)
		require.Equal(t, 4, w.share("a"), "fewer at once")
		for d.read().Shares["a"].Share == 6 {
			require.Equal(t, 6, w.told(), "the registry must not give the others any yet")
			pass(look)
		}
		d.change(func() { d.slow = 0 })
		pass(4 * look)
		require.Equal(t, 4, w.told(), "it is told soon")
		p.kill()
	})
}

func TestWhileTheDiskIsFullTheRegistryIsToldWhatIsOnItForAsLongAsThatCounts(t *testing.T) {
	bubble(t, func(w *world, d *disk) {
		p := d.process(w)
		pass(10 * time.Second)
		d.change(func() { d.full = true })
		last := d.read().Answered
		w.change(func() { w.grants["a"] = 1 })
		for time.Since(last) < lease-time.Second {
			pass(time.Second)
			require.Equal(t, 6, w.told())
			require.LessOrEqual(t, w.share("a"), 6)
		}
		pass(10 * time.Second)
		require.Equal(t, 2, w.told(), "what is on the disk is less by now")
		require.Equal(t, 1, w.share("a"), "serving goes on")
		d.change(func() { d.full = false })
		pass(3 * time.Second)
		require.Equal(t, 1, w.told())
		require.Equal(t, 1, d.read().Shares["a"].Share)
		p.kill()
	})
}

func TestSharesThatWereGivenBackAreNotOnTheDisk(t *testing.T) {
	bubble(t, func(w *world, d *disk) {
		p := d.process(w)
		pass(10 * time.Second)
		p.kill()
		d.change(func() { d.full = true })
		w.sent()
		p.Leave(d.t.Context())
		require.Empty(t, w.sent(), "they may be taken up again, so they are not given back")
		d.change(func() { d.full = false })
		p.Leave(d.t.Context())
		require.True(t, w.sent()[0].request.GetLeaving())
		require.Empty(t, d.read().Shares)
		w.change(func() { w.away = true })
		p = d.process(w)
		pass(10 * time.Second)
		require.Equal(t, -1, w.share("a"))
		p.kill()
	})
}

func TestAGatewayThatEndsWhileTheRegistryIsAwayKeepsItsShares(t *testing.T) {
	bubble(t, func(w *world, d *disk) {
		p := d.process(w)
		pass(10 * time.Second)
		w.change(func() { w.away = true })
		pass(5 * time.Second)
		p.kill()
		w.sent()
		p.Leave(d.t.Context())
		require.Empty(t, w.sent(), "nobody hears it")
		p = d.process(w)
		pass(settle + look)
		require.Equal(t, 6, w.share("a"))
		p.kill()
	})
}

// TestWhateverHappensTheRegistryCountsWhatTheDiskWouldGive lets a gateway live, die, and end, with a registry and a disk
// that are there or not, and looks all the time whether this process, and one that would start now from the disk, have no
// more than the registry counts for them: what it answered, and what it was told since.
func TestWhateverHappensTheRegistryCountsWhatTheDiskWouldGive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 99), 5, 20).Draw(r, "steps")
		synctest.Test(t, func(t *testing.T) {
			w := &world{grants: map[string]int32{"a": 6}, shares: map[string]int{}, stats: map[string]conns.Stats{}}
			c := &counting{world: w}
			d := &disk{t: t}
			p := d.counted(c)
			for _, s := range steps {
				switch s % 8 {
				case 0:
					w.change(func() { w.away = !w.away })
				case 1:
					d.change(func() { d.full = !d.full })
				case 2, 3:
					w.change(func() { w.grants["a"] = int32(s % 13) })
				case 4:
					d.change(func() { d.slow = time.Duration(s) * 20 * time.Millisecond })
				case 5:
					p.kill()
					p = d.counted(c)
				case 6:
					p.kill()
					p.Leave(d.t.Context())
					p = d.counted(c)
				}
				for range 1 + s%7*s%5 {
					pass(time.Duration(1+s) * 9 * time.Millisecond)
					c.look(t, d)
				}
				if s%11 == 0 {
					pass(lease)
					c.look(t, d)
				}
			}
			p.kill()
		})
	})
}

// counted is process with a registry that counts.
func (d *disk) counted(c *counting) *process {
	d.t.Helper()
	saved := d.read()
	saved.Shares = maps.Clone(saved.Shares)
	b := budget.New(budget.Config{Registry: c, Pools: c.world, Instance: "test", Saved: &saved, Save: d.save})
	ctx, stop := context.WithCancel(d.t.Context())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	return &process{b, func() {
		stop()
		running.Wait()
		c.change(func() { c.shares = map[string]int{} })
	}}
}
