package token_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/token"
)

func claims(ends time.Duration) token.Claims {
	return token.Claims{
		CompanyID: uuid.New(), UserID: uuid.New(), SessionID: uuid.New(), Roles: []string{"admin", "user"},
		ExpiresAt: time.Now().Add(ends).Truncate(time.Second),
	}
}

func TestATokenSaysWhatItsSignerSaid(t *testing.T) {
	t.Parallel()
	s := signer(t)
	want := claims(time.Minute)
	access, err := s.SignAccess(want)
	require.NoError(t, err)
	got, err := token.NewVerifier(s.Keys()...).VerifyAccess(access)
	require.NoError(t, err)
	require.True(t, want.ExpiresAt.Equal(got.ExpiresAt))
	want.ExpiresAt = got.ExpiresAt
	require.Equal(t, want, got)
}

func TestNeitherKindOfTokenPassesForTheOther(t *testing.T) {
	t.Parallel()
	s := signer(t)
	v := token.NewVerifier(s.Keys()...)
	access, err := s.SignAccess(claims(time.Minute))
	require.NoError(t, err)
	assertion, err := s.SignAssertion(claims(time.Minute), token.AccessAudience)
	require.NoError(t, err)
	refused(t, fault.CredentialsInvalid)(v.VerifyAssertion(access, token.AccessAudience))
	refused(t, fault.CredentialsInvalid)(v.VerifyAccess(assertion))
	refused(t, fault.CredentialsInvalid)(v.VerifyAssertion(assertion, "upstream/other"))
	_, err = v.VerifyAssertion(assertion, token.AccessAudience)
	require.NoError(t, err)
}

func TestAForgedOrEndedTokenIsRefused(t *testing.T) {
	t.Parallel()
	s := signer(t)
	v := token.NewVerifier(s.Keys()...)
	ended, err := s.SignAccess(claims(-time.Minute))
	require.NoError(t, err)
	refused(t, fault.TokenExpired)(v.VerifyAccess(ended))

	good, err := s.SignAccess(claims(time.Minute))
	require.NoError(t, err)
	for i := range good {
		// The last character of a part carries bits that mean nothing; decoders refuse or ignore them. Skip none: a
		// change that decodes to the same bytes must still verify as the same claims.
		forged := []byte(good)
		forged[i] ^= 1
		if c, err := v.VerifyAccess(string(forged)); err == nil {
			same, err := v.VerifyAccess(good)
			require.NoError(t, err)
			require.Equal(t, same, c)
		}
	}

	_, err = token.NewVerifier(signer(t).Keys()...).VerifyAccess(good)
	require.ErrorIs(t, err, token.ErrUnknownKey)

	// The public key as an HMAC secret, and no signature at all.
	payload := jwt.MapClaims{"iss": token.RegistryIssuer, "aud": token.AccessAudience, "company": uuid.NewString(), "exp": time.Now().Add(time.Hour).Unix()}
	for method, key := range map[jwt.SigningMethod]any{jwt.SigningMethodHS256: []byte(s.Keys()[0].Public), jwt.SigningMethodNone: jwt.UnsafeAllowNoneSignatureType} {
		forged := jwt.NewWithClaims(method, payload)
		forged.Header["kid"], forged.Header["typ"] = s.Keys()[0].ID, "at+jwt"
		text, err := forged.SignedString(key)
		require.NoError(t, err)
		refused(t, fault.CredentialsInvalid)(v.VerifyAccess(text))
	}
}

func TestKeysAreLoadedInOrderAndTheFirstSigns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var paths []string
	for _, name := range []string{"new.pem", "old.pem"} {
		text, err := signer(t).PEM()
		require.NoError(t, err)
		paths = append(paths, filepath.Join(dir, name))
		require.NoError(t, os.WriteFile(paths[len(paths)-1], text, 0o600))
	}
	both, err := token.LoadSigner(paths...)
	require.NoError(t, err)
	require.Len(t, both.Keys(), 2)
	first, err := token.LoadSigner(paths[0])
	require.NoError(t, err)
	signed, err := both.SignAccess(claims(time.Minute))
	require.NoError(t, err)
	_, err = token.NewVerifier(first.Keys()...).VerifyAccess(signed)
	require.NoError(t, err)

	_, err = token.LoadSigner()
	require.Error(t, err)
	_, err = token.LoadSigner(filepath.Join(dir, "none.pem"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAKeysIDIsItsThumbprint(t *testing.T) {
	t.Parallel()
	// RFC 8037, appendix A.3.
	public, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	require.NoError(t, err)
	require.Equal(t, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", token.NewKey(ed25519.PublicKey(public)).ID)
}

func signer(t *testing.T) *token.Signer {
	t.Helper()
	s, err := token.NewSigner()
	require.NoError(t, err)
	return s
}

func refused(t *testing.T, reason string) func(token.Claims, error) {
	t.Helper()
	return func(_ token.Claims, err error) {
		t.Helper()
		require.True(t, fault.HasReason(err, reason), "got %v, want %s", err, reason)
	}
}
