// Package forward passes calls of any configured gRPC service through the gateway: all four kinds of call, messages as
// the bytes they are, with metadata, trailers, deadlines, cancellation and error details intact. What the caller claims
// about tenants is taken out, and a signed assertion of whom the call is for is put in, with which the upstream can call
// SqlService for that tenant and no other.
//
// Who the caller is, and that its company may be reached, was found out before a call comes here.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // Callers may compress what they send.
	"google.golang.org/grpc/metadata"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

// Upstream is a service behind the gateway.
type Upstream struct {
	// Service is its full name, such as `readings.v1.ReadingsService`.
	Service string
	// Name is the name its certificate bears, such as `upstream/readings`: the audience of its assertions.
	Name string
	// Target is where it is: `host:port`, or any target that grpc-go resolves.
	Target string
}

// Parse reads an upstream as the command line has it: `SERVICE=NAME@HOST:PORT`, where NAME stands for `upstream/NAME`,
// which may be written, too.
func Parse(text string) (Upstream, error) {
	service, rest, ok := strings.Cut(text, "=")
	name, target, ok2 := strings.Cut(rest, "@")
	name = strings.TrimPrefix(name, upstreamGroup)
	if !ok || !ok2 || service == "" || name == "" || target == "" || strings.Contains(name, "/") {
		return Upstream{}, fmt.Errorf("upstream: got %q, want SERVICE=NAME@HOST:PORT", text)
	}
	return Upstream{Service: service, Name: upstreamGroup + name, Target: target}, nil
}

// upstreamGroup begins the name of every upstream.
const upstreamGroup = "upstream/"

// Windows of flow control, in bytes: how much of one stream, and of all streams of a connection, may be under way or lie in
// memory here because the other side does not read. That they are fixed spares the pings by which gRPC would find them out.
const (
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

// Forwarder forwards calls. Close it when the server has stopped.
type Forwarder struct {
	upstreams  map[string]*upstream
	assertions *assertions
	pumps      sync.WaitGroup
}

type upstream struct {
	Upstream
	conn *grpc.ClientConn
}

// New returns a forwarder to these upstreams, which shows them the gateway's certificate and asks for theirs.
func New(upstreams []Upstream, files rpc.TLS, signer *token.Signer, log *zap.Logger) (*Forwarder, error) {
	signed, err := newAssertions(signer)
	if err != nil {
		return nil, err
	}
	f := &Forwarder{upstreams: make(map[string]*upstream, len(upstreams)), assertions: signed}
	for _, u := range upstreams {
		if _, twice := f.upstreams[u.Service]; twice {
			return nil, errors.Join(fmt.Errorf("forward: the service %s has two upstreams", u.Service), f.Close())
		}
		files.Peer = u.Name
		conn, err := rpc.Dial(u.Target, files, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(Codec())), grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connWindow))
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.upstreams[u.Service] = &upstream{Upstream: u, conn: conn}
		log.Info("forwarding", zap.String("service", u.Service), zap.String("to", u.Target), zap.String("as", u.Name))
	}
	return f, nil
}

// Options are what a server needs to forward: the codec that leaves messages as they are, and the handler of services
// that the server does not have itself.
func (f *Forwarder) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(Codec()), grpc.UnknownServiceHandler(f.handle),
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connWindow),
	}
}

// Close ends the connections to the upstreams. Calls must have ended before.
func (f *Forwarder) Close() error {
	var errs []error
	for _, u := range f.upstreams {
		errs = append(errs, u.conn.Close())
	}
	f.pumps.Wait()
	f.assertions.close()
	return errors.Join(errs...)
}

// handle is one call, whatever its kind: to gRPC each is a stream of messages both ways.
func (f *Forwarder) handle(_ any, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	u, ok := f.upstreams[service]
	if !ok {
		return fault.New(codes.Unimplemented, fault.UpstreamUnknown, "the gateway forwards no service %s", service).With("service", service)
	}
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	ctx, err := f.outgoing(ctx, u)
	if err != nil {
		return err
	}
	out, err := u.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fault.New(codes.Unavailable, fault.UpstreamUnavailable, "%s cannot be reached", service).With("service", service).Because(err)
	}
	f.pumps.Go(func() { send(in, out, cancel) })
	return receive(in, out)
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

// send passes the caller's messages on until it has no more or the call ends.
func send(in grpc.ServerStream, out grpc.ClientStream, cancel context.CancelFunc) {
	for {
		var m frame
		err := in.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			// Its error is that the call has ended, of which receive knows more.
			_ = out.CloseSend()
			return
		}
		if err != nil {
			cancel()
			return
		}
		if out.SendMsg(&m) != nil {
			return
		}
	}
}

// receive passes the upstream's headers, messages and trailers back and returns the status it ended with.
func receive(in grpc.ServerStream, out grpc.ClientStream) error {
	defer func() { in.SetTrailer(out.Trailer()) }()
	// Headers come back before the first message, however long that takes to come. Where they cannot be had, RecvMsg
	// tells why.
	if header, err := out.Header(); err == nil && header != nil {
		if err := in.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		var m frame
		err := out.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := in.SendMsg(&m); err != nil {
			return err
		}
	}
}
