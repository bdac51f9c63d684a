package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tenantry/tenantry/bench/harness"
)

// outcome is what some callers got in a while.
type outcome struct {
	// millis are the times of calls that were answered.
	millis []float64
	// failed are those that were not, and why one of them.
	failed int
	err    error
	took   time.Duration
}

func (o outcome) perSecond() float64         { return float64(len(o.millis)) / o.took.Seconds() }
func (o outcome) quantile(q float64) float64 { return harness.Quantile(o.millis, q) }

func (o *outcome) add(other outcome) {
	o.millis = append(o.millis, other.millis...)
	o.failed += other.failed
	o.took += other.took
	if o.err == nil {
		o.err = other.err
	}
}

// callWithin is how long any call may take.
const callWithin = 10 * time.Second

// load lets callers call, each again as soon as it has an answer, for a while.
func load(ctx context.Context, callers int, lasts time.Duration, call func(ctx context.Context, caller int) error) outcome {
	each := make([]outcome, callers)
	var group sync.WaitGroup
	begun := time.Now()
	for i := range callers {
		group.Go(func() {
			for time.Since(begun) < lasts && ctx.Err() == nil {
				each[i].time(ctx, func(ctx context.Context) error { return call(ctx, i) })
			}
		})
	}
	group.Wait()
	return sum(each, time.Since(begun))
}

// pace lets callers call once an interval each, evenly spread over it, for a while: a late answer makes no call later
// that another caller makes.
func pace(ctx context.Context, callers int, every, lasts time.Duration, call func(ctx context.Context, caller int) error) outcome {
	each := make([]outcome, callers)
	var group sync.WaitGroup
	begun := time.Now()
	for i := range callers {
		group.Go(func() {
			for at := begun.Add(every * time.Duration(i) / time.Duration(callers)); at.Sub(begun) < lasts && ctx.Err() == nil; at = at.Add(every) {
				select {
				case <-ctx.Done():
				case <-time.After(time.Until(at)):
					each[i].time(ctx, func(ctx context.Context) error { return call(ctx, i) })
				}
			}
		})
	}
	group.Wait()
	return sum(each, time.Since(begun))
}

func (o *outcome) time(ctx context.Context, call func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	begun := time.Now()
	if err := call(ctx); err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return // It was told to stop; nobody failed.
		}
		o.failed++
		o.err = err
		return
	}
	o.millis = append(o.millis, float64(time.Since(begun))/float64(time.Millisecond))
}

func sum(each []outcome, took time.Duration) outcome {
	var all outcome
	for _, o := range each {
		all.add(o)
	}
	all.took = took
	return all
}

// compared makes a comparison of figures that were taken in alternating rounds.
func compared(name, unit string, goal float64, less bool, here, peer []float64) harness.Comparison {
	c := harness.Comparison{Name: name, Unit: unit, Goal: goal, Less: less, Here: harness.Median(here), Peer: harness.Median(peer), Rounds: [2][]float64{here, peer}}
	c.Ratio = c.Here / c.Peer
	c.Met = c.Ratio >= goal
	if less {
		c.Met = c.Ratio <= goal
	}
	return c
}

// limited makes a comparison with a limit in the peer's place.
func limited(name, unit string, limit float64, here ...float64) harness.Comparison {
	return compared(name, unit, 1, true, here, []float64{limit})
}
