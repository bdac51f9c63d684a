package limits

import (
	"math"
	"runtime/metrics"
	"slices"
	"time"
)

// schedulerLatencies is the Go runtime's histogram of how long goroutines that could run waited until they did.
const schedulerLatencies = "/sched/latencies:seconds"

// fewWaits are too few to tell anything by.
const fewWaits = 16

// waits reads how long goroutines wait for a processor. It is for one goroutine.
type waits struct {
	sample []metrics.Sample
	before []uint64
}

func newWaits() *waits {
	w := &waits{sample: []metrics.Sample{{Name: schedulerLatencies}}}
	w.read()
	return w
}

// read returns the median of the waits since they were read last, and the tail: what one of ten was at least. Both are 0
// when there were few.
func (w *waits) read() (median, tail time.Duration) {
	metrics.Read(w.sample)
	if w.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0, 0 // A runtime that does not tell.
	}
	h := w.sample[0].Value.Float64Histogram()
	median, tail = quantilesOf(h.Buckets, h.Counts, w.before)
	w.before = append(w.before[:0], h.Counts...)
	return median, tail
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
