package limits

import (
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"
)

// inFlight counts the calls that run, by company, and says which are shed. Nil sheds none.
//
// Calls are shed from a number on that follows the load. The sign of overload is how long what could run waits for a
// processor, and not how long calls take, which is up to the tenants' SQL and to upstreams: so does DAGOR ("Overload
// Control for Scaling WeChat Microservices", SoCC 2018, arXiv:1806.04075, section 4.1), and its 20 ms are the target here.
// The number is found by additive increase and multiplicative decrease (Chiu and Jain, "Analysis of the Increase and
// Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989): an interval above the target takes a tenth
// off what runs, one at or below it adds the number's square root, up to the maximum.
//
// Whoever has most in flight is shed first: beyond the number a company's call is begun if the company has less than an
// equal part of it, so that those who hold more give way. All together never have more than twice the maximum.
type inFlight struct {
	least, most int

	mu    sync.Mutex
	limit int
	calls int
	peak  int // the most calls since the last tick
	held  map[uuid.UUID]int
	shed  uint64
}

const (
	interval = 100 * time.Millisecond
	target   = 20 * time.Millisecond
	decrease = 0.9
	// leastPerProcessor is how many calls a processor can always have: with fewer, what waits is not what the callers send.
	leastPerProcessor = 64
)

// newInFlight returns a count of which at most so many run; nil for 0.
func newInFlight(most int) *inFlight {
	if most == 0 {
		return nil
	}
	least := max(1, min(leastPerProcessor*runtime.GOMAXPROCS(0), most/4))
	return &inFlight{least: least, most: most, limit: most, held: map[uuid.UUID]int{}}
}

// begin counts a call of a company, uuid.Nil for callers who have none, unless it is shed.
func (f *inFlight) begin(company uuid.UUID) bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	mine, holders := f.held[company], len(f.held)
	if mine == 0 {
		holders++
	}
	if f.calls >= f.limit && (f.calls >= 2*f.most || (mine+1)*holders > f.limit) {
		f.shed++
		return false
	}
	f.held[company] = mine + 1
	f.calls++
	f.peak = max(f.peak, f.calls)
	return true
}

// end counts a call out that was begun.
func (f *inFlight) end(company uuid.UUID) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls--
	if mine := f.held[company] - 1; mine > 0 {
		f.held[company] = mine
	} else {
		delete(f.held, company)
	}
}

// observe sets the limit by how long what could run waited in the last interval.
func (f *inFlight) observe(waited time.Duration) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case waited <= target:
		f.limit = min(f.most, f.limit+int(math.Sqrt(float64(f.limit))))
	default:
		// What runs is too much, however much was allowed.
		f.limit = max(f.least, int(decrease*float64(min(f.limit, f.peak))))
	}
	f.peak = f.calls
}

func (f *inFlight) stats() (calls, limit int, shed uint64) {
	if f == nil {
		return 0, 0, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls, f.limit, f.shed
}
