package forward

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACallIsNotRefusedForOneThatWasRefused(t *testing.T) { // Not parallel: it keeps two processors from the others.
	u := &upstream{Upstream: Upstream{MaxConcurrent: 1}}
	enter := func() bool {
		busy, ok := u.enter()
		return ok && !busy
	}
	// Another comes over and over, and notes of each time whether it was let in.
	const kept = 1 << 12
	var letIn [kept]atomic.Bool
	var begun, ended atomic.Int64
	var stop atomic.Bool
	var other sync.WaitGroup
	other.Go(func() {
		for n := int64(1); !stop.Load(); n++ {
			begun.Store(n)
			in := enter()
			letIn[n%kept].Store(in)
			if in {
				u.leave()
			}
			ended.Store(n)
		}
	})
	refused := 0
	for range 60_000 {
		for !enter() {
			runtime.Gosched()
		}
		first := ended.Load()
		u.leave()
		if enter() {
			u.leave()
			continue
		}
		last := begun.Load()
		for ended.Load() < last {
			runtime.Gosched()
		}
		there := last-first >= kept // It cannot be told any more.
		for n := first; n <= last && !there; n++ {
			there = letIn[n%kept].Load()
		}
		if !there {
			refused++
		}
	}
	stop.Store(true)
	other.Wait()
	require.Zero(t, refused, "refused although nobody was there")
	require.Zero(t, u.calls.Load())
}
