package forward

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestABreakerIsWhatItsStatesSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		threshold := rapid.IntRange(1, 5).Draw(t, "threshold")
		b := newBreaker(threshold, func() time.Time { return now })
		// The model: failures since the last answer, and when the next trial may go.
		failures, next := 0, now
		t.Repeat(map[string]func(*rapid.T){
			"allow": func(t *rapid.T) {
				wait, ok := b.allow()
				switch {
				case failures < threshold:
					require.True(t, ok, "closed")
				case now.Before(next):
					require.False(t, ok, "open")
					require.Equal(t, next.Sub(now), wait)
				default:
					require.True(t, ok, "one trial")
					next = now.Add(openFor)
				}
			},
			"answered": func(*rapid.T) { b.answered(); failures = 0 },
			"failed": func(*rapid.T) {
				b.failed()
				if failures++; failures >= threshold {
					next = now.Add(openFor)
				}
			},
			"time": func(t *rapid.T) { now = now.Add(time.Duration(rapid.Int64Range(0, int64(openFor)).Draw(t, "passes"))) },
			"":     func(t *rapid.T) { require.Equal(t, failures >= threshold, b.open()) },
		})
	})
}
