package allocate_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantry/tenantry/services/registry/internal/allocate"
)

// gateway is a copy as it is, beside what is known of it.
type gateway struct {
	// known is what the allocator's keeper has.
	known allocate.Copy
	// share is what it keeps to, open what it has, demand what it wants, and warm what it will want soon.
	share, open, demand, warm int
	// dead ones say nothing and open nothing.
	dead bool
}

// cluster is gateways that share a budget.
type cluster struct {
	budget   int
	gateways []*gateway
}

func (c *cluster) copies() []allocate.Copy {
	var out []allocate.Copy
	for _, g := range c.gateways {
		out = append(out, g.known)
	}
	return out
}

// beat is a heartbeat of one of them, whose answer may be lost.
func (c *cluster) beat(i int, lost bool) {
	g := c.gateways[i]
	g.known = g.known.Heard(allocate.Report{Share: g.share, Open: g.open, Demand: g.demand, Warm: g.warm}, time.Second)
	share := allocate.Share(c.budget, c.copies(), i)
	g.known = g.known.Told(share)
	if !lost {
		g.share = share
	}
}

// all is what they have open.
func (c *cluster) all() int {
	n := 0
	for _, g := range c.gateways {
		n += g.open
	}
	return n
}

// settle lets all that live beat, and open and close what they may, until nothing moves any more.
func (c *cluster) settle(t interface {
	Fatalf(format string, args ...any)
}) {
	for range 100 {
		before := c.shares()
		for i, g := range c.gateways {
			if !g.dead {
				g.open = min(g.open, g.share)
				c.beat(i, false)
			}
		}
		if slices.Equal(before, c.shares()) {
			return
		}
	}
	t.Fatalf("the shares never settle: %v", c.shares())
}

func (c *cluster) shares() []int {
	var out []int
	for _, g := range c.gateways {
		out = append(out, g.share)
	}
	return out
}

func TestWhateverIsSaidOrLostWhatMayBeOpenIsWithinTheBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := &cluster{budget: rapid.IntRange(0, 40).Draw(t, "budget")}
		// with calls f with one of them, if there is any.
		with := func(f func(t *rapid.T, g *gateway)) func(*rapid.T) {
			return func(t *rapid.T) {
				if len(c.gateways) > 0 {
					f(t, rapid.SampledFrom(c.gateways).Draw(t, "copy"))
				}
			}
		}
		bound := c.budget // What a lowered budget has no place for may be open until it was closed.
		t.Repeat(map[string]func(*rapid.T){
			"start": func(*rapid.T) {
				if len(c.gateways) < 8 {
					c.gateways = append(c.gateways, &gateway{})
				}
			},
			"beat": with(func(t *rapid.T, g *gateway) {
				if !g.dead {
					c.beat(slices.Index(c.gateways, g), rapid.IntRange(0, 3).Draw(t, "lost") == 0)
				}
			}),
			"call": with(func(t *rapid.T, g *gateway) {
				g.demand = rapid.IntRange(0, 60).Draw(t, "demand")
				if !g.dead && g.open < g.share {
					g.open = rapid.IntRange(g.open, g.share).Draw(t, "open")
				}
			}),
			"warm":     with(func(t *rapid.T, g *gateway) { g.warm = rapid.IntRange(0, 60).Draw(t, "warm") }),
			"close":    with(func(t *rapid.T, g *gateway) { g.open = rapid.IntRange(0, g.open).Draw(t, "open") }),
			"silence":  with(func(_ *rapid.T, g *gateway) { g.known.Present = false }),
			"die":      with(func(_ *rapid.T, g *gateway) { g.dead = true }),
			"rebudget": func(t *rapid.T) { c.budget = rapid.IntRange(0, 40).Draw(t, "budget") },
			"": func(t *rapid.T) {
				bound = max(c.budget, min(bound, heldBy(c)))
				if c.all() > bound {
					t.Fatalf("%d open, want at most %d: %v", c.all(), bound, c.copies())
				}
				for _, g := range c.gateways {
					if g.share > g.known.Held || g.open > g.known.Held {
						t.Fatalf("a copy keeps to %d and has %d open, and %d are counted", g.share, g.open, g.known.Held)
					}
				}
				if held := heldBy(c); held > bound {
					t.Fatalf("%d may be open, want at most %d: %v", held, bound, c.copies())
				}
			},
		})
	})
}

func heldBy(c *cluster) int {
	n := 0
	for _, g := range c.gateways {
		n += g.known.Held
	}
	return n
}

// clusters are some whose gateways all live and want something.
func clusters(t *rapid.T) *cluster {
	c := &cluster{budget: rapid.IntRange(1, 200).Draw(t, "budget")}
	for range rapid.IntRange(1, 12).Draw(t, "copies") {
		c.gateways = append(c.gateways, &gateway{demand: rapid.IntRange(0, 100).Draw(t, "demand"), warm: rapid.IntRange(0, 100).Draw(t, "warm")})
	}
	return c
}

// need is what a copy needs besides the first connection, which all have, and soon what it will.
func (g *gateway) need() int { return max(0, g.demand-1) }
func (g *gateway) soon() int { return max(0, g.demand+g.warm-1) - g.need() }

func TestEachHasOneAndWhatItNeedsAndNothingIsLeftButTheReserve(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := clusters(t)
		c.settle(t)
		// Another set of demands on top of what the first left.
		for _, g := range c.gateways {
			g.demand, g.warm = rapid.IntRange(0, 100).Draw(t, "demand"), rapid.IntRange(0, 100).Draw(t, "warm")
		}
		for range 60 {
			c.settle(t)
		}
		n, total, needed, soon := len(c.gateways), 0, 0, 0
		for _, g := range c.gateways {
			total += g.share
			needed += g.need()
			soon += g.soon()
		}
		spare := c.budget - total
		if limit := min(2, c.budget/8); spare < 0 || spare > limit || c.budget <= n && spare != 0 {
			t.Fatalf("%d of %d are nobody's: %v", spare, c.budget, c.shares())
		}
		if c.budget < n {
			return
		}
		for i, g := range c.gateways {
			if g.share < 1 {
				t.Fatalf("copy %d has nothing of %d: %v", i, c.budget, c.shares())
			}
			// What it should have: a part by what it needs, or all that it needs and a part by what it will, or all of that
			// and an even part of the rest.
			rest := c.budget - min(2, c.budget/8, c.budget-n) - n
			want := 1.0
			switch {
			case needed > rest:
				want += float64(g.need()*rest) / float64(needed)
			case needed+soon > rest:
				want += float64(g.need()) + float64(g.soon()*(rest-needed))/float64(soon)
			default:
				want += float64(g.need()+g.soon()) + float64(rest-needed-soon)/float64(n)
			}
			// The slack of a share, and one where it does not come out even.
			if want-float64(g.share) > max(1, want/8)+1 {
				t.Fatalf("copy %d has %d of %d, want about %.1f: %v", i, g.share, c.budget, want, c.shares())
			}
		}
	})
}

func TestSharesDoNotMoveWhileDemandIsAboutTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := clusters(t)
		for range 60 {
			c.settle(t)
		}
		wobbles := c.gateways[rapid.IntRange(0, len(c.gateways)-1).Draw(t, "copy")]
		var seen []string
		// For a second or for minutes.
		lasts := rapid.SampledFrom([]int{1, 60}).Draw(t, "lasts")
		wobble := func() {
			for _, by := range []struct {
				of *int
				n  int
			}{{&wobbles.demand, 1}, {&wobbles.demand, -1}, {&wobbles.warm, 1}, {&wobbles.warm, -1}} {
				*by.of += by.n
				for range lasts {
					for i := range c.gateways {
						c.beat(i, false)
					}
				}
				if now := fmt.Sprint(c.shares()); !slices.Contains(seen, now) {
					seen = append(seen, now)
				}
			}
		}
		for range 10 {
			wobble() // The first may be one too much.
		}
		seen = nil
		for range 5 {
			wobble()
		}
		if len(seen) > 1 {
			t.Fatalf("the shares of %d move: %v", c.budget, seen)
		}
	})
}

func TestAShareThatShrankIsFreeOnlyOnceItsCopySaysSo(t *testing.T) {
	t.Parallel()
	c := &cluster{budget: 12, gateways: []*gateway{{}}}
	c.settle(t)
	require.Equal(t, []int{11}, c.shares(), "one is kept for who comes")
	c.gateways[0].open = 11
	c.gateways = append(c.gateways, &gateway{demand: 4})
	c.beat(1, false)
	require.Equal(t, []int{11, 1}, c.shares(), "the reserve")

	c.beat(0, true)
	c.beat(1, false)
	require.Equal(t, []int{11, 1}, c.shares(), "an answer that was lost shrank nothing")
	c.beat(0, false)
	c.beat(1, false)
	shrunk := c.gateways[0].share
	require.Less(t, shrunk, 8)
	require.Equal(t, 1, c.gateways[1].share, "the other has 11 open")
	c.gateways[0].open = 9
	c.beat(0, false)
	c.beat(1, false)
	require.Equal(t, 2, c.gateways[1].share, "what was closed, and the reserve is there again")
}

func TestThoseWhoAreThereShareWhatADeadOneDoesNotHold(t *testing.T) {
	t.Parallel()
	dead := &gateway{dead: true, known: allocate.Copy{Share: 20, Held: 20}}
	c := &cluster{budget: 40, gateways: []*gateway{dead, {demand: 30}, {demand: 30}}}
	c.settle(t)
	require.Equal(t, []int{0, 9, 9}, c.shares())
	dead.known.Held = 0
	c.settle(t)
	require.Equal(t, []int{0, 19, 19}, c.shares())
}

func TestABudgetThatIsLoweredHoldsForWhoIsAlone(t *testing.T) {
	t.Parallel()
	c := &cluster{budget: 40, gateways: []*gateway{{}}}
	c.settle(t)
	require.Equal(t, []int{38}, c.shares())
	c.budget = 6
	c.settle(t)
	require.Equal(t, []int{6}, c.shares())
}
