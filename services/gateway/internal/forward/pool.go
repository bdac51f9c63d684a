package forward

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health" // Upstreams are asked how they are.
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// Windows of flow control, in bytes: how much of one stream, and of all streams of a connection, may be under way or lie in
// memory here because the other side does not read. That they are fixed spares the pings by which gRPC would find them out.
const (
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

// Service configurations: calls go in turn to each address that is there, and well where it is asked how it is.
const (
	balanced = `{"loadBalancingConfig": [{"round_robin": {}}]}`
	healthy  = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`
)

const (
	// opens is how often a call that no connection would take is tried, and openPause about how long it waits in between.
	opens     = 6
	openPause = 50 * time.Millisecond
	// busyFor is after which time a caller may try again who found too many calls under way.
	busyFor = 100 * time.Millisecond
)

// upstream is one that calls go to, with its connections and the calls that are under way. It is retired when the
// configuration has another in its place, and closed after its last call.
type upstream struct {
	Upstream
	late    error // what a call gets that took longer than it may
	breaker *breaker
	conns   []*grpc.ClientConn
	turn    atomic.Uint32
	calls   atomic.Int64
	retired atomic.Bool
	idle    chan struct{} // closed when it is retired and has no calls
	once    sync.Once
}

// dial returns an upstream, without connecting to it yet.
func dial(u Upstream, files rpc.TLS) (*upstream, error) {
	u = u.withDefaults()
	files.Peer = u.Name
	config := healthy
	if u.Unchecked {
		config = balanced
	}
	up := &upstream{Upstream: u, breaker: newBreaker(u.BreakerThreshold, time.Now), idle: make(chan struct{}),
		late: fault.New(codes.DeadlineExceeded, fault.DeadlineExceeded, "the call took longer than it may at this service: %v", u.Timeout)}
	target := url.URL{Scheme: scheme, Path: "/" + u.Name}
	for range u.Connections {
		conn, err := rpc.Dial(target.String(), files, grpc.WithResolvers(resolution(u.Addresses)), grpc.WithDefaultServiceConfig(config),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(Codec()), grpc.MaxCallRecvMsgSize(u.MaxMessageBytes)),
			grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connWindow))
		if err != nil {
			return nil, errors.Join(err, up.close())
		}
		up.conns = append(up.conns, conn)
	}
	return up, nil
}

func (u *upstream) close() error {
	var errs []error
	for _, c := range u.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// enter counts a call in, unless the upstream is retired or busy: has as many as it may. leave counts it out. A call that
// is refused is never counted, or it could have another refused that comes when there is room.
func (u *upstream) enter() (busy, ok bool) {
	for {
		calls := u.calls.Load()
		switch {
		case u.retired.Load():
			return false, false
		case calls >= int64(u.MaxConcurrent):
			return true, true
		case u.calls.CompareAndSwap(calls, calls+1):
			if u.retired.Load() { // Since it was asked above; whoever retires it either sees the call or is seen.
				u.leave()
				return false, false
			}
			return false, true
		}
	}
}

func (u *upstream) leave() {
	if u.calls.Add(-1) == 0 && u.retired.Load() {
		u.once.Do(func() { close(u.idle) })
	}
}

// retire lets no more calls in. When idle is closed, the last has left.
func (u *upstream) retire() {
	u.retired.Store(true)
	if u.calls.Load() == 0 {
		u.once.Do(func() { close(u.idle) })
	}
}

// open begins a call on the connection whose turn it is. One that no connection takes is tried again a few times: no
// stream was made, so the upstream has heard nothing of it.
func (u *upstream) open(ctx context.Context, service, method string) (grpc.ClientStream, error) {
	if wait, ok := u.breaker.allow(); !ok {
		return nil, unavailable(service).RetryIn(wait)
	}
	for n := 1; ; n++ {
		conn := u.conns[int(u.turn.Add(1)%uint32(len(u.conns)))]
		out, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		switch {
		case err == nil:
			return out, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case status.Code(err) != codes.Unavailable:
			return nil, err
		case n == opens:
			u.breaker.failed()
			return nil, unavailable(service).RetryIn(openFor).Because(err)
		}
		select {
		case <-time.After(openPause/2 + rand.N(openPause)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func unavailable(service string) *fault.Error {
	return fault.New(codes.Unavailable, fault.UpstreamUnavailable, "%s cannot be reached", service).With("service", service)
}

// judge tells the breaker what a call that ended without headers says of the upstream. Details are the upstream's own
// words, such as another company's database being away, so they are an answer whatever the code.
func (u *upstream) judge(err error) {
	st := status.Convert(err)
	switch {
	case st.Code() == codes.Unavailable && len(st.Proto().GetDetails()) == 0:
		u.breaker.failed()
	case st.Code() != codes.Canceled && st.Code() != codes.DeadlineExceeded:
		u.breaker.answered()
	}
}
