package session_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

func TestWhatIsKnownOfCredentialsCanBeRestoredWithoutTheRegistry(t *testing.T) {
	t.Parallel()
	f := start(t)
	key, ending, unknown := credential.NewAPIKey(), credential.NewAPIKey(), credential.NewAPIKey()
	f.registry.apiKeys[key.Hash] = &registryv1.ResolveCredentialResponse{ApiKeyId: uuid.NewString(), CompanyId: uuid.NewString(), Roles: []string{"user", "admin"}}
	f.registry.apiKeys[ending.Hash] = &registryv1.ResolveCredentialResponse{ApiKeyId: uuid.NewString(), CompanyId: uuid.NewString(), ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}
	good, ended := claims(), claims()
	var want []identity.Caller
	for _, bearer := range []string{f.sign(good), key.Key, ending.Key} {
		c, err := f.bearer(bearer)
		require.NoError(t, err)
		want = append(want, c)
	}
	_, err := f.bearer(unknown.Key)
	requireReason(t, err, fault.CredentialsInvalid)
	f.sessions.Revoke([]uuid.UUID{ended.SessionID, uuid.New()}, nil, time.Now().Add(time.Minute))
	f.sessions.Revoke([]uuid.UUID{uuid.New()}, nil, time.Now().Add(-time.Minute))

	again := start(t)
	again.access = f.access
	again.registry.away = true
	require.False(t, again.sessions.KeysRestored())
	again.sessions.RestoreKeys(f.sessions.Keys())
	require.True(t, again.sessions.KeysRestored())
	require.True(t, proto.Equal(f.sessions.Keys(), again.sessions.Keys()))
	revoked, keys := 0, 0
	f.sessions.EachRevoked(func(id uuid.UUID, until time.Time) bool {
		revoked++
		again.sessions.RestoreRevoked(id, until)
		return true
	})
	require.Equal(t, 2, revoked, "those that are to be remembered")
	f.sessions.EachAPIKey(func(hash credential.Hash, caller *registryv1.ResolveCredentialResponse, until time.Time) bool {
		keys++
		left := time.Until(until)
		require.Greater(t, left, 3*time.Minute)
		require.LessOrEqual(t, left, 5*time.Minute)
		require.NoError(t, again.sessions.RestoreAPIKey(hash[:], caller, until))
		return true
	})
	require.Equal(t, 2, keys, "those that are somebody's")
	for i, bearer := range []string{f.sign(good), key.Key, ending.Key} {
		c, err := again.bearer(bearer)
		require.NoError(t, err)
		require.Equal(t, want[i], c)
	}
	_, err = again.bearer(f.sign(ended))
	requireReason(t, err, fault.CredentialsInvalid)
	require.Zero(t, again.registry.asked.Load())

	// The registry is back, and has other keys.
	again.registry.mu.Lock()
	again.registry.away, again.registry.keys = false, signer(t).Keys()
	again.registry.mu.Unlock()
	require.True(t, again.sessions.LoadKeys(t.Context()))
	require.False(t, again.sessions.KeysRestored())
	_, err = again.bearer(f.sign(good))
	requireReason(t, err, fault.CredentialsInvalid)
	again.sessions.Forget()
	_, err = again.bearer(key.Key)
	requireReason(t, err, fault.CredentialsInvalid)
	require.EqualValues(t, 1, again.registry.asked.Load(), "it is asked about anew")
}

func TestARestoredAPIKeyIsBelievedNoLongerThanItWouldHaveBeen(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.registry.away = true
	key := credential.NewAPIKey()
	caller := &registryv1.ResolveCredentialResponse{ApiKeyId: uuid.NewString(), CompanyId: uuid.NewString()}
	require.NoError(t, f.sessions.RestoreAPIKey(key.Hash[:], caller, time.Now().Add(-time.Second)))
	_, err := f.bearer(key.Key)
	requireReason(t, err, fault.Unavailable)
	require.NoError(t, f.sessions.RestoreAPIKey(key.Hash[:], caller, time.Now().Add(24*time.Hour)))
	f.sessions.EachAPIKey(func(_ credential.Hash, _ *registryv1.ResolveCredentialResponse, until time.Time) bool {
		require.LessOrEqual(t, time.Until(until), 5*time.Minute)
		return true
	})
	_, err = f.bearer(key.Key)
	require.NoError(t, err)
	require.Error(t, f.sessions.RestoreAPIKey([]byte{1}, caller, time.Now().Add(time.Minute)))
	require.Error(t, f.sessions.RestoreAPIKey(key.Hash[:], &registryv1.ResolveCredentialResponse{}, time.Now().Add(time.Minute)))
}
