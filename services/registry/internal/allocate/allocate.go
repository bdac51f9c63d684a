// Package allocate decides how many connections to a cluster each gateway copy may have, of a budget that all of them share.
// It computes and remembers nothing; who keeps the copies calls it for one of them at a time, when that one is heard of.
//
// What may be open never passes the budget (for longer than it takes to close what a lowered budget has no place for): a
// copy counts as having whatever it might have open, and another gets only what nobody might have. Within that, each copy
// that is there has one connection if there are as many, each has what its calls need if there is enough, else parts of it in
// proportion, then in the same way what they will likely need soon, and what nobody needs is spread evenly. Shares move only
// once somebody is short of more than a little.
package allocate

import (
	"math"
	"time"
)

const (
	// reserved is the part of a budget, one in so many, that is kept for copies that have nothing yet.
	reserved = 8
	// most is what of it is kept at most: enough to begin with until the others have shrunk.
	most = 2
	// slack is the part of a share, one in so many, by which it may miss what it should be; at least 1.
	slack = 8
	// fade is how long it takes until a demand that is no more counts no more, by and large.
	fade = 8 * time.Second
)

// Copy is one gateway copy's part in a cluster's budget.
type Copy struct {
	// Present says that it was heard of just now. What others may have open counts, and they want nothing.
	Present bool
	// Share is how many connections it was told that it may have.
	Share int
	// Held is how many it may have open, which is no less than Share: it has not closed yet what it has too many, or may not
	// have been told.
	Held int
	// Demand is how many connections it has in use or waits for, as it was lately.
	Demand float64
	// Warm is how many more its calls will likely want soon, as it was lately: without them its tenants' connections make
	// room for each other's all the time.
	Warm float64
}

// Report is what a copy says of itself.
type Report struct {
	// Share is what it keeps to.
	Share int
	// Open is how many connections it has.
	Open int
	// Demand is how many it uses and waits for.
	Demand int
	// Warm is how many more were used lately.
	Warm int
}

// Heard is the copy after a report that came some time after the one before: until it is told another share it cannot
// have more open than it has, or than its share.
func (c Copy) Heard(r Report, since time.Duration) Copy {
	c.Present = true
	c.Share, c.Held = r.Share, max(r.Share, r.Open)
	c.Demand = faded(c.Demand, float64(r.Demand), since)
	c.Warm = faded(c.Warm, float64(r.Warm), since)
	return c
}

// faded is what counts of a figure that is now another: more at once, less slowly.
func faded(before, now float64, since time.Duration) float64 {
	if before -= (before - now) * min(1, float64(since)/float64(fade)); before < now+0.5 {
		return now
	}
	return before
}

// Told is the copy after it was told, or may have been told, a share.
func (c Copy) Told(share int) Copy {
	c.Share, c.Held = share, max(c.Held, share)
	return c
}

// Share is the share that one of the copies, which is present, has from now on. The others keep theirs until they are
// heard of. Where there is less than one connection for each, the first have it: keep the order.
func Share(budget int, copies []Copy, of int) int {
	free, total, short := budget, 0, false
	for i, c := range copies {
		free -= c.Held
		if i == of {
			free += c.Held
		}
	}
	wanted, sum := targets(budget, copies)
	for i, c := range copies {
		if !c.Present {
			continue
		}
		total += c.Share
		if i != of && (c.Share == 0 && wanted[i] > 0 || wanted[i]-c.Share > max(1, wanted[i]/slack)) {
			short = true
		}
	}
	have, want := copies[of].Share, wanted[of]
	switch {
	case want > have:
		if have > 0 {
			free -= reserve(budget)
		}
		return max(have, min(want, free))
	case want < have && (short || total > sum):
		return want
	default:
		return have
	}
}

// targets is what each copy should have, and what that is in all.
func targets(budget int, copies []Copy) (wanted []int, sum int) {
	wanted = make([]int, len(copies))
	var present []int
	for i, c := range copies {
		if c.Present {
			present = append(present, i)
		} else {
			budget -= c.Held
		}
	}
	budget = max(0, budget)
	// One for each, then what is needed, what will be, and the rest. Where it does not come out even, the first have one more.
	for _, i := range present[:min(len(present), budget)] {
		wanted[i] = 1
	}
	rest := budget - len(present)
	if rest <= 0 {
		return wanted, min(len(present), budget)
	}
	rest -= min(rest, reserve(budget))
	sum = len(present) + rest
	for _, needs := range []func(Copy) int{Copy.need, Copy.soon, func(Copy) int { return budget }} {
		rest = spread(rest, copies, present, needs, wanted)
	}
	return wanted, sum
}

// spread adds to what each should have what it needs, if there is enough for all, else in proportion, and returns what is left.
func spread(rest int, copies []Copy, present []int, needs func(Copy) int, wanted []int) int {
	needed := 0
	for _, i := range present {
		needed += needs(copies[i])
	}
	if needed <= rest {
		for _, i := range present {
			wanted[i] += needs(copies[i])
		}
		return rest - needed
	}
	left := rest
	for _, i := range present {
		part := rest * needs(copies[i]) / needed
		wanted[i] += part
		left -= part
	}
	for _, i := range present {
		if left > 0 && needs(copies[i]) > 0 {
			wanted[i]++
			left--
		}
	}
	return 0
}

// need is what a copy needs besides the one connection that each has.
func (c Copy) need() int { return max(0, int(math.Ceil(c.Demand))-1) }

// soon is what it will need on top of that.
func (c Copy) soon() int { return max(0, int(math.Ceil(c.Demand+c.Warm))-1-c.need()) }

// reserve is what is kept for copies that have nothing yet.
func reserve(budget int) int { return min(most, budget/reserved) }
