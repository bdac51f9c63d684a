package atlascli_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
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

func TestACommandThatIsCutOffCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	cli, err := atlascli.New("")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "0001_a.sql"), []byte("CREATE TABLE a (id int);\nSELECT pg_terminate_backend(pg_backend_pid());"), 0o600))
	require.NoError(t, cli.Hash(t.Context(), dir))
	requireCutOff := func(err error, text string) {
		t.Helper()
		require.True(t, fault.HasReason(err, fault.AtlasCutOff) && fault.Retryable(err), "%v", err)
		require.ErrorContains(t, err, text, "the log tells how")
	}
	_, err = cli.Apply(t.Context(), pgtest.Database(t), dir, "")
	requireCutOff(err, "bad connection")
	_, err = cli.Lint(t.Context(), pgtest.Database(t), dir, 1)
	requireCutOff(err, "bad connection")

	away := "postgres://x:y@127.0.0.1:1/x?sslmode=disable"
	_, err = cli.Apply(t.Context(), away, dir, "")
	requireCutOff(err, "connection refused")
	_, err = cli.Status(t.Context(), away, dir, "")
	requireCutOff(err, "connection refused")
	_, err = cli.Lint(t.Context(), away, dir, 1)
	requireCutOff(err, "connection refused")
	_, err = cli.Diff(t.Context(), away, away)
	requireCutOff(err, "connection refused")

	killed := filepath.Join(t.TempDir(), "atlas")
	require.NoError(t, os.WriteFile(killed, []byte("#!/bin/sh\nkill -9 $$\n"), 0o700))
	dies, err := atlascli.New(killed)
	require.NoError(t, err)
	_, err = dies.Lint(t.Context(), away, dir, 1)
	requireCutOff(err, "killed")
	_, err = dies.Diff(t.Context(), away, away)
	requireCutOff(err, "killed")
	require.NoError(t, os.WriteFile(killed, []byte("no program"), 0o700))
	_, err = dies.Apply(t.Context(), away, dir, "")
	requireCutOff(err, "exec format error")
	_, err = dies.Lint(t.Context(), away, dir, 1)
	requireCutOff(err, "exec format error")

	given, giveUp := context.WithCancel(t.Context())
	giveUp()
	_, err = cli.Lint(given, away, dir, 1)
	require.ErrorIs(t, err, context.Canceled)
}

func TestAProgramThatIsNotThereIsSaidSo(t *testing.T) {
	t.Parallel()
	_, err := atlascli.New(filepath.Join(t.TempDir(), "atlas"))
	require.ErrorContains(t, err, "is no program")
}
