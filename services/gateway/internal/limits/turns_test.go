package limits

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// takes has calls come, whose turns it returns.
func takes(q *turns, calls int) (all []*turn) {
	for range calls {
		all = append(all, q.take())
	}
	return all
}

// begun is how many of some turns are there.
func begun(all []*turn) (n int) {
	for _, t := range all {
		n += len(t.granted)
	}
	return n
}

func TestWhatCouldNotBeginInItsTimeDoesNotAllBeginAtOnceAfterwards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		q := newTurns(&mu)
		mu.Lock()
		q.setRate(1000)
		require.Nil(t, q.take())
		all := takes(q, 100)
		mu.Unlock()
		time.Sleep(10500 * time.Microsecond)
		require.Equal(t, 10, begun(all))
		mu.Lock()
		q.at = q.at.Add(-time.Second) // As if nothing had run here for that long.
		mu.Unlock()
		q.next()
		require.Equal(t, 12, begun(all))
		time.Sleep(10500 * time.Microsecond)
		require.Equal(t, 22, begun(all))
		mu.Lock()
		q.end()
		mu.Unlock()
		require.Equal(t, 100, begun(all), "nobody waits for what has ended")
	})
}

func TestThoseWhoCameLastAreRefusedWhenALowerRateWouldLetThemWaitForTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		q := newTurns(&mu)
		mu.Lock()
		require.Zero(t, q.setRate(100))
		all := takes(q, 80)
		require.Nil(t, all[0])
		require.Equal(t, 79-50, q.setRate(50))
		mu.Unlock()
		require.Error(t, <-all[79].granted)
		time.Sleep(longestPause)
		require.NoError(t, <-all[50].granted)
	})
}
