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
	w.median()
	return w
}

// median is that of the waits since it was read last: half of them were at least so long. It is 0 when there were few.
func (w *waits) median() time.Duration {
	metrics.Read(w.sample)
	if w.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // A runtime that does not tell.
	}
	h := w.sample[0].Value.Float64Histogram()
	wait := medianOf(h.Buckets, h.Counts, w.before)
	w.before = append(w.before[:0], h.Counts...)
	return wait
}

// medianOf is the median of a histogram less what was counted before, as the lower bound of its bucket.
func medianOf(bounds []float64, counts, before []uint64) time.Duration {
	since := slices.Clone(counts)
	total := uint64(0)
	for i := range since {
		if i < len(before) {
			since[i] -= before[i]
		}
		total += since[i]
	}
	if total < fewWaits {
		return 0
	}
	below := uint64(0)
	for i, n := range since {
		if below += n; 2*below > total {
			return time.Duration(math.Max(0, bounds[i]) * float64(time.Second))
		}
	}
	return 0
}
