package routes

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// HoldLimits bound the holding of calls.
type HoldLimits struct {
	// Time is how long a call is held at most; 15 seconds by default.
	Time time.Duration
	// PerCompany is how many calls of one company are held at a time; 1,000 by default.
	PerCompany int
	// Total is how many calls are held at a time; 10,000 by default.
	Total int
}

func (l HoldLimits) withDefaults() HoldLimits {
	if l.Time <= 0 {
		l.Time = 15 * time.Second
	}
	if l.PerCompany <= 0 {
		l.PerCompany = 1_000
	}
	if l.Total <= 0 {
		l.Total = 10_000
	}
	return l
}

// holds are the calls that wait for their company's route to change. A change wakes those that it decides about, and
// nobody else: the first in the order in which they came, and each then wakes the next.
type holds struct {
	limits HoldLimits
	count  atomic.Int64 // calls in queues; read without the lock by those who look whether there are any

	mu      sync.Mutex
	queues  map[uuid.UUID][]*heldCall
	longest time.Duration
	closed  bool
}

// heldCall is a call that waits.
type heldCall struct {
	company   uuid.UUID
	minSchema string
	since     time.Time

	turn chan struct{} // closed when it has to look at the route again
	next *heldCall     // whose turn is after its own
	left bool          // it gave up
}

// LimitHolds says how calls are held. Call it before there are any.
func (t *Table) LimitHolds(l HoldLimits) { t.holds.limits = l.withDefaults() }

// Held returns how many calls are held, and how long any was at most since the start.
func (t *Table) Held() (calls int, longest time.Duration) {
	h := &t.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	longest = h.longest
	for _, queue := range h.queues {
		longest = max(longest, time.Since(queue[0].since))
	}
	return int(h.count.Load()), longest
}

// hold waits until a company's route admits a call, or refuses it for good, or the call has waited for long enough. It
// keeps nothing meanwhile but its place in the queue.
func (t *Table) hold(ctx context.Context, company uuid.UUID, minSchema string) (*Route, error) {
	begun := time.Now()
	patience := time.NewTimer(t.holds.limits.Time)
	defer patience.Stop()
	for {
		c := &heldCall{company: company, minSchema: minSchema, since: begun, turn: make(chan struct{})}
		if r, err := t.enter(c); r != nil || err != nil {
			return r, err
		}
		select {
		case <-c.turn:
			t.holds.leave(c)
			continue
		case <-patience.C:
		case <-ctx.Done():
		}
		t.holds.leave(c)
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		r, ok := t.ByID(company)
		if !ok {
			return nil, unknown()
		}
		if _, refusal := r.admits(minSchema); refusal != nil {
			return nil, refusal
		}
		return r, nil
	}
}

// enter puts a call in its company's queue, unless the route decides about it by now.
func (t *Table) enter(c *heldCall) (*Route, error) {
	h := &t.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	// Counted before the route is read: who changes it either sees the call or is seen.
	all := h.count.Add(1)
	r, ok := t.ByID(c.company)
	var later bool
	var refusal *fault.Error
	queue := h.queues[c.company]
	if ok {
		later, refusal = r.admits(c.minSchema)
	} else {
		refusal = unknown()
	}
	switch {
	case !later || h.closed:
	case len(queue) >= h.limits.PerCompany || all > int64(h.limits.Total):
		refusal = fault.New(codes.ResourceExhausted, fault.TooManyHeld, "%d calls are held already, %d of them this company's", all-1, len(queue)).RetryIn(arrival)
	default:
		h.queues[c.company] = append(queue, c)
		return nil, nil
	}
	h.count.Add(-1)
	if refusal != nil {
		return nil, refusal
	}
	return r, nil
}

// leave takes a call out that was woken or waits no more, and has the next look.
func (h *holds) leave(c *heldCall) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.longest = max(h.longest, time.Since(c.since))
	c.left = true
	if queue := h.queues[c.company]; slices.Contains(queue, c) {
		h.count.Add(-1)
		h.keep(c.company, slices.DeleteFunc(queue, func(other *heldCall) bool { return other == c }))
		return
	}
	select {
	case <-c.turn:
		c.next.wake()
	default: // It is skipped when its turn comes.
	}
}

// wake has a call look, or the first behind it that has not given up.
func (c *heldCall) wake() {
	for ; c != nil; c = c.next {
		if !c.left {
			close(c.turn)
			return
		}
	}
}

// keep makes calls a company's queue.
func (h *holds) keep(company uuid.UUID, queue []*heldCall) {
	if len(queue) == 0 {
		delete(h.queues, company)
		return
	}
	h.queues[company] = queue
}

// changed wakes the calls that a company's new route decides about; nil is none any more.
func (h *holds) changed(company uuid.UUID, now *Route) {
	if h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look(company, func(minSchema string) bool {
		if now == nil {
			return true
		}
		later, _ := now.admits(minSchema)
		return !later
	})
}

// look takes calls out of a company's queue and wakes them.
func (h *holds) look(company uuid.UUID, decided func(minSchema string) bool) {
	var stay []*heldCall
	var first, last *heldCall
	for _, c := range h.queues[company] {
		switch {
		case !decided(c.minSchema):
			stay = append(stay, c)
			continue
		case first == nil:
			first = c
		default:
			last.next = c
		}
		last = c
		h.count.Add(-1)
	}
	h.keep(company, stay)
	first.wake()
}

// swapped is changed of every company.
func (t *Table) swapped() {
	h := &t.holds
	if h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for company := range h.queues {
		h.look(company, func(minSchema string) bool {
			now, ok := t.ByID(company)
			if !ok {
				return true
			}
			later, _ := now.admits(minSchema)
			return !later
		})
	}
}

// close ends all waiting: a gateway that stops hears of no change any more.
func (h *holds) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for company := range h.queues {
		h.look(company, func(string) bool { return true })
	}
}
