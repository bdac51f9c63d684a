package forward_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

// patience bounds every wait.
const patience = 30 * time.Second

// backend is one copy of a service, which counts its calls and its connections.
type backend struct {
	upstream
	address string
	stop    func()
	server  *rpc.Server
	calls   atomic.Int64
	conns   atomic.Int64
	// answer is what a unary call gets, set before the first; nil means its own payload.
	answer func(context.Context) error
}

func (b *backend) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	b.calls.Add(1)
	if b.answer != nil {
		return &testpb.Empty{}, b.answer(ctx)
	}
	return &testpb.Empty{}, nil
}

func (b *backend) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (b *backend) HandleRPC(context.Context, stats.RPCStats)                         {}
func (b *backend) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (b *backend) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		b.conns.Add(1)
	case *stats.ConnEnd:
		b.conns.Add(-1)
	}
}

// gate is a gateway that does nothing but forward, to upstreams of a test's choice.
type gate struct {
	t         testing.TB
	authority *pki.Authority
	forwarder *forward.Forwarder
	client    testpb.TestServiceClient
	logs      *observer.ObservedLogs
}

// newGate starts a gateway without upstreams.
func newGate(t testing.TB) *gate {
	t.Helper()
	authority, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	signer, err := token.NewSigner()
	require.NoError(t, err)
	core, logs := observer.New(zap.InfoLevel)
	g := &gate{t: t, authority: authority, logs: logs}
	g.forwarder, err = forward.New(nil, tlsOf(t, authority, "service/gateway"), signer, zap.New(core))
	require.NoError(t, err)
	t.Cleanup(g.forwarder.Close)
	caller := identity.Caller{Kind: identity.User, CompanyID: uuid.New(), UserID: uuid.New(), SessionID: uuid.New()}
	address, _ := serve(t, zap.NewNop(), authority, "service/gateway", rpc.Access{rpc.Forwarded: {identity.User}}, g.forwarder.Options(),
		func(context.Context, identity.Caller, metadata.MD) (identity.Caller, error) { return caller, nil }, func(*rpc.Server) {})
	conn, err := rpc.Dial(address, rpc.TLS{CA: authority.CA()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	g.client = testpb.NewTestServiceClient(conn)
	return g
}

// backend starts a copy of the service.
func (g *gate) backend() *backend {
	g.t.Helper()
	b := &backend{upstream: upstream{begun: make(chan struct{}), ended: make(chan struct{})}}
	b.address, b.stop = serve(g.t, zap.NewNop(), g.authority, "upstream/tests", rpc.Access{"/" + service + "/*": {identity.Gateway}},
		[]grpc.ServerOption{grpc.StatsHandler(b)}, nil, func(s *rpc.Server) {
			b.server = s
			s.SetHealthy(true)
			testpb.RegisterTestServiceServer(s, b)
		})
	return b
}

// use puts these copies in force, as one upstream.
func (g *gate) use(adjust func(*forward.Upstream), backends ...*backend) {
	g.t.Helper()
	u := to(backends...)
	if adjust != nil {
		adjust(&u)
	}
	_, err := g.forwarder.Use([]forward.Upstream{u})
	require.NoError(g.t, err)
}

func to(backends ...*backend) forward.Upstream {
	u := forward.Upstream{Name: "upstream/tests", Services: []string{service}}
	for _, b := range backends {
		u.Addresses = append(u.Addresses, b.address)
	}
	return u
}

func (g *gate) call() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := g.client.EmptyCall(ctx, &testpb.Empty{})
	return err
}

func (g *gate) calls(n int) {
	g.t.Helper()
	for range n {
		require.NoError(g.t, g.call())
	}
}

// exchange is one message each way.
func exchange(s grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	if err := s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(10)}); err != nil {
		return err
	}
	_, err := s.Recv()
	return err
}

// stream opens a stream, on which something has come back.
func (g *gate) stream() grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse] {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g.t.Cleanup(cancel)
	s, err := g.client.FullDuplexCall(ctx)
	require.NoError(g.t, err)
	require.NoError(g.t, exchange(s))
	return s
}

// load is callers that call until they are stopped: unary calls, and streams that go on for a while.
type load struct {
	group    sync.WaitGroup
	stopped  atomic.Bool
	answered atomic.Int64
	mu       sync.Mutex
	failed   []error
}

func (g *gate) load(callers int) *load {
	l := &load{}
	for i := range callers {
		l.group.Go(func() {
			for n := i; !l.stopped.Load(); n++ {
				err := g.call()
				if err == nil && n%4 == 0 {
					err = g.talk()
				}
				if err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, err)
					l.mu.Unlock()
				}
				l.answered.Add(1)
			}
		})
	}
	g.t.Cleanup(l.end)
	return l
}

// talk is a stream with some messages each way, and its end.
func (g *gate) talk() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := g.client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 10 {
		if err := exchange(s); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (l *load) end() {
	l.stopped.Store(true)
	l.group.Wait()
}

// goesOn waits for some more answers.
func (l *load) goesOn(t testing.TB, more int64) {
	t.Helper()
	want := l.answered.Load() + more
	require.Eventually(t, func() bool { return l.answered.Load() >= want }, patience, time.Millisecond)
}

// requireNone ends the load and requires that no call failed.
func (l *load) requireNone(t testing.TB) {
	t.Helper()
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failed) > 0 {
		require.Failf(t, "calls failed", "%d of %d, the first: %v", len(l.failed), l.answered.Load(), l.failed[0])
	}
}
