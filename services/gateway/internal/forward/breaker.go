package forward

import (
	"sync"
	"sync/atomic"
	"time"
)

// openFor is how long an upstream that fails is left alone before one call may try it, and how long that call has before
// another may.
const openFor = 2 * time.Second

// breaker keeps calls from an upstream that is down. It opens after some failures in a row; then one call in each openFor
// goes through as a trial, and the first answer, to whichever call, closes it. A call whose end tells nothing of the
// upstream changes nothing: a trial that its caller gives up, or a stream that stays silent, holds up the next for openFor
// and no longer. That is why it is our own: breakers that count calls in and out wait for a silent stream as long as it
// lasts.
//
// While all is well, it costs a call two loads.
type breaker struct {
	threshold int32
	now       func() time.Time
	failures  atomic.Int32

	mu    sync.Mutex
	until time.Time // when the next trial may go, while it is open
}

func newBreaker(threshold int, now func() time.Time) *breaker {
	return &breaker{threshold: int32(min(threshold, mostBreaker)), now: now}
}

// allow tells whether a call may go, and if not, when to ask again. Exactly the one that is let through an open breaker
// is its trial.
func (b *breaker) allow() (time.Duration, bool) {
	if !b.open() {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if wait := b.until.Sub(now); wait > 0 {
		return wait, false
	}
	b.until = now.Add(openFor)
	return 0, true
}

// open tells whether calls are kept away.
func (b *breaker) open() bool { return b.failures.Load() >= b.threshold }

// answered notes that the upstream answered, whatever it said.
func (b *breaker) answered() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}

// failed notes that the upstream could not be reached.
func (b *breaker) failed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.failures.Load(); n < b.threshold {
		b.failures.Store(n + 1)
	}
	if b.open() {
		b.until = b.now().Add(openFor)
	}
}
