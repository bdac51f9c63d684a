package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func requireFault(t testing.TB, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	require.Equal(t, code, status.Code(err), "%v", err)
	require.True(t, fault.HasReason(err, reason), "got %v, want %s", err, reason)
	return fault.From(err)
}

func TestCallsSpreadOverAddressesAndOneThatDiesIsSkipped(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	a, b := g.backend(), g.backend()
	g.use(func(u *forward.Upstream) { u.Connections = 3 }, a, b)
	require.Eventually(t, func() bool {
		wasA, wasB := a.calls.Load(), b.calls.Load()
		g.calls(60)
		return a.calls.Load()-wasA >= 24 && b.calls.Load()-wasB >= 24
	}, patience, time.Millisecond, "in turn to each, as soon as both are there")
	require.EqualValues(t, 3, a.conns.Load())
	require.EqualValues(t, 3, b.conns.Load())

	l := g.load(4)
	l.goesOn(t, 50)
	a.stop()
	was := b.calls.Load()
	l.goesOn(t, 100)
	l.requireNone(t)
	require.GreaterOrEqual(t, b.calls.Load()-was, int64(100))
}

func TestAnUnhealthyCopyIsSkippedUntilItIsWell(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	a, b := g.backend(), g.backend()
	g.use(nil, a, b)
	both := func() bool {
		wasA, wasB := a.calls.Load(), b.calls.Load()
		g.calls(10)
		return a.calls.Load() > wasA && b.calls.Load() > wasB
	}
	require.Eventually(t, both, patience, time.Millisecond)
	b.server.SetHealthy(false)
	require.Eventually(t, func() bool { return !both() }, patience, time.Millisecond)
	require.False(t, both(), "it stays away")
	require.EqualValues(t, 1, b.conns.Load(), "though it is connected")
	b.server.SetHealthy(true)
	require.Eventually(t, both, patience, time.Millisecond)

	g.use(func(u *forward.Upstream) { u.Unchecked = true }, a, b)
	b.server.SetHealthy(false)
	require.Eventually(t, both, patience, time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	require.True(t, both(), "nobody asks how it is")
}

func TestANameStandsForWhatItResolvesToAndOneThatDoesNotHarmsNobody(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	_, port, err := net.SplitHostPort(b.address)
	require.NoError(t, err)
	g.use(func(u *forward.Upstream) { u.Addresses = []string{"nowhere.invalid:1", "localhost:" + port} })
	g.calls(10)
	g.use(func(u *forward.Upstream) { u.Addresses = []string{"localhost.localdomain:" + port, b.address} })
	g.calls(10)
}

func TestAnUpstreamHasNoMoreCallsAtATimeThanItMay(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	g.use(func(u *forward.Upstream) { u.MaxConcurrent = 2 }, b)
	first := g.stream()
	g.stream()
	for range 3 {
		f := requireFault(t, g.call(), codes.ResourceExhausted, fault.UpstreamBusy)
		require.Positive(t, f.RetryAfter)
		require.Equal(t, service, f.Metadata["service"])
	}
	require.Zero(t, b.calls.Load())
	require.Equal(t, 2, g.forwarder.Stats()["upstream/tests"].Calls)
	require.NoError(t, first.CloseSend())
	_, err := first.Recv()
	require.Equal(t, codes.DataLoss, status.Code(err))
	require.Eventually(t, func() bool { return g.call() == nil }, patience, time.Millisecond)
}

func TestABreakerKeepsCallsFromAnUpstreamThatIsDownAndLetsThemInAgain(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	var well, detailed bool
	b.answer = func(context.Context) error {
		st := status.New(codes.Unavailable, "down")
		switch {
		case well:
			return nil
		case detailed:
			st, _ = st.WithDetails(&errdetails.ErrorInfo{Reason: "OTHER", Domain: "example"})
		}
		return st.Err()
	}
	g.use(func(u *forward.Upstream) { u.BreakerThreshold = 3 }, b)
	for range 3 {
		require.False(t, fault.HasReason(g.call(), fault.UpstreamUnavailable), "it is asked, and says so itself")
	}
	require.Equal(t, 1, g.forwarder.Stats()["upstream/tests"].Down)
	for range 10 {
		require.Positive(t, requireFault(t, g.call(), codes.Unavailable, fault.UpstreamUnavailable).RetryAfter)
	}
	require.EqualValues(t, 3, b.calls.Load(), "nobody asks it any more")
	well = true
	require.Eventually(t, func() bool { return g.call() == nil }, patience, 10*time.Millisecond)
	require.EqualValues(t, 4, b.calls.Load(), "the first that asked it was the trial")
	require.Zero(t, g.forwarder.Stats()["upstream/tests"].Down)
	well, detailed = false, true
	for range 10 {
		require.Equal(t, codes.Unavailable, status.Code(g.call()))
	}
	require.EqualValues(t, 14, b.calls.Load(), "an answer with details is an answer")
}

func TestABreakerOpensWhereNothingListens(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	g.use(func(u *forward.Upstream) { u.BreakerThreshold = 2 }, b)
	g.calls(1)
	b.stop()
	require.Eventually(t, func() bool {
		require.Error(t, g.call())
		return g.forwarder.Stats()["upstream/tests"].Down == 1
	}, patience, time.Millisecond)
	require.Positive(t, requireFault(t, g.call(), codes.Unavailable, fault.UpstreamUnavailable).RetryAfter)
}

func TestNoCallIsRepeatedThatItsUpstreamMayHaveWorkedOn(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	a, b := g.backend(), g.backend()
	total := func() int64 { return a.calls.Load() + b.calls.Load() }
	for _, each := range []*backend{a, b} {
		each.answer = func(ctx context.Context) error {
			if err := grpc.SendHeader(ctx, metadata.Pairs("came", "back")); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "after the headers")
		}
	}
	g.use(nil, a, b)
	for n := range int64(5) {
		require.ErrorContains(t, g.call(), "after the headers")
		require.Equal(t, n+1, total())
	}
	for _, each := range []*backend{a, b} {
		each.answer = func(context.Context) error { return status.Error(codes.Unavailable, "at once") }
	}
	was := total()
	require.ErrorContains(t, g.call(), "at once")
	require.Equal(t, was+1, total())
}

func TestACallThatNoConnectionTookIsTriedAgain(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	// A call is not tried for ever, and a slow machine may need longer for the second handshake. Each call has a server of its
	// own that hangs up first, so none is answered at its first attempt.
	err := errors.New("not called")
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		address := g.hangsUpFirst(b.address)
		g.use(func(u *forward.Upstream) { u.Addresses = []string{address} })
		err = g.call()
	}
	require.NoError(t, err)
	require.EqualValues(t, 1, b.calls.Load(), "only calls that nothing heard of are tried again")
}

// hangsUpFirst is the address of a server that hangs up on the first who comes, and for the next is the one behind it.
func (g *gate) hangsUpFirst(behind string) (address string) {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(g.t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		relay(l, behind)
	}()
	g.t.Cleanup(func() {
		_, err := g.forwarder.Use(nil) // which hangs up
		require.NoError(g.t, err)
		require.NoError(g.t, l.Close())
		<-served
	})
	return l.Addr().String()
}

func TestAnUpstreamsTimeoutEndsACallAndSaysSo(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	g.use(func(u *forward.Upstream) { u.Timeout = 300 * time.Millisecond }, b)
	require.Eventually(t, func() bool { return g.call() == nil }, patience, time.Millisecond, "it is connected")
	s, err := g.client.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
	require.NoError(t, err)
	_, err = s.Recv()
	require.Contains(t, requireFault(t, err, codes.DeadlineExceeded, fault.DeadlineExceeded).Text, "300ms")
}

func TestMessagesAreNoLargerThanAnUpstreamWants(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	g.use(func(u *forward.Upstream) { u.MaxMessageBytes = 1000 }, b)
	_, err := g.client.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: payload(900)})
	require.NoError(t, err)
	_, err = g.client.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: payload(1000)})
	require.Equal(t, "1000", requireFault(t, err, codes.ResourceExhausted, fault.MessageTooLarge).Metadata["max_bytes"])
	_, err = g.client.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: payload(2000)}, grpc.UseCompressor("gzip"))
	requireFault(t, err, codes.ResourceExhausted, fault.MessageTooLarge)
	down, err := g.client.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 900}, {Size: 1000}}})
	require.NoError(t, err)
	_, err = down.Recv()
	require.NoError(t, err)
	_, err = down.Recv()
	require.Contains(t, requireFault(t, err, codes.ResourceExhausted, fault.MessageTooLarge).Text, "answer")

	g.use(nil, b)
	_, err = g.client.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: payload(16 << 20)}, grpc.MaxCallSendMsgSize(32<<20))
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "vs. 16777216", "what no upstream may have does not come as far")
}

func TestMetadataIsNoLargerThanAnUpstreamWants(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := g.backend()
	g.use(func(u *forward.Upstream) { u.MaxMetadataBytes = 500 }, b)
	with := func(n int) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "padding", paddingOf(n))
	}
	_, err := g.client.EmptyCall(with(300), &testpb.Empty{})
	require.NoError(t, err)
	_, err = g.client.EmptyCall(with(500), &testpb.Empty{})
	require.Equal(t, "500", requireFault(t, err, codes.ResourceExhausted, fault.MetadataTooLarge).Metadata["max_bytes"])
	require.EqualValues(t, 1, b.calls.Load())

	size := 500
	b.answer = func(ctx context.Context) error {
		return grpc.SetHeader(ctx, metadata.Pairs("padding", paddingOf(size)))
	}
	_, err = g.client.EmptyCall(t.Context(), &testpb.Empty{})
	require.Contains(t, requireFault(t, err, codes.ResourceExhausted, fault.MetadataTooLarge).Text, "answer's metadata")
	b.answer = func(ctx context.Context) error {
		return grpc.SetTrailer(ctx, metadata.Pairs("padding", paddingOf(size)))
	}
	_, err = g.client.EmptyCall(t.Context(), &testpb.Empty{})
	require.Contains(t, requireFault(t, err, codes.ResourceExhausted, fault.MetadataTooLarge).Text, "trailing")
	size = 300
	require.NoError(t, g.call())
}

func paddingOf(n int) string { return strings.Repeat("x", n) }

// relay hangs up on the first connection to a listener, and passes the others on to an address, until it is closed.
func relay(l net.Listener, address string) {
	var group sync.WaitGroup
	defer group.Wait()
	for n := 0; ; n++ {
		in, err := l.Accept()
		if err != nil {
			return
		}
		if n == 0 {
			_ = in.Close()
			continue
		}
		group.Go(func() {
			out, err := net.Dial("tcp", address)
			if err != nil {
				_ = in.Close()
				return
			}
			group.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
			_, _ = io.Copy(in, out)
			_ = in.Close()
		})
	}
}
