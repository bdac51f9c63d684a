// Package forward passes calls of any configured gRPC service through the gateway: all four kinds of call, messages as
// the bytes they are, with metadata, trailers, deadlines, cancellation and error details intact. What the caller claims
// about tenants is taken out, and a signed assertion of whom the call is for is put in, with which the upstream can call
// SqlService for that tenant and no other.
//
// Calls go in turn to each of an upstream's addresses that is there and well. A call is repeated only where its upstream
// cannot have worked on it: where no connection took it, a few times and then UNAVAILABLE `UPSTREAM_UNAVAILABLE`; and where
// the upstream said in HTTP/2 that it has not looked at it (REFUSED_STREAM, or a GOAWAY that names an earlier stream), once,
// which grpc-go does by itself and with what was sent until then. It is never repeated after anything came back, nor for a
// status that the upstream gave: whether that is safe, only the caller knows.
//
// Each upstream has limits, so that one that is slow or down costs the others nothing: RESOURCE_EXHAUSTED `UPSTREAM_BUSY`
// beyond its calls at a time, `MESSAGE_TOO_LARGE` and `METADATA_TOO_LARGE` beyond its sizes, UNAVAILABLE
// `UPSTREAM_UNAVAILABLE` at once while its breaker is open. Upstreams can be replaced while calls are under way.
//
// Who the caller is, and that its company may be reached, was found out before a call comes here.
package forward

import (
	"context"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // Callers may compress what they send.
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

// Forwarder forwards calls. Close it when the server has stopped.
type Forwarder struct {
	files      rpc.TLS
	log        *zap.Logger
	assertions *assertions
	crew       *crew

	services atomic.Pointer[map[string]*upstream]

	mu       sync.Mutex // of whoever replaces the upstreams
	retiring sync.WaitGroup
	closed   chan struct{}
}

// New returns a forwarder to these upstreams, which shows them the gateway's certificate and asks for theirs.
func New(upstreams []Upstream, files rpc.TLS, signer *token.Signer, log *zap.Logger) (*Forwarder, error) {
	f := &Forwarder{files: files, log: log, assertions: newAssertions(signer), crew: newCrew(), closed: make(chan struct{})}
	f.services.Store(&map[string]*upstream{})
	if _, err := f.Use(upstreams); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Options are what a server needs to forward: the codec that leaves messages as they are, and the handler of services
// that the server does not have itself.
func (f *Forwarder) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(Codec()), grpc.UnknownServiceHandler(f.handle), grpc.MaxHeaderListSize(headerBytes),
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connWindow),
	}
}

// Close ends the connections to the upstreams. Calls must have ended before.
func (f *Forwarder) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.closed)
	for _, u := range f.distinct() {
		f.retire(u)
	}
	f.retiring.Wait()
	f.crew.close()
	f.assertions.close()
}

// Stats is how an upstream is.
type Stats struct {
	// Calls are those under way.
	Calls int
	// Down is 1 while calls are kept from it because it could not be reached.
	Down int
}

// Stats returns how each upstream is, by its name.
func (f *Forwarder) Stats() map[string]Stats {
	all := map[string]Stats{}
	for _, u := range f.distinct() {
		s := all[u.Name] // The command line may name one several times.
		s.Calls += int(u.calls.Load())
		if u.breaker.open() {
			s.Down = 1
		}
		all[u.Name] = s
	}
	return all
}

// handle is one call, whatever its kind: to gRPC each is a stream of messages both ways.
func (f *Forwarder) handle(_ any, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	u, err := f.enter(service)
	if err != nil {
		return err
	}
	defer u.leave()
	ctx, cancel := context.WithCancelCause(in.Context())
	defer cancel(nil)
	if u.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, u.Timeout, u.late)
		defer stop()
	}
	out, err := f.outgoing(ctx, u)
	if err != nil {
		return err
	}
	stream, err := u.open(out, service, method)
	if err == nil {
		p := &pump{upstream: u, in: in, out: stream, cancel: cancel}
		f.crew.send(p)
		err = p.receive()
	}
	if err != nil && ctx.Err() != nil && in.Context().Err() == nil {
		return context.Cause(ctx) // It was ended here, and that is why.
	}
	if status.Code(err) == codes.DeadlineExceeded && u.Timeout > 0 && in.Context().Err() == nil {
		// The upstream's clock may be a little ahead of ours.
		if wanted, ok := in.Context().Deadline(); !ok || time.Until(wanted) > openPause {
			return u.late
		}
	}
	return err
}

// enter counts a call in at the upstream of a service.
func (f *Forwarder) enter(service string) (*upstream, error) {
	for {
		u, ok := (*f.services.Load())[service]
		if !ok {
			return nil, fault.New(codes.Unimplemented, fault.UpstreamUnknown, "the gateway forwards no service %s", service).With("service", service)
		}
		busy, ok := u.enter()
		if !ok {
			continue // Another was put in its place just now.
		}
		if busy {
			return nil, fault.New(codes.ResourceExhausted, fault.UpstreamBusy, "%s has as many calls under way as it may: %d", service, u.MaxConcurrent).
				With("service", service).RetryIn(busyFor)
		}
		return u, nil
	}
}

// outgoing is the context of the call to an upstream: the caller's metadata without what is ours to say.
func (f *Forwarder) outgoing(ctx context.Context, u *upstream) (context.Context, error) {
	assertion, err := f.assertions.of(identity.FromContext(ctx), u.Name)
	if err != nil {
		return nil, err
	}
	md, ok := metadata.FromIncomingContext(ctx) // a copy of our own
	if !ok {
		md = metadata.MD{}
	}
	maps.DeleteFunc(md, func(name string, _ []string) bool { return !passes(name) })
	if size := sizeOf(md); size > u.MaxMetadataBytes {
		return nil, u.metadataTooLarge("the call's metadata", size)
	}
	md.Set(AssertionMetadata, assertion)
	return metadata.NewOutgoingContext(ctx, md), nil
}

// AssertionMetadata is the name of the metadata in which an upstream gets the assertion, and gives it to SqlService.
const AssertionMetadata = "tenantry-assertion"

// passes tells whether metadata of a caller reaches an upstream: all but the credential, what belongs to the connection,
// and whatever claims to name a tenant. The assertion says that, and upstreams must not find it said twice.
func passes(name string) bool {
	switch name {
	case "authorization", "content-type", "te", "host", "connection", "user-agent":
		return false
	}
	return !strings.HasPrefix(name, ":") && !strings.HasPrefix(name, "grpc-") &&
		!strings.Contains(name, "tenant") && !strings.Contains(name, "company")
}
