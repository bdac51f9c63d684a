package upstream_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/proto/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const issuer = "tenantry-gateway"

// service asks SqlService for its caller, once for each call.
type service struct {
	testpb.UnimplementedTestServiceServer
	sql  gatewayv1.SqlServiceClient
	mu   sync.Mutex
	seen []upstream.Caller
}

func (s *service) note(ctx context.Context) {
	c, ok := upstream.FromContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		s.seen = append(s.seen, c)
	}
}

func (s *service) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	s.note(ctx)
	// What a handler itself sets in its place does not count.
	_, err := s.sql.Execute(metadata.AppendToOutgoingContext(ctx, upstream.Metadata, "another", "own", "kept"), &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
	return &testpb.Empty{}, err
}

func (s *service) StreamingOutputCall(_ *testpb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	s.note(out.Context())
	rows, err := s.sql.Query(out.Context(), &gatewayv1.QueryRequest{Sql: "SELECT 1"})
	if err != nil {
		return err
	}
	if _, err := rows.Recv(); !errors.Is(err, io.EOF) {
		return err
	}
	return out.Send(&testpb.StreamingOutputCallResponse{})
}

type fixture struct {
	gateway *gateway
	service *service
	conn    *grpc.ClientConn
	client  testpb.TestServiceClient
}

func start(t *testing.T, keys ...*registryv1.JsonWebKey) *fixture {
	t.Helper()
	g, err := startGateway(keys...)
	require.NoError(t, err)
	t.Cleanup(g.stop)
	f := &fixture{gateway: g, service: &service{sql: upstream.SQL(g.conn)}}
	v := upstream.NewVerifier("upstream/readings", g.conn)
	conn, stop, err := serve(func(s *grpc.Server) {
		testpb.RegisterTestServiceServer(s, f.service)
		healthpb.RegisterHealthServer(s, health.NewServer())
	}, grpc.ChainUnaryInterceptor(v.Unary), grpc.ChainStreamInterceptor(v.Stream))
	require.NoError(t, err)
	t.Cleanup(stop)
	f.conn, f.client = conn, testpb.NewTestServiceClient(conn)
	return f
}

func with(ctx context.Context, assertions ...string) context.Context {
	for _, a := range assertions {
		ctx = metadata.AppendToOutgoingContext(ctx, upstream.Metadata, a)
	}
	return ctx
}

// stream calls the streaming method and returns how it ended.
func (f *fixture) stream(ctx context.Context) error {
	s, err := f.client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func requireReason(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	st := status.Convert(err)
	require.Equal(t, code, st.Code(), "%v", err)
	require.NotEmpty(t, st.Details())
	info, ok := st.Details()[0].(*errdetails.ErrorInfo)
	require.True(t, ok)
	require.Equal(t, upstream.Domain, info.GetDomain())
	require.Equal(t, reason, info.GetReason())
}

func TestACallHasItsCallerAndItsSQLTheSameAssertion(t *testing.T) {
	t.Parallel()
	k := newKey("k")
	f := start(t, k.published(issuer))
	person, program := k.assertion(nil), k.assertion(map[string]any{"sub": nil, "sid": nil, "api_key": "key-1", "company": "company-2", "roles": nil})

	_, err := f.client.EmptyCall(with(t.Context(), person), &testpb.Empty{})
	require.NoError(t, err)
	require.Equal(t, []string{person}, f.gateway.assertions())
	require.Equal(t, []string{"kept"}, f.gateway.shown.Get("own"))
	require.NoError(t, f.stream(with(t.Context(), program)))
	require.Equal(t, []string{program}, f.gateway.assertions())
	require.Len(t, f.service.seen, 2)
	for i := range f.service.seen {
		require.WithinDuration(t, time.Now().Add(2*time.Minute), f.service.seen[i].ExpiresAt, time.Minute)
		f.service.seen[i].ExpiresAt = time.Time{}
	}
	require.Equal(t, []upstream.Caller{
		{CompanyID: "company-1", UserID: "user-1", SessionID: "session-1", Roles: []string{"admin", "user"}},
		{CompanyID: "company-2", APIKeyID: "key-1"},
	}, f.service.seen)
	require.Equal(t, 1, f.gateway.asked, "the keys are asked for once")
}

func TestWhatIsNotTheGatewaysAssertionForThisServiceIsRefused(t *testing.T) {
	t.Parallel()
	k, other := newKey("k"), newKey("registry")
	f := start(t, k.published(issuer), other.published("tenantry-registry"))
	stolen := newKey("k") // Another key that calls itself the same.
	good := k.assertion(nil)
	hmac := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": issuer, "aud": "upstream/readings", "company": "c", "exp": time.Now().Add(time.Minute).Unix()})
	hmac.Header["kid"], hmac.Header["typ"] = "k", "tenantry-assertion+jwt"
	symmetric, err := hmac.SignedString([]byte("k"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		assertions []string
		reason     string
	}{
		"missing":                {nil, upstream.AssertionMissing},
		"empty":                  {[]string{""}, upstream.AssertionMissing},
		"two":                    {[]string{good, good}, upstream.AssertionMissing},
		"no token":               {[]string{"x"}, upstream.AssertionInvalid},
		"tampered":               {[]string{good[:len(good)-10] + "AAAAAAAAAA"}, upstream.AssertionInvalid},
		"signed by another":      {[]string{stolen.assertion(nil)}, upstream.AssertionInvalid},
		"the registry's key":     {[]string{other.assertion(nil)}, upstream.AssertionInvalid},
		"another algorithm":      {[]string{symmetric}, upstream.AssertionInvalid},
		"for another service":    {[]string{k.assertion(map[string]any{"aud": "upstream/bills"})}, upstream.AssertionInvalid},
		"for nobody":             {[]string{k.assertion(map[string]any{"aud": nil})}, upstream.AssertionInvalid},
		"another issuer":         {[]string{k.assertion(map[string]any{"iss": "tenantry-registry"})}, upstream.AssertionInvalid},
		"an access token's type": {[]string{k.assertion(map[string]any{"typ": "at+jwt"})}, upstream.AssertionInvalid},
		"no company":             {[]string{k.assertion(map[string]any{"company": nil})}, upstream.AssertionInvalid},
		"without an end":         {[]string{k.assertion(map[string]any{"exp": nil})}, upstream.AssertionInvalid},
		"ended":                  {[]string{k.assertion(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})}, upstream.AssertionExpired},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := with(t.Context(), c.assertions...)
			_, err := f.client.EmptyCall(ctx, &testpb.Empty{})
			requireReason(t, err, codes.Unauthenticated, c.reason)
			requireReason(t, f.stream(ctx), codes.Unauthenticated, c.reason)
		})
	}
	require.Empty(t, f.service.seen)
	_, err = f.client.EmptyCall(with(t.Context(), good), &testpb.Empty{})
	require.NoError(t, err)
	_, err = healthpb.NewHealthClient(f.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err, "who asks for its health has no assertion")
}

func TestOutsideOfAVerifiedCallNothingIsSent(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(upstream.Metadata, "claimed"))
	_, err := f.service.sql.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
	requireReason(t, err, codes.Unauthenticated, upstream.AssertionMissing)
	_, err = f.service.sql.Query(ctx, &gatewayv1.QueryRequest{Sql: "SELECT 1"})
	requireReason(t, err, codes.Unauthenticated, upstream.AssertionMissing)
	require.Nil(t, f.gateway.shown)
	_, ok := upstream.FromContext(ctx)
	require.False(t, ok)
}

func TestKeysRotateWithoutARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := newKey("first"), newKey("second")
		g := &gateway{keys: []*registryv1.JsonWebKey{first.published(issuer)}}
		v := upstream.NewVerifier("readings", direct{gateway: g})
		verify := func(k key) error {
			_, err := v.Verify(t.Context(), k.assertion(nil))
			return err
		}
		require.NoError(t, verify(first))
		time.Sleep(10 * time.Second)

		// A new key signs: it is asked for at once.
		g.keys = append(g.keys, second.published(issuer))
		require.NoError(t, verify(second))
		require.NoError(t, verify(first))
		require.Equal(t, 2, g.asked)

		// Keys that nobody has are asked for, but not for each call.
		time.Sleep(10 * time.Second)
		for range 100 {
			requireReason(t, verify(newKey("made up")), codes.Unauthenticated, upstream.AssertionInvalid)
		}
		require.Equal(t, 3, g.asked)

		// The old key is dropped: a minute later it is good no more.
		g.keys = g.keys[1:]
		require.NoError(t, verify(first), "not asked yet")
		time.Sleep(time.Minute)
		requireReason(t, verify(first), codes.Unauthenticated, upstream.AssertionInvalid)
		require.NoError(t, verify(second))
		require.Equal(t, 4, g.asked)
	})
}

func TestWhileTheGatewayDoesNotAnswerWhatIsKnownGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		known, later := newKey("known"), newKey("later")
		g := &gateway{keys: []*registryv1.JsonWebKey{known.published(issuer)}, away: true}
		v := upstream.NewVerifier("readings", direct{gateway: g})
		verify := func(k key) error {
			_, err := v.Verify(t.Context(), k.assertion(nil))
			return err
		}
		for range 10 {
			requireReason(t, verify(known), codes.Unavailable, upstream.KeysUnavailable)
		}
		require.Equal(t, 1, g.asked)
		time.Sleep(2 * time.Second)
		g.away = false
		require.NoError(t, verify(known))
		g.away = true
		time.Sleep(time.Hour)
		for range 10 {
			require.NoError(t, verify(known))
		}
		require.Equal(t, 3, g.asked)
		time.Sleep(2 * time.Second)
		requireReason(t, verify(later), codes.Unavailable, upstream.KeysUnavailable)
	})
}

func TestManyCallsAskOnceTogether(t *testing.T) {
	t.Parallel()
	k := newKey("k")
	f := start(t, k.published(issuer))
	assertion := k.assertion(nil)
	answers := make(chan error, 50)
	for range cap(answers) {
		go func() {
			_, err := f.client.EmptyCall(with(t.Context(), assertion), &testpb.Empty{})
			answers <- err
		}()
	}
	for range cap(answers) {
		require.NoError(t, <-answers)
	}
	require.Equal(t, 1, f.gateway.asked)
}
