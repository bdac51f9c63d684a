package credential_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestAPasswordMatchesItsHashAndNothingElse(t *testing.T) {
	t.Parallel()
	h, err := credential.NewHasher()
	require.NoError(t, err)
	hash, err := h.Hash(t.Context(), "correct horse")
	require.NoError(t, err)
	require.Contains(t, hash, "$argon2id$v=19$m=19456,t=2,p=1$")
	for password, hashed := range map[string]string{"correct horse": hash, "Correct horse": hash, "a password that nobody has": ""} {
		ok, err := h.Matches(t.Context(), password, hashed)
		require.NoError(t, err)
		require.Equal(t, password == "correct horse", ok, password)
	}
	_, err = h.Matches(t.Context(), "x", "not a hash")
	require.Error(t, err)
}

func TestAPIKeysAreRecognisedAndNeverAlike(t *testing.T) {
	t.Parallel()
	a, b := credential.NewAPIKey(), credential.NewAPIKey()
	require.NotEqual(t, a.Key, b.Key)
	require.Regexp(t, `^tny_[a-z2-7]{8}_[a-z2-7]{40}$`, a.Key)
	require.Equal(t, a.Key[:12], a.Prefix)
	require.Equal(t, credential.HashOf(a.Key), a.Hash)
	require.True(t, credential.IsAPIKey(a.Key))
	require.False(t, credential.IsAPIKey("eyJhbGciOi"))
	first, second := credential.NewRefreshToken(), credential.NewRefreshToken()
	require.NotEqual(t, first, second)
}

func TestARolesPasswordFollowsFromKeyDatabaseAndVersion(t *testing.T) {
	t.Parallel()
	key, id := credential.NewMasterKey(), uuid.New()
	path := filepath.Join(t.TempDir(), "master.key")
	require.NoError(t, os.WriteFile(path, []byte(key.Hex()+"\n"), 0o600))
	loaded, err := credential.LoadMasterKey(path)
	require.NoError(t, err)

	password := derive(t, key, id, 1)
	require.Equal(t, password, derive(t, loaded, id, 1))
	require.NotEqual(t, password, derive(t, key, id, 2))
	require.NotEqual(t, password, derive(t, key, uuid.New(), 1))
	require.NotEqual(t, password, derive(t, credential.NewMasterKey(), id, 1))
	require.NotContains(t, fmt.Sprintf("%v %s", key, key), key.Hex())

	require.NoError(t, os.WriteFile(path, []byte("abc"), 0o600))
	_, err = credential.LoadMasterKey(path)
	require.ErrorContains(t, err, "64 hex digits")
	_, err = credential.MasterKey{}.RolePassword(id, 1)
	require.Error(t, err)
}

func TestTheKeyOfASealFollowsFromKeyAndKind(t *testing.T) {
	t.Parallel()
	master := credential.NewMasterKey()
	routes, err := master.SealKey("routes")
	require.NoError(t, err)
	require.Len(t, routes, 32)
	again, err := master.SealKey("routes")
	require.NoError(t, err)
	require.Equal(t, routes, again)
	lease, err := master.SealKey("lease")
	require.NoError(t, err)
	require.NotEqual(t, routes, lease)
	other, err := credential.NewMasterKey().SealKey("routes")
	require.NoError(t, err)
	require.NotEqual(t, routes, other)
	_, err = credential.MasterKey{}.SealKey("routes")
	require.Error(t, err)
}

func TestPostgreSQLLetsARoleInByItsVerifier(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	admin, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer admin.Close(t.Context())
	password := derive(t, credential.NewMasterKey(), uuid.New(), 1)
	verifier, err := credential.SCRAMVerifier(password)
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), fmt.Sprintf("CREATE ROLE by_verifier LOGIN PASSWORD '%s'", verifier))
	require.NoError(t, err)
	defer admin.Exec(t.Context(), "DROP ROLE by_verifier")

	cfg, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	cfg.User, cfg.Password = "by_verifier", password
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	cfg.Password = password + "x"
	_, err = pgx.ConnectConfig(t.Context(), cfg)
	require.ErrorContains(t, err, "28P01")
}

func derive(t *testing.T, key credential.MasterKey, id uuid.UUID, version int32) string {
	t.Helper()
	password, err := key.RolePassword(id, version)
	require.NoError(t, err)
	return password
}
