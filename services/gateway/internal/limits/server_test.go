package limits_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/gateway/internal/limits"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

const service = "grpc.testing.TestService"

// upstream answers calls; a stream of which nothing is asked goes on until its caller goes away.
type upstream struct {
	testpb.UnimplementedTestServiceServer
	begun chan struct{}
}

func (*upstream) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

func (*upstream) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	panic("a handler's own fault")
}

func (u *upstream) StreamingOutputCall(r *testpb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	for range r.GetResponseParameters() {
		if err := out.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
	if len(r.GetResponseParameters()) == 0 {
		u.begun <- struct{}{}
		<-out.Context().Done()
	}
	return nil
}

// gateway is a server with limits that has the test service itself, or forwards its calls.
type gateway struct {
	authority *pki.Authority
	address   string
	upstream  *upstream
	limits    *limits.Limits
}

// eachWay runs a test against a server that has the service, and against one that forwards to it.
func eachWay(t *testing.T, cfg limits.Config, test func(t *testing.T, g *gateway)) {
	t.Helper()
	for name, forwarded := range map[string]bool{"served": false, "forwarded": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t, cfg, forwarded))
		})
	}
}

func start(t *testing.T, cfg limits.Config, forwarded bool) *gateway {
	t.Helper()
	authority, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	g := &gateway{authority: authority, upstream: &upstream{begun: make(chan struct{}, 100)}}
	g.limits, err = limits.New(cfg)
	require.NoError(t, err)
	t.Cleanup(g.limits.Close)
	serving := rpc.Config{Name: "gateway", TLS: g.tls(t, "service/gateway"), Logger: zap.NewNop(), Grace: time.Second, Limits: g.limits,
		Authenticate: authenticate}
	kinds := []identity.Kind{identity.User, identity.Operator}
	if !forwarded {
		serving.Access = rpc.Access{"/" + service + "/*": kinds, "/" + service + "/UnimplementedCall": {identity.Anonymous}}
		g.address = serve(t, serving, func(s *rpc.Server) { testpb.RegisterTestServiceServer(s, g.upstream) })
		return g
	}
	target := serve(t, rpc.Config{Name: "upstream", TLS: g.tls(t, "upstream/tests"), Logger: zap.NewNop(), Grace: time.Second,
		Access: rpc.Access{"/" + service + "/*": {identity.Gateway}}}, func(s *rpc.Server) { testpb.RegisterTestServiceServer(s, g.upstream) })
	signer, err := token.NewSigner()
	require.NoError(t, err)
	fw, err := forward.New([]forward.Upstream{{Services: []string{service}, Name: "upstream/tests", Addresses: []string{target}}}, g.tls(t, "service/gateway"), signer, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(fw.Close)
	serving.Access, serving.Options = rpc.Access{rpc.Forwarded: kinds}, fw.Options()
	g.address = serve(t, serving, func(*rpc.Server) {})
	return g
}

// authenticate takes the bearer for the company and the session; `bad` is none.
func authenticate(_ context.Context, certified identity.Caller, md metadata.MD) (identity.Caller, error) {
	bearer, err := rpc.Bearer(md)
	if err != nil || bearer == "" {
		return certified, err
	}
	company, err := uuid.Parse(bearer)
	if err != nil {
		return identity.Caller{}, fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "no")
	}
	return identity.Caller{Kind: identity.User, CompanyID: company, SessionID: company}, nil
}

func serve(t *testing.T, cfg rpc.Config, register func(*rpc.Server)) string {
	t.Helper()
	s, err := rpc.NewServer(cfg)
	require.NoError(t, err)
	register(s)
	s.SetHealthy(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(ctx, l) })
	t.Cleanup(func() { cancel(); served.Wait() })
	return l.Addr().String()
}

func (g *gateway) tls(t *testing.T, name string) rpc.TLS {
	t.Helper()
	files, err := g.authority.Issue(name, "127.0.0.1")
	require.NoError(t, err)
	return rpc.TLS{CA: g.authority.CA(), Cert: files.Cert, Key: files.Key}
}

func (g *gateway) dial(t *testing.T, files rpc.TLS) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(g.address, files)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func (g *gateway) client(t *testing.T) testpb.TestServiceClient {
	t.Helper()
	return testpb.NewTestServiceClient(g.dial(t, rpc.TLS{CA: g.authority.CA()}))
}

func as(t *testing.T, bearer string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+bearer)
}

// refused requires what travels of a refusal, read as any client reads it.
func refused(t *testing.T, err error, code codes.Code, reason, limit string) {
	t.Helper()
	st := status.Convert(err)
	require.Equal(t, code, st.Code(), "%v", err)
	var info *errdetails.ErrorInfo
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	require.Equal(t, reason, info.GetReason())
	require.Equal(t, limit, info.GetMetadata()["limit"])
	require.Positive(t, retry.GetRetryDelay().AsDuration())
}

func TestCallsAndStreamsCountAtTheirStart(t *testing.T) {
	t.Parallel()
	eachWay(t, limits.Config{PerCompany: 2.1, PerCredential: 2.001}, func(t *testing.T, g *gateway) {
		t.Helper()
		client, sun, moon := g.client(t), as(t, uuid.NewString()), as(t, uuid.NewString())
		_, err := client.EmptyCall(sun, &testpb.Empty{})
		require.NoError(t, err)
		stream, err := client.StreamingOutputCall(sun, &testpb.StreamingOutputCallRequest{ResponseParameters: make([]*testpb.ResponseParameters, 50)})
		require.NoError(t, err)
		for range 50 {
			_, err := stream.Recv()
			require.NoError(t, err, "its messages are not calls")
		}
		// Fast enough that no token comes meanwhile, or else one more call is let through.
		require.Eventually(t, func() bool { _, err = client.EmptyCall(sun, &testpb.Empty{}); return err != nil }, time.Minute, time.Microsecond)
		refused(t, err, codes.ResourceExhausted, fault.RateLimited, "credential")
		require.Eventually(t, func() bool {
			stream, err := client.StreamingOutputCall(sun, &testpb.StreamingOutputCallRequest{ResponseParameters: make([]*testpb.ResponseParameters, 1)})
			require.NoError(t, err)
			_, err = stream.Recv()
			return status.Code(err) == codes.ResourceExhausted
		}, time.Minute, time.Microsecond)
		_, err = client.EmptyCall(moon, &testpb.Empty{})
		require.NoError(t, err)
		require.Positive(t, g.limits.Stats().Credential)
	})
}

func TestAStreamIsInFlightUntilItEnds(t *testing.T) {
	t.Parallel()
	eachWay(t, limits.Config{MaxInFlight: 2}, func(t *testing.T, g *gateway) {
		t.Helper()
		client, sun, moon := g.client(t), as(t, uuid.NewString()), as(t, uuid.NewString())
		ctx, cancel := context.WithCancel(sun)
		defer cancel()
		for range 2 {
			_, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
			require.NoError(t, err)
			<-g.upstream.begun
		}
		_, err := client.EmptyCall(sun, &testpb.Empty{})
		refused(t, err, codes.Unavailable, fault.Overloaded, "")
		_, err = client.EmptyCall(moon, &testpb.Empty{})
		require.NoError(t, err, "who has least is served")
		_, err = testpb.NewTestServiceClient(g.dial(t, g.tls(t, "operator/alice"))).EmptyCall(t.Context(), &testpb.Empty{})
		require.NotEqual(t, codes.Unavailable, status.Code(err), "%v", err)
		health, err := healthpb.NewHealthClient(g.dial(t, rpc.TLS{CA: g.authority.CA()})).Check(t.Context(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, health.GetStatus())
		cancel()
		require.Eventually(t, func() bool { _, err := client.EmptyCall(sun, &testpb.Empty{}); return err == nil }, time.Minute, time.Millisecond)
		require.Eventually(t, func() bool { return g.limits.Stats().InFlight == 0 }, time.Minute, time.Millisecond)
	})
}

func TestCallsThatFailAreNoLongerInFlight(t *testing.T) {
	t.Parallel()
	eachWay(t, limits.Config{MaxInFlight: 1}, func(t *testing.T, g *gateway) {
		t.Helper()
		client := g.client(t)
		for range 10 {
			_, err := client.UnaryCall(as(t, uuid.NewString()), &testpb.SimpleRequest{})
			require.Equal(t, codes.Internal, status.Code(err), "%v", err)
		}
		require.Eventually(t, func() bool { return g.limits.Stats().InFlight == 0 }, time.Minute, time.Millisecond)
	})
}

func TestWhoGuessesCredentialsIsRefusedBeforeTheyAreLookedAt(t *testing.T) {
	t.Parallel()
	eachWay(t, limits.Config{PerAddress: 0.001}, func(t *testing.T, g *gateway) {
		t.Helper()
		client, good := g.client(t), as(t, uuid.NewString())
		for range 50 {
			_, err := client.EmptyCall(good, &testpb.Empty{})
			require.NoError(t, err, "what is good costs nothing")
		}
		_, err := client.EmptyCall(as(t, "bad"), &testpb.Empty{})
		require.Equal(t, codes.Unauthenticated, status.Code(err), "%v", err)
		_, err = client.EmptyCall(good, &testpb.Empty{})
		refused(t, err, codes.ResourceExhausted, fault.RateLimited, "address")
		other := metadata.AppendToOutgoingContext(good, "x-forwarded-for", "192.0.2.7", "x-real-ip", "192.0.2.7", "forwarded", "for=192.0.2.7")
		_, err = client.EmptyCall(other, &testpb.Empty{})
		refused(t, err, codes.ResourceExhausted, fault.RateLimited, "address")
		_, err = testpb.NewTestServiceClient(g.dial(t, g.tls(t, "operator/alice"))).EmptyCall(good, &testpb.Empty{})
		require.NoError(t, err, "a certificate is no guess")
	})
}

func TestWhatAnyoneMayCallIsLimitedByAddress(t *testing.T) {
	t.Parallel()
	g := start(t, limits.Config{PerAddress: 0.001}, false)
	client := g.client(t)
	_, err := client.UnimplementedCall(t.Context(), &testpb.Empty{})
	require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)
	_, err = client.UnimplementedCall(t.Context(), &testpb.Empty{})
	refused(t, err, codes.ResourceExhausted, fault.RateLimited, "address")
	_, err = client.EmptyCall(as(t, uuid.NewString()), &testpb.Empty{})
	require.NoError(t, err)
	for range 50 {
		_, err := healthpb.NewHealthClient(g.dial(t, rpc.TLS{CA: g.authority.CA()})).Check(t.Context(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
	}
}
