package limits

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
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
// wait of ten was above paceTarget takes a tenth off, any other adds a fiftieth of the rate of all calls. It never falls
// below leastPace for each processor, nor because of waits that the gateway is not the cause of.
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
	rate  float64 // of calls a second, over the last second or so
	quiet int     // ticks since the last call
	// limiter is what its calls wait for; nil while it is not slowed.
	limiter *rate.Limiter
	// eager is how many ticks ago a call had to wait.
	eager int
}

const (
	// paceTarget is what one wait of ten may be: some times what it is while there is a processor for all, and a tenth of
	// what it is when there is none.
	paceTarget = time.Millisecond
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
	// atOnce is the time whose calls may begin at once, since calls come in bunches and timers are not that fine.
	atOnce = 10 * time.Millisecond
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
	turn, pause := p.arrive(company, time.Now())
	switch {
	case pause == 0:
		return nil
	case pause > longestPause:
		turn.Cancel()
		p.count(&p.refused)
		return fault.New(codes.Unavailable, fault.Overloaded, "the company makes most of the calls here, and more of them wait than can begin soon; this one was not begun").
			RetryIn(pause/2 + rand.N(pause))
	}
	p.count(&p.delayed)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		turn.Cancel()
		return ctx.Err()
	}
}

// arrive counts a call and tells how long it has to wait; not at all where there is no turn.
func (p *pacing) arrive(company uuid.UUID, now time.Time) (turn *rate.Reservation, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.companies[company]
	if c == nil {
		c = &pace{}
		p.companies[company] = c
	}
	c.calls++
	if c.limiter == nil {
		return nil, 0
	}
	turn = c.limiter.ReserveN(now, 1)
	if pause = turn.DelayFrom(now); pause > 0 {
		c.eager = 0
	}
	return turn, pause
}

func (p *pacing) count(n *uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*n++
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
		case c.limiter != nil && (alone || c.eager > givenUp):
			c.limiter = nil
		case late && !alone && c.rate > total/2:
			c.slow(max(p.least, decrease*c.now()))
		case !late && c.limiter != nil:
			c.slow(float64(c.limiter.Limit()) + total/50)
		}
	}
}

// tick takes in the last interval.
func (c *pace) tick() {
	c.quiet++
	if c.calls > 0 {
		c.quiet = 0
	}
	c.rate += smoothing * (float64(c.calls)/interval.Seconds() - c.rate)
	c.calls = 0
	c.eager++
}

// now is at which rate its calls begin.
func (c *pace) now() float64 {
	if c.limiter == nil {
		return c.rate
	}
	return min(c.rate, float64(c.limiter.Limit()))
}

// slow lets its calls begin at a rate.
func (c *pace) slow(perSecond float64) {
	if c.limiter == nil {
		c.limiter, c.eager = rate.NewLimiter(rate.Limit(perSecond), 1), 0
	}
	c.limiter.SetLimit(rate.Limit(perSecond))
	c.limiter.SetBurst(max(1, int(perSecond*atOnce.Seconds())))
}

// stats are how many companies are slowed now, and how many calls had to wait and were refused so far.
func (p *pacing) stats() (slowed int, delayed, refused uint64) {
	if p == nil {
		return 0, 0, 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.companies {
		if c.limiter != nil {
			slowed++
		}
	}
	return slowed, p.delayed, p.refused
}
