package migrations_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/provisioner/migrations"
)

// atlas runs the CLI, and returns what it printed.
func atlas(t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary, err := atlascli.Find()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "ATLAS_NO_UPDATE_NOTIFIER=true")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sets lists the migration sets: core, then the plugins'.
func sets(t *testing.T) []string {
	t.Helper()
	plugins, err := fs.Glob(migrations.FS(), "plugins/*")
	require.NoError(t, err)
	return append([]string{"core"}, plugins...)
}

// export writes a set to disk, as it is embedded, and returns its URL.
func export(t *testing.T, set string) string {
	t.Helper()
	dir := t.TempDir()
	sub, err := fs.Sub(migrations.FS(), set)
	require.NoError(t, err)
	require.NoError(t, os.CopyFS(dir, sub))
	return "file://" + dir
}

// apply brings a database to a set's newest version.
func apply(t *testing.T, dsn, set string) {
	t.Helper()
	args := []string{"migrate", "apply", "--dir", export(t, set), "--url", dsn}
	if set != "core" {
		// The CLI wants to begin with an empty database unless told otherwise, and core is there already.
		args = append(args, "--allow-dirty", "--revisions-schema", revisions(set))
	}
	out, err := atlas(t, args...)
	require.NoError(t, err, out)
}

func revisions(set string) string {
	return "atlas_plugin_" + strings.ReplaceAll(path.Base(set), "-", "_")
}

// tenant makes a database with these sets.
func tenant(t *testing.T, sets ...string) string {
	t.Helper()
	dsn := pgtest.Database(t)
	for _, set := range sets {
		apply(t, dsn, set)
	}
	return dsn
}
