package rpc_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sessions answers with whatever a test wants of it.
type sessions struct {
	registryv1.UnimplementedSessionServiceServer
	login   func(context.Context, *registryv1.LoginRequest) (*registryv1.LoginResponse, error)
	refresh func(context.Context, *registryv1.RefreshRequest) (*registryv1.RefreshResponse, error)
}

func (s *sessions) Login(ctx context.Context, r *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
	return s.login(ctx, r)
}

func (s *sessions) Refresh(ctx context.Context, r *registryv1.RefreshRequest) (*registryv1.RefreshResponse, error) {
	return s.refresh(ctx, r)
}

var access = rpc.Access{
	"/tenantry.registry.v1.SessionService/*":      {identity.Operator},
	"/tenantry.registry.v1.SessionService/Login":  {identity.Operator, identity.User},
	"/tenantry.registry.v1.SessionService/Logout": {identity.Anonymous},
}

type fixture struct {
	authority *pki.Authority
	address   string
	stop      context.CancelFunc
	served    chan error
}

func serve(t *testing.T, s *sessions, adjust func(*rpc.Config)) *fixture {
	t.Helper()
	authority, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	files, err := authority.Issue("service/registry", "127.0.0.1")
	require.NoError(t, err)
	cfg := rpc.Config{
		Name: "test", TLS: rpc.TLS{CA: authority.CA(), Cert: files.Cert, Key: files.Key},
		Access: access, Logger: zaptest.NewLogger(t), Grace: 200 * time.Millisecond,
	}
	if adjust != nil {
		adjust(&cfg)
	}
	server, err := rpc.NewServer(cfg)
	require.NoError(t, err)
	registryv1.RegisterSessionServiceServer(server, s)
	server.SetHealthy(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	f := &fixture{authority: authority, address: l.Addr().String(), stop: stop, served: make(chan error, 1)}
	go func() { f.served <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-f.served)
	})
	return f
}

func (f *fixture) dial(t *testing.T, name string) *grpc.ClientConn {
	t.Helper()
	files := rpc.TLS{CA: f.authority.CA()}
	if name != "" {
		own, err := f.authority.Issue(name)
		require.NoError(t, err)
		files.Cert, files.Key = own.Cert, own.Key
	}
	conn, err := rpc.Dial(f.address, files)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func request() *registryv1.LoginRequest {
	return &registryv1.LoginRequest{Email: "a@b.example", Password: "correct horse"}
}

func TestCallersAreKnownByCertificateAndLetInByTheTable(t *testing.T) {
	t.Parallel()
	var seen identity.Caller
	f := serve(t, &sessions{login: func(ctx context.Context, _ *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
		seen = identity.FromContext(ctx)
		return &registryv1.LoginResponse{}, nil
	}}, nil)

	_, err := registryv1.NewSessionServiceClient(f.dial(t, "operator/alice")).Login(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, identity.Caller{Kind: identity.Operator, Name: "operator/alice"}, seen)

	_, err = registryv1.NewSessionServiceClient(f.dial(t, "signup/web")).Login(t.Context(), request())
	requireFault(t, err, codes.PermissionDenied, fault.MethodNotAllowed)
	_, err = registryv1.NewSessionServiceClient(f.dial(t, "")).Login(t.Context(), request())
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsMissing)

	health, err := healthpb.NewHealthClient(f.dial(t, "")).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, health.GetStatus())
}

func TestADatabaseThatIsAwayIsWorthAnotherTry(t *testing.T) {
	t.Parallel()
	f := serve(t, &sessions{login: func(context.Context, *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
		return nil, fmt.Errorf("read a user: %w", &pgconn.PgError{Code: "57P01"})
	}}, nil)
	_, err := registryv1.NewSessionServiceClient(f.dial(t, "operator/alice")).Login(t.Context(), request())
	requireFault(t, err, codes.Unavailable, fault.DatabaseUnavailable)
	require.Positive(t, fault.From(err).RetryAfter)
}

func TestACertificateOfAnotherAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	f := serve(t, &sessions{}, nil)
	other, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	files, err := other.Issue("operator/mallory")
	require.NoError(t, err)
	conn, err := rpc.Dial(f.address, rpc.TLS{CA: f.authority.CA(), Cert: files.Cert, Key: files.Key})
	require.NoError(t, err)
	defer conn.Close()
	_, err = registryv1.NewSessionServiceClient(conn).Login(t.Context(), request())
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
}

func TestAServerOfAnotherNameIsNotTakenForTheOneThatIsMeant(t *testing.T) {
	t.Parallel()
	f := serve(t, &sessions{}, nil)
	for peer, want := range map[string]codes.Code{"service/registry": codes.OK, "service/gateway": codes.Unavailable} {
		conn, err := rpc.Dial(f.address, rpc.TLS{CA: f.authority.CA(), Peer: peer})
		require.NoError(t, err)
		_, err = healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		require.Equal(t, want, status.Code(err), "%s: %v", peer, err)
		require.NoError(t, conn.Close())
	}
}

func TestACredentialOutranksTheCertificateAndABadOneEndsTheCall(t *testing.T) {
	t.Parallel()
	user := uuid.New()
	var seen identity.Caller
	f := serve(t, &sessions{login: func(ctx context.Context, _ *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
		seen = identity.FromContext(ctx)
		return &registryv1.LoginResponse{}, nil
	}}, func(cfg *rpc.Config) {
		cfg.Authenticate = func(_ context.Context, c identity.Caller, md metadata.MD) (identity.Caller, error) {
			bearer, err := rpc.Bearer(md)
			if err != nil || bearer == "" {
				return c, err
			}
			if bearer != "good" {
				return c, fault.New(codes.Unauthenticated, fault.TokenExpired, "ended")
			}
			return identity.Caller{Kind: identity.User, Name: c.Name, UserID: user}, nil
		}
	})
	client := registryv1.NewSessionServiceClient(f.dial(t, "service/gateway"))
	with := func(v string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", v)
	}

	_, err := client.Login(with("Bearer good"), request())
	require.NoError(t, err)
	require.Equal(t, identity.Caller{Kind: identity.User, Name: "service/gateway", UserID: user}, seen)
	_, err = client.Login(with("Bearer bad"), request())
	requireFault(t, err, codes.Unauthenticated, fault.TokenExpired)
	_, err = client.Login(with("Basic eA=="), request())
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsInvalid)
	_, err = client.Logout(with("Bearer bad"), &registryv1.LogoutRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err), "a method that anyone may call does not mind a bad credential: %v", err)
}

func TestEachWrongFieldIsNamedAndSecretsAreNotRepeated(t *testing.T) {
	t.Parallel()
	f := serve(t, &sessions{}, nil)
	_, err := registryv1.NewSessionServiceClient(f.dial(t, "operator/alice")).
		Login(t.Context(), &registryv1.LoginRequest{Email: strings.Repeat("e", 300), Password: strings.Repeat("s", 1025)})
	got := requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)
	require.Equal(t, "email", got.Metadata["field"])
	require.Len(t, got.Fields, 2)
	require.Contains(t, got.Fields[0].Description, `got "eee`)
	require.Equal(t, "password", got.Fields[1].Path)
	require.NotContains(t, err.Error()+got.Fields[1].Description, "sss")
}

func TestWhatGoesWrongInsideStaysInside(t *testing.T) {
	t.Parallel()
	f := serve(t, &sessions{
		login: func(context.Context, *registryv1.LoginRequest) (*registryv1.LoginResponse, error) { panic("hunter2") },
		refresh: func(context.Context, *registryv1.RefreshRequest) (*registryv1.RefreshResponse, error) {
			return nil, fault.New(codes.Unauthenticated, fault.RefreshTokenInvalid, "no").Because(context.Canceled)
		},
	}, nil)
	client := registryv1.NewSessionServiceClient(f.dial(t, "operator/alice"))
	_, err := client.Login(t.Context(), request())
	requireFault(t, err, codes.Internal, fault.Internal)
	require.NotContains(t, err.Error(), "hunter2")
	_, err = client.Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: "x"})
	requireFault(t, err, codes.Unauthenticated, fault.RefreshTokenInvalid)
	require.NotContains(t, err.Error(), "canceled")
}

func TestAnotherServicesAnswerPassesWithAllItsDetails(t *testing.T) {
	t.Parallel()
	foreign, err := status.New(codes.ResourceExhausted, "quota").WithDetails(&errdetails.QuotaFailure{
		Violations: []*errdetails.QuotaFailure_Violation{{Subject: "disk"}}})
	require.NoError(t, err)
	f := serve(t, &sessions{login: func(context.Context, *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
		return nil, foreign.Err()
	}}, nil)
	_, err = registryv1.NewSessionServiceClient(f.dial(t, "operator/alice")).Login(t.Context(), request())
	require.Equal(t, foreign.String(), status.Convert(err).String())
	require.Len(t, status.Convert(err).Details(), 1)
}

func TestACallThatRunsEndsBeforeTheServerDoes(t *testing.T) {
	t.Parallel()
	began, finish := make(chan struct{}), make(chan struct{})
	f := serve(t, &sessions{login: func(context.Context, *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
		close(began)
		<-finish
		return &registryv1.LoginResponse{UserId: "done"}, nil
	}}, func(cfg *rpc.Config) { cfg.Grace = time.Minute })
	conn := f.dial(t, "operator/alice")
	answer := make(chan error, 1)
	go func() {
		_, err := registryv1.NewSessionServiceClient(conn).Login(t.Context(), request())
		answer <- err
	}()
	<-began
	f.stop()
	close(finish)
	require.NoError(t, <-answer)
}

func TestAServerThatIsStoppedBeforeItServesEndsWell(t *testing.T) {
	t.Parallel()
	authority, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	files, err := authority.Issue("service/registry", "127.0.0.1")
	require.NoError(t, err)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for range 20 {
		server, err := rpc.NewServer(rpc.Config{Name: "test", TLS: rpc.TLS{CA: authority.CA(), Cert: files.Cert, Key: files.Key}, Access: access,
			Logger: zaptest.NewLogger(t), Grace: time.Minute})
		require.NoError(t, err)
		registryv1.RegisterSessionServiceServer(server, &sessions{})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, server.Serve(stopped, l))
		require.ErrorIs(t, l.Close(), net.ErrClosed)
	}
}

func TestAServerWhoseTableDoesNotFitDoesNotServe(t *testing.T) {
	t.Parallel()
	authority, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	files, err := authority.Issue("service/registry", "127.0.0.1")
	require.NoError(t, err)
	for want, table := range map[string]rpc.Access{
		"does not say": {"/tenantry.registry.v1.SessionService/Login": {identity.User}},
		"not served":   {"/tenantry.registry.v1.SessionService/*": {identity.User}, "/tenantry.registry.v1.SessionService/Typo": {identity.User}},
	} {
		server, err := rpc.NewServer(rpc.Config{Name: "test", TLS: rpc.TLS{CA: authority.CA(), Cert: files.Cert, Key: files.Key}, Access: table, Logger: zaptest.NewLogger(t)})
		require.NoError(t, err)
		registryv1.RegisterSessionServiceServer(server, &sessions{})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.ErrorContains(t, server.Serve(t.Context(), l), want)
	}
}

func requireFault(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	f := fault.From(err)
	require.NotNil(t, f)
	require.Equal(t, code, f.Code, "%v", err)
	require.Equal(t, reason, f.Reason, "%v", err)
	return f
}
