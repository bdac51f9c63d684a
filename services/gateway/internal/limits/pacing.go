package limits

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"
)

// pacing slows down whoever makes most of the calls while others wait for processors because of it. Nil slows nobody.
//
// Turns and places, which connections and calls in flight are shared by, are no help against a company whose many callers
// call again as soon as they have an answer: whatever few of its calls run at a time, it keeps all processors busy with
// them, and each step of another's single call waits for one. Only time without a call gives them back. So the calls of
// such a company begin at a rate, and those that come sooner wait for their turn, in order; no call is refused that would
// wait for less than longestPause.
//
// A company is slowed that makes more calls than all others together. One that is alone goes as fast as it can, and where
// many call much nobody is slowed: that is overload, and shedding's matter.
// The rate is found by additive increase and multiplicative decrease, as inFlight's number is: an interval in which one
// wait of ten was above paceTarget takes a tenth off, any other adds up to a fiftieth of the rate of all calls: less, the
// shorter ago the rate fell, so that it stays for long where there was just enough for all (as that of Ha, Rhee and Xu,
// "CUBIC: A New TCP-Friendly High-Speed TCP Variant", 2008). It never falls below leastPace for each processor, nor because
// of waits that the gateway is not the cause of.
type pacing struct {
	least float64 // calls a second that any company may make

	mu        sync.Mutex
	companies map[uuid.UUID]*pace
	delayed   uint64
	refused   uint64
}

// pace is that of one company.
type pace struct {
	calls int     // since the last tick
	last  float64 // calls a second in the interval before that
	rate  float64 // of calls a second, over the last second or so
	quiet int     // ticks since the last call
	// turns are what its calls wait for; nil while it is not slowed.
	turns *turns
	// fell is how many ticks ago its turns became fewer.
	fell int
	// eager is how many ticks ago a call had to wait.
	eager int
}

const (
	// paceTarget is what one wait of ten may be: some times what it is while there is a processor for all, and a tenth of
	// what it is when there is none.
	paceTarget = 250 * time.Microsecond
	// leastPace is how many calls a second any company may make, for each processor: where that is too much, something else
	// keeps the processors busy.
	leastPace = 250
	// leastBusy is which part of the processors the gateway has to use itself: when it is less, fewer calls are no help.
	leastBusy = 0.25
	// lately is for how many ticks after its last call a company still counts: who calls once a second is somebody to protect.
	lately = 5 * int(time.Second/interval)
	// smoothing is the weight of the last interval in a company's rate.
	smoothing = 0.3
	// longestPause is how long a call may wait for its turn.
	longestPause = time.Second
	// steepest is by which part of the rate of all calls a rate grows in an interval at most, and steepAfter how many
	// intervals after it fell that is.
	steepest   = 0.02
	steepAfter = 9 * int(time.Second/interval)
	// givenUp is after how many ticks without a call that waited a company is not slowed any more.
	givenUp = 2 * int(time.Second/interval)
)

func newPacing(on bool) *pacing {
	if !on {
		return nil
	}
	return &pacing{least: float64(leastPace * runtime.GOMAXPROCS(0)), companies: map[uuid.UUID]*pace{}}
}

// wait waits until a call of a company may begin. It returns the context's error when that ends first, and at once, with
// UNAVAILABLE `OVERLOADED`, when it would be too long.
func (p *pacing) wait(ctx context.Context, company uuid.UUID) error {
	if p == nil {
		return nil
	}
	t := p.arrive(company)
	if t == nil {
		return nil
	}
	select {
	case err := <-t.granted:
		return err
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		t.leave()
		return ctx.Err()
	}
}

// arrive counts a call and returns what it has to wait for; nil means nothing.
func (p *pacing) arrive(company uuid.UUID) *turn {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.companies[company]
	if c == nil {
		c = &pace{}
		p.companies[company] = c
	}
	c.calls++
	if c.turns == nil {
		return nil
	}
	t := c.turns.take()
	if t == nil {
		return nil
	}
	c.eager = 0
	p.refused += uint64(c.turns.shorten())
	if t.element != nil {
		p.delayed++ // It is not the one that was refused.
	}
	return t
}

// observe sets the rates by the load in the last interval.
func (p *pacing) observe(now load) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	total := 0.0
	for id, c := range p.companies {
		c.tick()
		if c.quiet > lately {
			delete(p.companies, id)
			continue
		}
		total += c.rate
	}
	late := now.tail > paceTarget && now.busy > leastBusy
	alone := len(p.companies) == 1
	for _, c := range p.companies {
		switch {
		case c.turns != nil && (alone || c.eager > givenUp):
			c.turns.end()
			c.turns = nil
		case late && !alone && c.rate > total/2:
			p.slow(c, max(p.least, decrease*c.now()))
			c.fell = 0
		case !late && c.turns != nil:
			p.slow(c, c.turns.rate+total*steepest*min(1, float64(c.fell)/float64(steepAfter)))
		}
	}
}

// slow lets the calls of a company begin at a rate.
func (p *pacing) slow(c *pace, perSecond float64) {
	if c.turns == nil {
		c.turns, c.eager = newTurns(&p.mu), 0
	}
	p.refused += uint64(c.turns.setRate(perSecond))
}

// tick takes in the last interval.
func (c *pace) tick() {
	c.quiet++
	if c.calls > 0 {
		c.quiet = 0
	}
	c.last = float64(c.calls) / interval.Seconds()
	c.rate += smoothing * (c.last - c.rate)
	c.calls = 0
	c.eager++
	c.fell++
}

// now is at which rate its calls begin.
func (c *pace) now() float64 {
	if c.turns == nil {
		return max(c.last, c.rate)
	}
	return min(c.rate, c.turns.rate)
}

// stats are how many companies are slowed now, and how many calls had to wait and were refused so far.
func (p *pacing) stats() (slowed int, delayed, refused uint64) {
	if p == nil {
		return 0, 0, 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.companies {
		if c.turns != nil {
			slowed++
		}
	}
	return slowed, p.delayed, p.refused
}
