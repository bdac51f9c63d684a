package limits

import (
	"math"
	"runtime"
	"runtime/metrics"
	"slices"
	"syscall"
	"time"
)

// schedulerLatencies is the Go runtime's histogram of how long goroutines that could run waited until they did.
const schedulerLatencies = "/sched/latencies:seconds"

// fewWaits are too few to tell anything by.
const fewWaits = 16

// load is what the processors were asked for in a while.
type load struct {
	// median and tail are how long what could run waited for a processor: half of it, and one of ten, at least so long. They
	// are 0 when there was little.
	median, tail time.Duration
	// busy is which part of the processors' time this process used.
	busy float64
}

// waits reads the load. It is for one goroutine.
type waits struct {
	sample []metrics.Sample
	before []uint64
	used   time.Duration
	at     time.Time
}

func newWaits() *waits {
	w := &waits{sample: []metrics.Sample{{Name: schedulerLatencies}}}
	w.read()
	return w
}

// read returns the load since it was read last.
func (w *waits) read() load {
	l := load{busy: w.busy()}
	metrics.Read(w.sample)
	if w.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return l // A runtime that does not tell.
	}
	h := w.sample[0].Value.Float64Histogram()
	l.median, l.tail = quantilesOf(h.Buckets, h.Counts, w.before)
	w.before = append(w.before[:0], h.Counts...)
	return l
}

func (w *waits) busy() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // It has no other error than that of a wrong argument.
	}
	used, at := time.Duration(u.Utime.Nano()+u.Stime.Nano()), time.Now()
	part := float64(used-w.used) / float64(at.Sub(w.at)) / float64(runtime.GOMAXPROCS(0))
	w.used, w.at = used, at
	return part
}

// quantilesOf are those of a histogram less what was counted before, as the lower bounds of their buckets.
func quantilesOf(bounds []float64, counts, before []uint64) (median, tail time.Duration) {
	since := slices.Clone(counts)
	total := uint64(0)
	for i := range since {
		if i < len(before) {
			since[i] -= before[i]
		}
		total += since[i]
	}
	if total < fewWaits {
		return 0, 0
	}
	quantile := func(tenths uint64) time.Duration {
		below := uint64(0)
		i := slices.IndexFunc(since, func(n uint64) bool { below += n; return 10*below > tenths*total })
		return time.Duration(math.Max(0, bounds[i]) * float64(time.Second))
	}
	return quantile(5), quantile(9)
}
