package budget_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/budget"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
)

const (
	lease  = 90 * time.Second
	forget = time.Hour
)

var errAway = errors.New("the registry is away")

// world is a registry that answers as it is told, and pools that keep nothing but numbers.
type world struct {
	mu     sync.Mutex
	grants map[string]int32 // shares that it answers with
	away   bool
	slow   time.Duration
	beats  []beat

	shares map[string]int
	stats  map[string]conns.Stats
}

type beat struct {
	at      time.Time
	request *registryv1.HeartbeatRequest
}

func (w *world) Heartbeat(ctx context.Context, r *registryv1.HeartbeatRequest, _ ...grpc.CallOption) (*registryv1.HeartbeatResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beats = append(w.beats, beat{time.Now(), r})
	if w.slow > 0 {
		w.mu.Unlock()
		select {
		case <-time.After(w.slow):
		case <-ctx.Done():
		}
		w.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if w.away {
		return nil, errAway
	}
	out := &registryv1.HeartbeatResponse{LeaseDuration: durationpb.New(lease), ForgetDuration: durationpb.New(forget), AloneShare: 2}
	for name, share := range w.grants {
		out.Clusters = append(out.Clusters, &registryv1.ClusterShare{Cluster: name, Share: share, Budget: 12})
	}
	return out, nil
}

func (w *world) SetShare(cluster string, share int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shares[cluster] = share
}

func (w *world) Stats() map[string]conns.Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]conns.Stats{}
	for name, s := range w.stats {
		out[name] = s
	}
	return out
}

// change changes what is there, while nobody looks.
func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// share is what the pools keep to; -1 where they were told nothing.
func (w *world) share(cluster string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.shares[cluster]; ok {
		return s
	}
	return -1
}

// sent are the heartbeats since the last call.
func (w *world) sent() []beat {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.beats
	w.beats = nil
	return out
}

// run runs a budget in a bubble, where time passes when all wait.
func run(t *testing.T, f func(w *world, b *budget.Budget)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{grants: map[string]int32{"a": 6}, shares: map[string]int{}, stats: map[string]conns.Stats{}}
		b := budget.New(budget.Config{Registry: w, Pools: w, Instance: "test", LongestCall: 35 * time.Second})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		synctest.Wait()
		f(w, b)
		stop()
		running.Wait()
	})
}

// pass lets some time pass, and all that is due in it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestSharesAreThereAtOnceAndAskedForEachSecond(t *testing.T) {
	run(t, func(w *world, b *budget.Budget) {
		require.Equal(t, 6, w.share("a"))
		require.Equal(t, map[string]budget.Share{"a": {Share: 6, Budget: 12}}, b.Shares())
		first := w.sent()
		require.Len(t, first, 1)
		require.Equal(t, "test", first[0].request.GetInstance())
		require.Equal(t, 35*time.Second, first[0].request.GetLongestCall().AsDuration())
		require.Empty(t, first[0].request.GetClusters())

		w.change(func() { w.stats["a"] = conns.Stats{Open: 5, Used: 3, Waiting: 0, Warm: 2} })
		pass(10 * time.Second)
		more := w.sent()
		require.Len(t, more, 10)
		for i, m := range more {
			require.EqualValues(t, i+2, m.request.GetBeat())
			require.Equal(t, first[0].request.GetLeaseId(), m.request.GetLeaseId())
			u := m.request.GetClusters()[0]
			require.Equal(t, []int32{6, 5, 3, 0, 2}, []int32{u.GetShare(), u.GetOpen(), u.GetUsed(), u.GetWaiting(), u.GetWarm()})
		}
		w.change(func() { w.grants = map[string]int32{"a": 4, "b": 9} })
		pass(time.Second)
		require.Equal(t, []int{4, 9}, []int{w.share("a"), w.share("b")})
		w.change(func() { w.grants = map[string]int32{"b": 9} })
		pass(time.Second)
		require.Equal(t, 0, w.share("a"), "the registry knows no such cluster any more")
	})
}

func TestCallsThatWaitAreToldOfAtOnceButNotAllTheTime(t *testing.T) {
	run(t, func(w *world, _ *budget.Budget) {
		w.sent()
		pass(300 * time.Millisecond)
		require.Empty(t, w.sent())
		w.change(func() { w.stats["a"] = conns.Stats{Open: 6, Used: 6, Waiting: 9} })
		pass(100 * time.Millisecond)
		got := w.sent()
		require.Len(t, got, 1)
		require.EqualValues(t, 9, got[0].request.GetClusters()[0].GetWaiting())
		w.change(func() { w.stats["a"] = conns.Stats{Open: 6, Used: 6, Waiting: 10} })
		pass(900 * time.Millisecond)
		require.Empty(t, w.sent(), "that is nothing new")
		// Who has nothing at all asks again and again, but not without a pause.
		w.change(func() { w.stats["new"] = conns.Stats{Waiting: 1} })
		pass(2 * time.Second)
		got = w.sent()
		require.GreaterOrEqual(t, len(got), 8)
		require.LessOrEqual(t, len(got), 11)
	})
}

func TestWhatWasClosedForASmallerShareIsToldOfAtOnce(t *testing.T) {
	run(t, func(w *world, _ *budget.Budget) {
		w.change(func() { w.stats["a"] = conns.Stats{Open: 6, Used: 6}; w.grants["a"] = 2 })
		pass(time.Second)
		require.Equal(t, 2, w.share("a"))
		w.sent()
		pass(500 * time.Millisecond)
		require.Empty(t, w.sent(), "all are in use")
		w.change(func() { w.stats["a"] = conns.Stats{Open: 4, Used: 4} })
		pass(100 * time.Millisecond)
		got := w.sent()
		require.Len(t, got, 1)
		require.Equal(t, []int32{2, 4}, []int32{got[0].request.GetClusters()[0].GetShare(), got[0].request.GetClusters()[0].GetOpen()})
	})
}

func TestSharesOutlastTheRegistryForAsLongAsTheyAreLeased(t *testing.T) {
	run(t, func(w *world, b *budget.Budget) {
		w.change(func() { w.grants["small"] = 1 })
		pass(10 * time.Second)
		beats := w.sent()
		last := beats[len(beats)-1].at
		w.change(func() { w.away = true })
		pass(time.Until(last.Add(lease)) - look)
		require.Equal(t, 6, w.share("a"))
		require.Greater(t, b.Age(), lease-2*look)
		pass(look)
		require.Equal(t, []int{2, 1}, []int{w.share("a"), w.share("small")}, "a little is left")
		pass(time.Until(last.Add(forget)) - look)
		require.Equal(t, []int{2, 1}, []int{w.share("a"), w.share("small")})
		pass(look)
		require.Equal(t, []int{0, 0}, []int{w.share("a"), w.share("small")})
		w.sent()
		w.change(func() { w.away = false })
		pass(time.Second)
		require.Equal(t, []int{6, 1}, []int{w.share("a"), w.share("small")})
		require.Zero(t, w.sent()[0].request.GetClusters(), "it says what it keeps to, not what it had")
	})
}

// look is how often the budget looks around.
const look = 50 * time.Millisecond

func TestALeaseIsCountedFromWhenItWasAskedForAndNotFromTheAnswer(t *testing.T) {
	run(t, func(w *world, _ *budget.Budget) {
		const takes = 1500 * time.Millisecond
		w.change(func() { w.slow = takes })
		pass(10 * time.Second)
		w.sent()
		// Until just after the next answer came.
		beats := w.sent()
		for len(beats) == 0 {
			pass(look)
			beats = w.sent()
		}
		last := beats[0].at
		pass(time.Until(last.Add(takes)))
		w.change(func() { w.slow, w.away = 0, true })
		pass(time.Until(last.Add(lease)) - look)
		require.Equal(t, 6, w.share("a"))
		pass(2 * look)
		require.Equal(t, 2, w.share("a"))
	})
}

func TestARegistryThatHangsDoesNotHoldTheEndOfALeaseUp(t *testing.T) {
	run(t, func(w *world, _ *budget.Budget) {
		pass(10 * time.Second)
		beats := w.sent()
		last := beats[len(beats)-1].at
		w.change(func() { w.slow = forget })
		pass(time.Until(last.Add(lease)) + time.Millisecond)
		require.Equal(t, 2, w.share("a"))
	})
}

func TestTheLastHeartbeatSaysThatTheGatewayLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{grants: map[string]int32{"a": 6}, shares: map[string]int{}, stats: map[string]conns.Stats{}}
		b := budget.New(budget.Config{Registry: w, Pools: w, Instance: "test"})
		require.Negative(t, b.Age())
		b.Leave(t.Context())
		require.Empty(t, w.sent(), "it never came")
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		pass(time.Second)
		stop()
		running.Wait()
		w.sent()
		b.Leave(t.Context())
		got := w.sent()
		require.Len(t, got, 1)
		require.True(t, got[0].request.GetLeaving())
		require.Empty(t, got[0].request.GetClusters())
		require.EqualValues(t, 3, got[0].request.GetBeat())
	})
}
