package cli

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pki"
)

// keep writes a copy with what says what it is of.
func keep(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sun.dump")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	about, err := os.Create(path + manifestSuffix)
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(content))
	require.NoError(t, writeManifest(about, &provisionerv1.BackupManifest{Slug: "sun"}, &provisionerv1.BackupTrailer{Bytes: int64(len(content)), Sha256: sum[:]}))
	require.NoError(t, about.Close())
	return path
}

func TestADamagedCopyIsRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	authority, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	files, err := authority.Issue("operator/zoe")
	require.NoError(t, err)
	nobody := map[string]string{"TENANTRY_PROVISIONER": "127.0.0.1:1", "TENANTRY_CA": authority.CA(), "TENANTRY_OPERATOR_CERT": files.Cert, "TENANTRY_OPERATOR_KEY": files.Key}
	path := keep(t, "all of it")
	require.Equal(t, exitUnreachable, command(t, nobody, "tenant", "restore", "sun", path).code, "a whole one is on its way")
	for content, field := range map[string]string{"all of": "trailer.bytes", "": "trailer.bytes", "all of it, and more": "trailer.bytes", "all of us": "trailer.sha256"} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		got := command(t, nobody, "tenant", "restore", "sun", path, "--json")
		require.Equal(t, exitRefused, got.code, "%q: %s", content, got.problem)
		var failed struct{ Error failure }
		require.NoError(t, json.Unmarshal([]byte(got.problem), &failed))
		require.Equal(t, fault.BackupInvalid, failed.Error.Reason)
		require.Equal(t, "INVALID_ARGUMENT", failed.Error.Code)
		require.Len(t, failed.Error.Fields, 1)
		require.Equal(t, field, failed.Error.Fields[0].Field, "%q", content)
		require.Contains(t, failed.Error.Message, path)
	}
}

func TestACheckedCopyIsReadFromItsBeginning(t *testing.T) {
	t.Parallel()
	path := keep(t, "all of it")
	_, trailer, err := readManifest(path + manifestSuffix)
	require.NoError(t, err)
	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	require.NoError(t, checkCopy(t.Context(), file, trailer))
	var sent []byte
	require.NoError(t, sendCopy(func(m *provisionerv1.RestoreTenantRequest) error { sent = append(sent, m.GetData()...); return nil }, file, &provisionerv1.RestoreStart{}, trailer))
	require.Equal(t, "all of it", string(sent))

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, checkCopy(ended, file, trailer), context.Canceled)
}
