package session_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/session"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry answers what the gateway asks about credentials.
type registry struct {
	registryv1.SessionServiceClient
	registryv1.RouteServiceClient
	mu      sync.Mutex
	keys    []token.Key
	away    bool
	apiKeys map[credential.Hash]*registryv1.ResolveCredentialResponse
	asked   atomic.Int32 // about API keys
	jwks    atomic.Int32
}

func (r *registry) GetJwks(context.Context, *registryv1.GetJwksRequest, ...grpc.CallOption) (*registryv1.GetJwksResponse, error) {
	r.jwks.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return nil, errors.New("away")
	}
	return &registryv1.GetJwksResponse{Keys: session.JSONWebKeys(r.keys, token.RegistryIssuer)}, nil
}

func (r *registry) ResolveCredential(_ context.Context, q *registryv1.ResolveCredentialRequest, _ ...grpc.CallOption) (*registryv1.ResolveCredentialResponse, error) {
	r.asked.Add(1)
	time.Sleep(20 * time.Millisecond) // Long enough for others to ask meanwhile.
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return nil, errors.New("away")
	}
	if k, ok := r.apiKeys[credential.Hash(q.GetApiKeyHash())]; ok {
		return k, nil
	}
	return nil, fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "no").GRPCStatus().Err()
}

// fixture is sessions with a registry, and the gateway's own signer.
type fixture struct {
	t        testing.TB
	registry *registry
	access   *token.Signer
	own      *token.Signer
	sessions *session.Sessions
	closed   sync.Map // companies that may not be served
}

func start(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, registry: &registry{apiKeys: map[credential.Hash]*registryv1.ResolveCredentialResponse{}}, access: signer(t), own: signer(t)}
	f.registry.keys = f.access.Keys()
	f.sessions = session.New(f.registry, f.registry, f.own, "tenantry-assertion", func(_ context.Context, company uuid.UUID, _ metadata.MD) error {
		if _, closed := f.closed.Load(company); closed {
			return fault.New(codes.PermissionDenied, fault.CompanySuspended, "closed")
		}
		return nil
	}, zaptest.NewLogger(t))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.sessions.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return f
}

func signer(t testing.TB) *token.Signer {
	t.Helper()
	s, err := token.NewSigner()
	require.NoError(t, err)
	return s
}

func claims() token.Claims {
	return token.Claims{CompanyID: uuid.New(), UserID: uuid.New(), SessionID: uuid.New(), Roles: []string{"user"}, ExpiresAt: time.Now().Add(time.Minute)}
}

func (f *fixture) sign(c token.Claims) string {
	f.t.Helper()
	signed, err := f.access.SignAccess(c)
	require.NoError(f.t, err)
	return signed
}

func (f *fixture) call(certified identity.Caller, pairs ...string) (identity.Caller, error) {
	return f.sessions.Authenticate(f.t.Context(), certified, metadata.Pairs(pairs...))
}

func (f *fixture) bearer(credential string) (identity.Caller, error) {
	return f.call(identity.Caller{}, "authorization", "Bearer "+credential)
}

func requireReason(t *testing.T, err error, reason string) {
	t.Helper()
	require.True(t, fault.HasReason(err, reason), "got %v, want %s", err, reason)
}

func TestATokenIsVerifiedOfflineAndEndsWithItsSessionOrCompany(t *testing.T) {
	t.Parallel()
	f := start(t)
	c := claims()
	signed := f.sign(c)
	got, err := f.bearer(signed)
	require.NoError(t, err, "keys are asked for when one is missing")
	require.Equal(t, identity.User, got.Kind)
	require.Equal(t, c.CompanyID, got.CompanyID)
	require.Equal(t, c.SessionID, got.SessionID)
	f.registry.mu.Lock()
	f.registry.away = true
	f.registry.mu.Unlock()
	_, err = f.bearer(signed)
	require.NoError(t, err, "the registry is not needed any more")

	old := claims()
	old.ExpiresAt = time.Now().Add(-time.Minute)
	_, err = f.bearer(f.sign(old))
	requireReason(t, err, fault.TokenExpired)

	f.closed.Store(c.CompanyID, true)
	_, err = f.bearer(signed)
	requireReason(t, err, fault.CompanySuspended)
	f.closed.Delete(c.CompanyID)
	f.sessions.Revoke([]uuid.UUID{c.SessionID}, nil, time.Now().Add(time.Minute))
	_, err = f.bearer(signed)
	requireReason(t, err, fault.CredentialsInvalid)
}

func TestForgedTokensDoNotMakeTheGatewayAskForKeysAgainAndAgain(t *testing.T) {
	t.Parallel()
	f := start(t)
	forger := signer(t)
	for range 20 {
		forged, err := forger.SignAccess(claims())
		require.NoError(t, err)
		_, err = f.bearer(forged)
		requireReason(t, err, fault.CredentialsInvalid)
	}
	require.EqualValues(t, 1, f.registry.jwks.Load())
}

func TestAnAPIKeyIsAskedAboutOnceHoweverManyCallAndEndsWhenItIsRevoked(t *testing.T) {
	t.Parallel()
	f := start(t)
	key, company, id := credential.NewAPIKey(), uuid.New(), uuid.New()
	f.registry.apiKeys[key.Hash] = &registryv1.ResolveCredentialResponse{ApiKeyId: id.String(), CompanyId: company.String(), Roles: []string{"user"}}
	var group sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		group.Go(func() {
			got, err := f.bearer(key.Key)
			if err == nil && (got.Kind != identity.APIKey || got.CompanyID != company || got.APIKeyID != id) {
				err = errors.New("another caller")
			}
			errs[i] = err
		})
	}
	group.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, 1, f.registry.asked.Load())
	f.sessions.Revoke(nil, []uuid.UUID{id}, time.Time{})
	_, err := f.bearer(key.Key)
	requireReason(t, err, fault.CredentialsInvalid)

	unknown := credential.NewAPIKey()
	for range 5 {
		_, err = f.bearer(unknown.Key)
		requireReason(t, err, fault.CredentialsInvalid)
	}
	require.EqualValues(t, 2, f.registry.asked.Load(), "that one is unknown is remembered, too")

	short := credential.NewAPIKey()
	f.registry.mu.Lock()
	f.registry.apiKeys[short.Hash] = &registryv1.ResolveCredentialResponse{ApiKeyId: uuid.NewString(), CompanyId: company.String(), ExpireTime: timestamppb.New(time.Now().Add(150 * time.Millisecond))}
	f.registry.mu.Unlock()
	_, err = f.bearer(short.Key)
	require.NoError(t, err)
	require.Eventually(t, func() bool { _, err := f.bearer(short.Key); return fault.HasReason(err, fault.CredentialsInvalid) }, 10*time.Second, 10*time.Millisecond)

	f.registry.mu.Lock()
	f.registry.away = true
	f.registry.mu.Unlock()
	_, err = f.bearer(credential.NewAPIKey().Key)
	requireReason(t, err, fault.Unavailable)
}

func TestAnUpstreamActsForTheCompanyOfTheAssertionThatWasMadeForIt(t *testing.T) {
	t.Parallel()
	f := start(t)
	readings := identity.Caller{Kind: identity.Upstream, Name: "upstream/readings"}
	c := claims()
	assert := func(audience string) string {
		signed, err := f.own.SignAssertion(c, audience)
		require.NoError(t, err)
		return signed
	}
	got, err := f.call(readings, "tenantry-assertion", assert("upstream/readings"))
	require.NoError(t, err)
	require.Equal(t, identity.Upstream, got.Kind)
	require.Equal(t, c.CompanyID, got.CompanyID)
	require.Equal(t, c.UserID, got.UserID)
	_, err = f.call(readings, "tenantry-assertion", assert("upstream/other"))
	requireReason(t, err, fault.CredentialsInvalid)
	_, err = f.call(readings)
	requireReason(t, err, fault.CredentialsMissing)
	_, err = f.call(readings, "tenantry-assertion", assert("upstream/readings"), "tenantry-assertion", assert("upstream/readings"))
	requireReason(t, err, fault.CredentialsMissing)
	_, err = f.call(readings, "authorization", "Bearer "+f.sign(c))
	requireReason(t, err, fault.CredentialsMissing)
	f.sessions.Revoke([]uuid.UUID{c.SessionID}, nil, time.Now().Add(time.Minute))
	_, err = f.call(readings, "tenantry-assertion", assert("upstream/readings"))
	requireReason(t, err, fault.CredentialsInvalid)

	// From anyone else an assertion is nothing but metadata.
	for _, other := range []identity.Caller{{}, {Kind: identity.Operator, Name: "operator/alice"}} {
		got, err := f.call(other, "tenantry-assertion", assert("upstream/readings"))
		require.NoError(t, err)
		require.Equal(t, other, got)
	}
}
