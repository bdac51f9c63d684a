package session

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/token"
)

// keySet are the registry's keys.
type keySet struct {
	keys []token.Key
	old  bool // they were restored, and the registry did not answer since
}

// Keys are the registry's keys, as it last told them.
func (s *Sessions) Keys() *registryv1.GetJwksResponse {
	return &registryv1.GetJwksResponse{Keys: JSONWebKeys(s.keys.Load().keys, token.RegistryIssuer)}
}

// RestoreKeys has tokens verified with keys that the registry told earlier, until it tells others.
func (s *Sessions) RestoreKeys(set *registryv1.GetJwksResponse) {
	keys := KeysOf(set, token.RegistryIssuer)
	s.verifier.Store(token.NewVerifier(keys...))
	s.keys.Store(&keySet{keys: keys, old: true})
}

// KeysRestored tells whether tokens are verified with keys of earlier: one of them may have been withdrawn since.
func (s *Sessions) KeysRestored() bool { return s.keys.Load().old }

// EachRevoked calls f with each session and API key that works no more, and until when that is remembered, until f returns
// false.
func (s *Sessions) EachRevoked(f func(id uuid.UUID, until time.Time) bool) {
	now := time.Now()
	s.revoked.Range(func(id, until any) bool {
		return now.After(until.(time.Time)) || f(id.(uuid.UUID), until.(time.Time))
	})
}

// RestoreRevoked has a session or API key not work until a time.
func (s *Sessions) RestoreRevoked(id uuid.UUID, until time.Time) { s.revoked.Store(id, until) }

// EachAPIKey calls f with each API key that the registry said something of that still counts: its hash, whose it is, and
// until when, until f returns false.
func (s *Sessions) EachAPIKey(f func(hash credential.Hash, caller *registryv1.ResolveCredentialResponse, until time.Time) bool) {
	for hash, e := range s.apiKeys.All() {
		c := e.Value.caller
		if c == nil {
			continue
		}
		told := &registryv1.ResolveCredentialResponse{ApiKeyId: c.APIKeyID.String(), CompanyId: c.CompanyID.String(), Roles: c.Roles}
		if !c.ExpiresAt.IsZero() {
			told.ExpireTime = timestamppb.New(c.ExpiresAt)
		}
		if !f(hash, told, e.Until) {
			return
		}
	}
}

// RestoreAPIKey believes what the registry said of an API key until a time, at most as long as if it had said it now.
func (s *Sessions) RestoreAPIKey(hash []byte, caller *registryv1.ResolveCredentialResponse, until time.Time) error {
	known, err := apiKeyOf(caller)
	if err != nil {
		return err
	}
	if len(hash) != len(credential.Hash{}) {
		return fmt.Errorf("an API key's hash: got %d bytes, want %d", len(hash), len(credential.Hash{}))
	}
	if left := min(time.Until(until), knownLife); left > 0 {
		s.apiKeys.SetFor(credential.Hash(hash), known, left)
	}
	return nil
}

// Forget forgets whose API keys are, so that each is asked about anew.
func (s *Sessions) Forget() { s.apiKeys.Clear() }

// apiKeyOf is what the registry said of a key.
func apiKeyOf(told *registryv1.ResolveCredentialResponse) (*apiKey, error) {
	company, err := uuid.Parse(told.GetCompanyId())
	if err != nil {
		return nil, err
	}
	id, err := uuid.Parse(told.GetApiKeyId())
	if err != nil {
		return nil, err
	}
	caller := &identity.Caller{Kind: identity.APIKey, CompanyID: company, APIKeyID: id, Roles: told.GetRoles()}
	if told.GetExpireTime() != nil {
		caller.ExpiresAt = told.GetExpireTime().AsTime()
	}
	return &apiKey{caller}, nil
}
