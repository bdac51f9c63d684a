package limits

import (
	"container/list"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// turns let calls begin at a rate, in the order in which they came.
//
// They are no reservations of times to come, as golang.org/x/time/rate makes them: what could not begin in its time, as
// nothing here ran then, would all begin at once afterwards, and keep the processors from everybody else for as long again.
type turns struct {
	mu      *sync.Mutex // held by whoever calls any method
	rate    float64     // calls a second
	ready   float64     // calls that may begin at once
	at      time.Time   // when ready was counted
	waiting list.List   // of *turn
	timer   *time.Timer // goes off when the first of waiting may begin
}

// turn is a call's place.
type turn struct {
	in      *turns
	element *list.Element
	// granted gets nil when the call may begin, and an error when it may not.
	granted chan error
}

const (
	// atOnce is the time whose calls may begin at once, since timers are not finer than that.
	atOnce = 2 * time.Millisecond
	// whole is one call, less what its parts may miss by rounding.
	whole = 1 - 1e-9
)

func newTurns(mu *sync.Mutex) *turns { return &turns{mu: mu, ready: 1, at: time.Now()} }

// take returns a place for a call, or nil when it may begin.
func (q *turns) take() *turn {
	q.count()
	if q.waiting.Len() == 0 && q.ready >= whole {
		q.ready--
		return nil
	}
	t := &turn{in: q, granted: make(chan error, 1)}
	t.element = q.waiting.PushBack(t)
	if q.waiting.Len() == 1 {
		q.await()
	}
	return t
}

// leave gives the place up, if it is not too late for another to have it.
func (t *turn) leave() {
	if t.element != nil {
		t.in.waiting.Remove(t.element)
		t.element = nil
	}
}

// setRate sets the calls a second, and returns how many wait no more, as they would for too long.
func (q *turns) setRate(perSecond float64) (refused int) {
	q.count()
	q.rate = perSecond
	if q.waiting.Len() > 0 {
		q.await()
	}
	return q.shorten()
}

// shorten refuses those who came last when they would wait for longer than longestPause, and returns how many.
func (q *turns) shorten() (refused int) {
	for ; float64(q.waiting.Len()) > q.ready+q.rate*longestPause.Seconds(); refused++ {
		q.grant(q.waiting.Back(), fault.New(codes.Unavailable, fault.Overloaded,
			"the company makes most of the calls here, and more of them wait than can begin soon; this one was not begun").
			RetryIn(longestPause/2+rand.N(longestPause)))
	}
	return refused
}

// end lets all begin.
func (q *turns) end() {
	for q.waiting.Len() > 0 {
		q.grant(q.waiting.Front(), nil)
	}
	if q.timer != nil {
		q.timer.Stop()
	}
}

// count adds what may begin by now.
func (q *turns) count() {
	now := time.Now()
	q.ready = min(q.ready+q.rate*now.Sub(q.at).Seconds(), max(1, q.rate*atOnce.Seconds()))
	q.at = now
}

// await sets the timer for the first.
func (q *turns) await() {
	pause := time.Duration(math.Ceil(max(0, 1-q.ready) / q.rate * float64(time.Second)))
	if q.timer == nil {
		q.timer = time.AfterFunc(pause, q.next)
		return
	}
	q.timer.Reset(pause)
}

// next lets those begin whose turn it is. It is the timer's, and takes the lock itself.
func (q *turns) next() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count()
	for ; q.waiting.Len() > 0 && q.ready >= whole; q.ready-- {
		q.grant(q.waiting.Front(), nil)
	}
	if q.waiting.Len() > 0 {
		q.await()
	}
}

func (q *turns) grant(e *list.Element, err error) {
	t := q.waiting.Remove(e).(*turn)
	t.element = nil
	t.granted <- err
}
