package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const service = "grpc.testing.TestService"

// upstream is a service with all four kinds of call, as gRPC's own interoperability tests have it.
type upstream struct {
	testpb.UnimplementedTestServiceServer
	mu       sync.Mutex
	metadata metadata.MD
	deadline time.Time
	begun    chan struct{} // by a call that waits for its end
	ended    chan struct{}
}

func (u *upstream) note(ctx context.Context) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.metadata, _ = metadata.FromIncomingContext(ctx)
	u.deadline, _ = ctx.Deadline()
}

func (u *upstream) noted() (metadata.MD, time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.metadata, u.deadline
}

func (u *upstream) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	u.note(ctx)
	if err := grpc.SetHeader(ctx, metadata.Pairs("answer-header", "h1", "answer-header", "h2")); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("answer-trailer", "t", "answer-bin", "\x00\xff")); err != nil {
		return nil, err
	}
	if r.GetResponseStatus() != nil {
		st, err := status.New(codes.Code(r.GetResponseStatus().GetCode()), r.GetResponseStatus().GetMessage()).
			WithDetails(&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "disk"}}})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	return &testpb.SimpleResponse{Payload: r.GetPayload()}, nil
}

func (u *upstream) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	u.note(ctx)
	return &testpb.Empty{}, nil
}

func (u *upstream) StreamingOutputCall(r *testpb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	for _, p := range r.GetResponseParameters() {
		if err := out.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	if len(r.GetResponseParameters()) == 0 {
		close(u.begun)
		<-out.Context().Done()
		close(u.ended)
		return out.Context().Err() // As any server does: its own clock may tell it before the gateway's.
	}
	return nil
}

func (u *upstream) StreamingInputCall(in grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	var total int32
	for {
		r, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: total})
		}
		if err != nil {
			return err
		}
		total += int32(len(r.GetPayload().GetBody()))
	}
}

func (u *upstream) FullDuplexCall(both grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	for {
		r, err := both.Recv()
		if errors.Is(err, io.EOF) {
			both.SetTrailer(metadata.Pairs("answer-trailer", "duplex"))
			return status.Error(codes.DataLoss, "said at the end")
		}
		if err != nil {
			return err
		}
		if err := both.Send(&testpb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// fixture is a gateway that does nothing but forward, and an upstream behind it.
type fixture struct {
	upstream *upstream
	client   testpb.TestServiceClient
	conn     *grpc.ClientConn
	verifier *token.Verifier
	caller   identity.Caller
	stop     func() // ends the upstream
	address  string // the gateway's
	ca       string
}

func start(t testing.TB) *fixture {
	t.Helper()
	return startWith(t, zaptest.NewLogger(t))
}

// startWith is start with another logger.
func startWith(t testing.TB, log *zap.Logger) *fixture {
	t.Helper()
	authority, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	signer, err := token.NewSigner()
	require.NoError(t, err)
	f := &fixture{
		upstream: &upstream{begun: make(chan struct{}), ended: make(chan struct{})},
		verifier: token.NewVerifier(signer.Keys()...),
		caller: identity.Caller{Kind: identity.User, CompanyID: uuid.New(), UserID: uuid.New(), SessionID: uuid.New(),
			Roles: []string{"user"}},
	}
	target, stop := serve(t, log, authority, "upstream/tests", rpc.Access{"/" + service + "/*": {identity.Gateway}}, nil, nil,
		func(s *rpc.Server) { testpb.RegisterTestServiceServer(s, f.upstream) })
	f.stop = stop

	files := tlsOf(t, authority, "service/gateway")
	fw, err := forward.New([]forward.Upstream{{Services: []string{service}, Name: "upstream/tests", Addresses: []string{target}}}, files, signer, log)
	require.NoError(t, err)
	t.Cleanup(fw.Close)
	address, _ := serve(t, log, authority, "service/gateway", rpc.Access{rpc.Forwarded: {identity.User, identity.Operator}}, fw.Options(),
		func(context.Context, identity.Caller, metadata.MD) (identity.Caller, error) { return f.caller, nil },
		func(*rpc.Server) {})
	f.address, f.ca = address, authority.CA()
	f.conn, err = rpc.Dial(address, rpc.TLS{CA: f.ca})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.conn.Close()) })
	f.client = testpb.NewTestServiceClient(f.conn)
	return f
}

func serve(t testing.TB, log *zap.Logger, authority *pki.Authority, name string, access rpc.Access, options []grpc.ServerOption,
	authenticate func(context.Context, identity.Caller, metadata.MD) (identity.Caller, error), register func(*rpc.Server),
) (string, func()) {
	t.Helper()
	s, err := rpc.NewServer(rpc.Config{Name: name, TLS: tlsOf(t, authority, name), Access: access, Authenticate: authenticate,
		Logger: log, Options: options, Grace: patience})
	require.NoError(t, err)
	register(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-served)
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func tlsOf(t testing.TB, authority *pki.Authority, name string) rpc.TLS {
	t.Helper()
	files, err := authority.Issue(name, "127.0.0.1", "localhost")
	require.NoError(t, err)
	return rpc.TLS{CA: authority.CA(), Cert: files.Cert, Key: files.Key}
}

func payload(n int) *testpb.Payload { return &testpb.Payload{Body: make([]byte, n)} }

func TestAUnaryCallPassesWithItsMetadataHeadersAndTrailers(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "my-own", "1", "my-own", "2", "my-own-bin", "\x01\xfe")
	var header, trailer metadata.MD
	for _, n := range []int{0, 1, 100_000} {
		r, err := f.client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: payload(n)}, grpc.Header(&header), grpc.Trailer(&trailer))
		require.NoError(t, err)
		require.Len(t, r.GetPayload().GetBody(), n)
	}
	require.Equal(t, []string{"h1", "h2"}, header.Get("answer-header"))
	require.Equal(t, []string{"t"}, trailer.Get("answer-trailer"))
	require.Equal(t, []string{"\x00\xff"}, trailer.Get("answer-bin"))
	md, deadline := f.upstream.noted()
	require.Equal(t, []string{"1", "2"}, md.Get("my-own"))
	require.Equal(t, []string{"\x01\xfe"}, md.Get("my-own-bin"))
	want, _ := ctx.Deadline()
	require.WithinDuration(t, want, deadline, 2*time.Second)

	_, err := f.client.EmptyCall(ctx, &testpb.Empty{}, grpc.UseCompressor(gzip.Name))
	require.NoError(t, err, "a compressed and an empty message")
}

func TestTheUpstreamLearnsTheTenantFromTheAssertionAlone(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer secret", forward.AssertionMetadata, "spoofed",
		"tenantry-company", "other", "x-tenant-id", "other", "company-id", "other")
	_, err := f.client.EmptyCall(ctx, &testpb.Empty{})
	require.NoError(t, err)
	md, _ := f.upstream.noted()
	for _, name := range []string{"authorization", "tenantry-company", "x-tenant-id", "company-id"} {
		require.Empty(t, md.Get(name), name)
	}
	require.Len(t, md.Get(forward.AssertionMetadata), 1)
	claims, err := f.verifier.VerifyAssertion(md.Get(forward.AssertionMetadata)[0], "upstream/tests")
	require.NoError(t, err)
	require.Equal(t, f.caller.CompanyID, claims.CompanyID)
	require.Equal(t, f.caller.UserID, claims.UserID)
	require.Equal(t, f.caller.SessionID, claims.SessionID)
	require.Equal(t, f.caller.Roles, claims.Roles)
	require.WithinDuration(t, time.Now().Add(forward.AssertionLife), claims.ExpiresAt, 5*time.Second)

	f.caller.CompanyID = uuid.New()
	_, err = f.client.EmptyCall(t.Context(), &testpb.Empty{})
	require.NoError(t, err)
	md, _ = f.upstream.noted()
	claims, err = f.verifier.VerifyAssertion(md.Get(forward.AssertionMetadata)[0], "upstream/tests")
	require.NoError(t, err)
	require.Equal(t, f.caller.CompanyID, claims.CompanyID, "another company's call has another assertion")
}

func TestAnUpstreamsErrorPassesWithItsDetails(t *testing.T) {
	t.Parallel()
	f := start(t)
	var trailer metadata.MD
	_, err := f.client.UnaryCall(t.Context(), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{
		Code: int32(codes.ResourceExhausted), Message: "full"}}, grpc.Trailer(&trailer))
	st := status.Convert(err)
	require.Equal(t, codes.ResourceExhausted, st.Code())
	require.Equal(t, "full", st.Message())
	require.Len(t, st.Details(), 1)
	require.Equal(t, "disk", st.Details()[0].(*errdetails.QuotaFailure).GetViolations()[0].GetSubject())
	require.Equal(t, []string{"t"}, trailer.Get("answer-trailer"))
}

func TestStreamsOfEveryKindPass(t *testing.T) {
	t.Parallel()
	f := start(t)
	down, err := f.client.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{
		ResponseParameters: []*testpb.ResponseParameters{{Size: 1}, {Size: 70_000}, {Size: 0}}})
	require.NoError(t, err)
	var sizes []int
	for {
		r, err := down.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		sizes = append(sizes, len(r.GetPayload().GetBody()))
	}
	require.Equal(t, []int{1, 70_000, 0}, sizes)

	up, err := f.client.StreamingInputCall(t.Context())
	require.NoError(t, err)
	for range 50 {
		require.NoError(t, up.Send(&testpb.StreamingInputCallRequest{Payload: payload(1000)}))
	}
	sum, err := up.CloseAndRecv()
	require.NoError(t, err)
	require.EqualValues(t, 50_000, sum.GetAggregatedPayloadSize())

	both, err := f.client.FullDuplexCall(t.Context())
	require.NoError(t, err)
	for n := range 20 {
		require.NoError(t, both.Send(&testpb.StreamingOutputCallRequest{Payload: payload(n)}))
		r, err := both.Recv()
		require.NoError(t, err)
		require.Len(t, r.GetPayload().GetBody(), n)
	}
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	require.Equal(t, codes.DataLoss, status.Code(err))
	require.Equal(t, "said at the end", status.Convert(err).Message())
	require.Equal(t, []string{"duplex"}, both.Trailer().Get("answer-trailer"))
}

func TestACallerWhoGoesAwayEndsTheUpstreamsCall(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := f.client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
	require.NoError(t, err)
	<-f.upstream.begun
	cancel()
	select {
	case <-f.upstream.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the upstream was never told that the caller went away")
	}
}

func TestWhatCannotBeForwardedSaysWhy(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := testpb.NewUnimplementedServiceClient(f.conn).UnimplementedCall(t.Context(), &testpb.Empty{})
	require.True(t, fault.HasReason(err, fault.UpstreamUnknown), "%v", err)
	require.Equal(t, codes.Unimplemented, status.Code(err))

	f.caller = identity.Caller{Kind: identity.Operator, Name: "operator/alice"}
	_, err = f.client.EmptyCall(t.Context(), &testpb.Empty{})
	require.True(t, fault.HasReason(err, fault.MethodNotAllowed), "%v", err)

	f.caller = identity.Caller{Kind: identity.User, CompanyID: uuid.New()}
	f.stop()
	_, err = f.client.EmptyCall(t.Context(), &testpb.Empty{})
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	_, err = f.client.EmptyCall(t.Context(), &testpb.Empty{})
	require.True(t, fault.HasReason(err, fault.UpstreamUnavailable), "%v", err)
	require.NotContains(t, err.Error(), "127.0.0.1")
}

func TestUpstreamsAreReadFromTheCommandLine(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"readings", "upstream/readings"} {
		u, err := forward.Parse("readings.v1.ReadingsService=" + name + "@localhost:9000")
		require.NoError(t, err)
		require.Equal(t, forward.Upstream{Services: []string{"readings.v1.ReadingsService"}, Name: "upstream/readings", Addresses: []string{"localhost:9000"}}, u)
	}
	for _, bad := range []string{"", "a=b", "a@b:1", "=n@b:1", "a=@b:1", "a=n@", "a=x/n@b:1"} {
		_, err := forward.Parse(bad)
		require.ErrorContains(t, err, "SERVICE=NAME@HOST:PORT", bad)
	}
}
