package atlascli_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestADirectoryIsHashedAppliedAndReported(t *testing.T) {
	t.Parallel()
	cli, err := atlascli.New("")
	require.NoError(t, err)
	dir, dsn := t.TempDir(), pgtest.Database(t)
	file := filepath.Join(dir, "0001_a.sql")
	require.NoError(t, os.WriteFile(file, []byte("CREATE TABLE a (id int);"), 0o600))
	_, err = cli.Apply(t.Context(), dsn, dir, "")
	require.ErrorContains(t, err, "checksum")
	require.NoError(t, cli.Hash(t.Context(), dir))
	got, err := cli.Status(t.Context(), dsn, dir, "")
	require.NoError(t, err)
	require.Equal(t, atlascli.Status{Pending: 1}, got)
	for range 2 {
		version, err := cli.Apply(t.Context(), dsn, dir, "")
		require.NoError(t, err)
		require.Equal(t, "0001", version)
	}
	got, err = cli.Status(t.Context(), dsn, dir, "")
	require.NoError(t, err)
	require.Equal(t, atlascli.Status{OK: true, Current: "0001"}, got)
}

func TestAProgramThatIsNotThereIsSaidSo(t *testing.T) {
	t.Parallel()
	_, err := atlascli.New(filepath.Join(t.TempDir(), "atlas"))
	require.ErrorContains(t, err, "is no program")
}
