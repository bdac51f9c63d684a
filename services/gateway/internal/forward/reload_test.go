package forward_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestUpstreamsAreReplacedUnderLoadWithoutAFailedCall(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	a, b := g.backend(), g.backend()
	g.use(nil, a)
	long := g.stream()
	l := g.load(6)
	for n := range 40 {
		limit := func(u *forward.Upstream) { u.MaxConcurrent, u.Connections = 1000+n, 1+n%3 }
		switch n % 4 {
		case 0:
			g.use(limit, b)
		case 1:
			g.use(limit, a, b)
		case 2:
			g.use(limit, b, a)
		default:
			g.use(limit, a)
		}
		l.goesOn(t, 10)
	}
	g.use(nil, b)
	l.goesOn(t, 20)
	require.Eventually(t, func() bool { return a.conns.Load() == 1 }, patience, time.Millisecond, "all others that were replaced are closed")
	for range 3 {
		require.NoError(t, exchange(long), "a call goes on where it began")
	}
	require.NoError(t, long.CloseSend())
	_, err := long.Recv()
	require.Equal(t, codes.DataLoss, status.Code(err))
	require.Eventually(t, func() bool { return a.conns.Load() == 0 }, patience, time.Millisecond, "it is closed after its last call")
	l.goesOn(t, 20)
	l.requireNone(t)
}

func TestAnUpstreamThatIsAsItWasKeepsItsConnections(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	a, b := g.backend(), g.backend()
	g.use(nil, a)
	g.calls(1)
	other := to(b)
	other.Name, other.Services = "upstream/other", []string{"other.v1.Service"}
	// Defaults are written out here, which changes nothing.
	mine := to(a)
	mine.Connections, mine.MaxConcurrent = forward.DefaultConnections, forward.DefaultConcurrent
	changes, err := g.forwarder.Use([]forward.Upstream{other, mine})
	require.NoError(t, err)
	require.Equal(t, forward.Changes{Added: []string{"upstream/other"}}, changes)
	g.calls(1)
	require.EqualValues(t, 1, a.conns.Load())
	mine.MaxConcurrent = 5
	changes, err = g.forwarder.Use([]forward.Upstream{mine})
	require.NoError(t, err)
	require.Equal(t, forward.Changes{Changed: []string{"upstream/tests"}, Removed: []string{"upstream/other"}}, changes)

	_, err = g.forwarder.Use([]forward.Upstream{mine, mine})
	require.ErrorContains(t, err, "two upstreams")
	g.calls(1)
}

// watched is a gate that keeps to a file.
type watched struct {
	*gate
	path  string
	asked chan os.Signal
}

func newWatched(t *testing.T, besides ...forward.Upstream) *watched {
	t.Helper()
	w := &watched{gate: newGate(t), path: filepath.Join(t.TempDir(), "upstreams.yaml"), asked: make(chan os.Signal)}
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { w.forwarder.Watch(ctx, w.path, besides, w.asked) })
	t.Cleanup(func() { stop(); group.Wait() })
	return w
}

// rename puts a file in the place of the one before.
func (w *watched) rename(text string) {
	w.t.Helper()
	require.NoError(w.t, os.WriteFile(w.path+".new", []byte(text), 0o600))
	require.NoError(w.t, os.Rename(w.path+".new", w.path))
}

// ask has the file read.
func (w *watched) ask() { w.asked <- syscall.SIGHUP }

func fileOf(b *backend) string {
	return fmt.Sprintf("upstreams:\n  - name: tests\n    services: [%s]\n    addresses: [%q]\n", service, b.address)
}

func (w *watched) logged(text string) func() bool {
	return func() bool {
		for _, e := range w.logs.All() {
			if strings.Contains(fmt.Sprint(e.Message, e.ContextMap()), text) {
				return true
			}
		}
		return false
	}
}

func TestAFileOfUpstreamsIsInForceWhenItChanges(t *testing.T) {
	t.Parallel()
	besides := forward.Upstream{Name: "upstream/flag", Services: []string{"flag.v1.Service"}, Addresses: []string{"127.0.0.1:1"}}
	w := newWatched(t, besides)
	a, b := w.backend(), w.backend()
	requireFault(t, w.call(), codes.Unimplemented, fault.UpstreamUnknown)
	w.rename(fileOf(a))
	require.Eventually(t, func() bool { return w.call() == nil }, patience, 10*time.Millisecond, "nobody asks: it is seen")
	require.Contains(t, w.forwarder.Stats(), "upstream/flag", "those of the command line stay")
	require.Eventually(t, w.logged("upstream/tests"), patience, time.Millisecond)

	l := w.load(4)
	l.goesOn(t, 20)
	w.rename(fileOf(b))
	w.ask()
	require.Eventually(t, func() bool { return a.conns.Load() == 0 && b.calls.Load() > 0 }, patience, time.Millisecond)

	// What is not good is logged, and nothing changes.
	for text, why := range map[string]string{
		fileOf(a) + "    color: x\n": "line 5: the field color is unknown",
		"":                           "upstreams: got none",
		strings.Replace(fileOf(a), service, "flag.v1.Service", 1): "two upstreams",
	} {
		w.rename(text)
		w.ask()
		require.Eventually(t, w.logged(why), patience, time.Millisecond)
	}
	require.NoError(t, os.Remove(w.path))
	w.ask()
	require.Eventually(t, w.logged("no such file"), patience, time.Millisecond)
	l.goesOn(t, 20)
	require.Zero(t, a.conns.Load())

	// As Kubernetes does it: a directory behind a link, of which the link is renamed.
	dir := t.TempDir()
	for name, of := range map[string]*backend{"1": b, "2": a} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, "f"), []byte(fileOf(of)), 0o600))
		require.NoError(t, os.Symlink(name, filepath.Join(dir, "to"+name)))
	}
	require.NoError(t, os.Rename(filepath.Join(dir, "to1"), filepath.Join(dir, "data")))
	require.NoError(t, os.Symlink(filepath.Join(dir, "data", "f"), w.path))
	w.ask()
	require.NoError(t, os.Rename(filepath.Join(dir, "to2"), filepath.Join(dir, "data")))
	require.Eventually(t, func() bool { return a.conns.Load() > 0 && b.conns.Load() == 0 }, patience, time.Millisecond)
	l.goesOn(t, 20)
	l.requireNone(t)

	w.rename("upstreams: []\n")
	w.ask()
	require.Eventually(t, func() bool { return fault.HasReason(w.call(), fault.UpstreamUnknown) }, patience, time.Millisecond)
	require.Eventually(t, w.logged("removed:[upstream/tests]"), patience, time.Millisecond)
}
