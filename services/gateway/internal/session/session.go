// Package session finds out who calls the gateway, and for which company: an access token is verified offline, an API key
// is asked about, an upstream shows the assertion that it was given, and an operator a certificate. What was found good is
// remembered for as long as it is; what was revoked is refused all the same. The company of a call comes from here and from
// nothing else.
//
// Whether that company is open is package routes' to know; Authenticate asks it, so that a call of a closed company never
// gets further.
package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/cache"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

const (
	// remembered is how many API keys are kept, known the longest, unknown the shortest that still stops a flood.
	remembered   = 100_000
	knownLife    = 5 * time.Minute
	unknownLife  = 2 * time.Second
	keysEvery    = 2 * time.Second // at most, when tokens name keys that are not known
	keysPatience = 5 * time.Second
	forgetEvery  = time.Minute
)

// Open tells whether a call with this metadata may be made for a company, as an error when not.
type Open func(ctx context.Context, company uuid.UUID, md metadata.MD) error

// Sessions authenticates calls.
type Sessions struct {
	sessions   registryv1.SessionServiceClient
	routes     registryv1.RouteServiceClient
	assertions *token.Verifier
	assertion  string // the metadata's name
	open       Open
	log        *zap.Logger

	verifier atomic.Pointer[token.Verifier]
	asking   singleflight.Group
	keysMu   sync.Mutex
	keysAt   time.Time
	keys     atomic.Pointer[keySet]

	verified *verified
	apiKeys  cache.Cache[credential.Hash, *apiKey]
	revoked  sync.Map // uuid.UUID of a session or API key → time.Time until when to remember
}

// apiKey is what the registry said of a key; nil caller means that it does not work.
type apiKey struct{ caller *identity.Caller }

// New returns sessions that ask a registry. signer's keys verify assertions, which come in the metadata of that name.
func New(sessions registryv1.SessionServiceClient, routes registryv1.RouteServiceClient, signer *token.Signer, assertion string, open Open, log *zap.Logger) *Sessions {
	apiKeys := cache.New[credential.Hash](cache.Options[*apiKey]{Most: remembered, Life: func(k *apiKey) time.Duration {
		if k.caller == nil {
			return unknownLife
		}
		return knownLife
	}})
	s := &Sessions{sessions: sessions, routes: routes, assertions: token.NewVerifier(signer.Keys()...), assertion: assertion, open: open, log: log,
		verified: newVerified(), apiKeys: apiKeys}
	s.verifier.Store(token.NewVerifier())
	s.keys.Store(&keySet{})
	return s
}

// Run forgets what need not be remembered, until the context ends.
func (s *Sessions) Run(ctx context.Context) {
	defer s.apiKeys.Close()
	defer s.verified.close()
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := time.Now()
			s.revoked.Range(func(id, until any) bool {
				if now.After(until.(time.Time)) {
					s.revoked.Delete(id)
				}
				return true
			})
		}
	}
}

// Revoke makes sessions and API keys work no more.
func (s *Sessions) Revoke(sessions, apiKeys []uuid.UUID, until time.Time) {
	for _, id := range sessions {
		s.revoked.Store(id, until)
	}
	for _, id := range apiKeys {
		// A key has no end of its own, but what is remembered of it has.
		s.revoked.Store(id, time.Now().Add(2*knownLife))
	}
}

func (s *Sessions) isRevoked(id uuid.UUID) bool {
	if id == uuid.Nil {
		return false
	}
	_, ok := s.revoked.Load(id)
	return ok
}

// Authenticate finds out who calls, for rpc.Config. A tenant's caller belongs to a company that is open. Errors:
// UNAUTHENTICATED `CREDENTIALS_INVALID`, `TOKEN_EXPIRED`; those of Open; UNAVAILABLE when a credential cannot be checked.
func (s *Sessions) Authenticate(ctx context.Context, certified identity.Caller, md metadata.MD) (identity.Caller, error) {
	caller, err := s.caller(ctx, certified, md)
	if err != nil || !caller.IsTenant() {
		return caller, err
	}
	if err := s.StillGood(caller); err != nil {
		return identity.Caller{}, err
	}
	return caller, s.open(ctx, caller.CompanyID, md)
}

// StillGood tells whether a caller that was authenticated may go on with what is under way: UNAUTHENTICATED
// `CREDENTIALS_INVALID` when its session or API key was revoked since. That a credential has run out does not matter.
func (s *Sessions) StillGood(caller identity.Caller) error {
	if s.isRevoked(caller.SessionID) || s.isRevoked(caller.APIKeyID) {
		return notValid()
	}
	return nil
}

func (s *Sessions) caller(ctx context.Context, certified identity.Caller, md metadata.MD) (identity.Caller, error) {
	// Only an upstream's certificate makes an assertion count: with anyone else's it is ignored, as any metadata is that
	// claims a tenant.
	if certified.Kind == identity.Upstream {
		return s.upstream(certified, md.Get(s.assertion))
	}
	bearer, err := rpc.Bearer(md)
	switch {
	case err != nil || bearer == "":
		return certified, err
	case credential.IsAPIKey(bearer):
		return s.apiKey(ctx, certified, bearer)
	default:
		return s.token(ctx, certified, bearer)
	}
}

func (s *Sessions) upstream(certified identity.Caller, assertions []string) (identity.Caller, error) {
	if len(assertions) != 1 || assertions[0] == "" {
		return identity.Caller{}, fault.New(codes.Unauthenticated, fault.CredentialsMissing,
			"an upstream calls with the one `%s` that came with the call it answers", s.assertion)
	}
	p := proof{credential.HashOf(assertions[0]), certified.Name}
	if known, ok := s.verified.get(p, s.assertions); ok {
		return known, nil
	}
	claims, err := s.assertions.VerifyAssertion(assertions[0], certified.Name)
	if err != nil {
		return identity.Caller{}, err
	}
	caller := callerOf(identity.Upstream, certified.Name, claims)
	s.verified.put(p, caller, s.assertions)
	return caller, nil
}

func callerOf(kind identity.Kind, name string, c token.Claims) identity.Caller {
	return identity.Caller{Kind: kind, Name: name, CompanyID: c.CompanyID, UserID: c.UserID, SessionID: c.SessionID, APIKeyID: c.APIKeyID,
		Roles: c.Roles, ExpiresAt: c.ExpiresAt}
}

// token verifies an access token, once for as long as it is good. One that names a key which is not known may be signed
// with a newer one.
func (s *Sessions) token(ctx context.Context, certified identity.Caller, signed string) (identity.Caller, error) {
	verifier, p := s.verifier.Load(), proof{token: credential.HashOf(signed)}
	if known, ok := s.verified.get(p, verifier); ok {
		known.Name = certified.Name
		return known, nil
	}
	claims, err := verifier.VerifyAccess(signed)
	if errors.Is(err, token.ErrUnknownKey) {
		s.LoadKeys(ctx)
		// Another call may have got them a moment ago, and so this one not.
		if now := s.verifier.Load(); now != verifier {
			verifier = now
			claims, err = verifier.VerifyAccess(signed)
		}
	}
	if err != nil {
		return identity.Caller{}, err
	}
	caller := callerOf(identity.User, certified.Name, claims)
	s.verified.put(p, caller, verifier)
	return caller, nil
}

// LoadKeys asks the registry for its keys, not too often, and tells whether it got some.
func (s *Sessions) LoadKeys(ctx context.Context) bool {
	got, _, _ := s.asking.Do("keys", func() (any, error) {
		s.keysMu.Lock()
		defer s.keysMu.Unlock()
		if time.Since(s.keysAt) < keysEvery {
			return false, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysPatience)
		defer cancel()
		out, err := s.sessions.GetJwks(ctx, &registryv1.GetJwksRequest{})
		if err != nil {
			s.log.Warn("the registry's keys cannot be had", zap.Error(err))
			return false, nil
		}
		s.keysAt = time.Now()
		keys := KeysOf(out, token.RegistryIssuer)
		s.verifier.Store(token.NewVerifier(keys...))
		s.keys.Store(&keySet{keys: keys})
		return len(keys) > 0, nil
	})
	return got.(bool)
}

// apiKey finds out whose a key is. What the registry says is remembered; a key that is asked about by many at once is
// asked about once.
func (s *Sessions) apiKey(ctx context.Context, certified identity.Caller, key string) (identity.Caller, error) {
	hash := credential.HashOf(key)
	known, ok := s.apiKeys.Get(hash)
	if !ok {
		var err error
		if known, err = s.resolve(ctx, hash); err != nil {
			return identity.Caller{}, err
		}
	}
	if known.caller == nil || !known.caller.ExpiresAt.IsZero() && time.Now().After(known.caller.ExpiresAt) {
		return identity.Caller{}, notValid()
	}
	caller := *known.caller
	caller.Name = certified.Name
	return caller, nil
}

func (s *Sessions) resolve(ctx context.Context, hash credential.Hash) (*apiKey, error) {
	result := s.asking.DoChan(string(hash[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysPatience)
		defer cancel()
		out, err := s.routes.ResolveCredential(ctx, &registryv1.ResolveCredentialRequest{ApiKeyHash: hash[:]})
		if fault.HasReason(err, fault.CredentialsInvalid) {
			known := &apiKey{}
			s.apiKeys.Set(hash, known)
			return known, nil
		}
		if err != nil {
			return nil, fault.New(codes.Unavailable, fault.Unavailable, "the API key cannot be checked now").RetryIn(time.Second).Because(err)
		}
		known, err := apiKeyOf(out)
		if err != nil {
			return nil, err
		}
		s.apiKeys.Set(hash, known)
		return known, nil
	})
	select {
	case got := <-result:
		if got.Err != nil {
			return nil, got.Err
		}
		return got.Val.(*apiKey), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func notValid() error {
	return fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "the credential is not valid")
}
