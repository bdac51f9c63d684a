package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// write adds a file to a set and seals it.
func write(t *testing.T, migrations, set, file, sql string) {
	t.Helper()
	path := filepath.Join(migrations, filepath.FromSlash(set), file)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(sql), 0o600))
	require.Equal(t, 0, command(t, nil, "migration", "hash", set, "--migrations", migrations).code)
}

func lintFindings(t *testing.T, got output) []finding {
	t.Helper()
	var all []finding
	for line := range strings.Lines(got.out) {
		var f finding
		require.NoError(t, json.Unmarshal([]byte(line), &f), got.problem)
		all = append(all, f)
	}
	return all
}

func TestLintTellsWhatDestroysDataAndWhatDoesNotApply(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "core", "1_meters.sql", "CREATE TABLE meters (id bigint PRIMARY KEY);\nCREATE TABLE old (id int);\n")
	// A plugin's versions may be core's, and its tables refer to core's.
	write(t, dir, "plugins/spark", "1_spark.sql", "CREATE TABLE spark (meter_id bigint REFERENCES meters (id));\n")
	got := command(t, nil, "migration", "lint", "--migrations", dir)
	require.Equal(t, 0, got.code, got.problem)
	require.Empty(t, got.out)

	write(t, dir, "core", "2_drop.sql", "-- it is not used\n\nDROP TABLE old;\n")
	write(t, dir, "plugins/spark", "2_more.sql", "ALTER TABLE nothing ADD COLUMN x int;\n")
	got = command(t, nil, "migration", "lint", "--migrations", dir)
	require.Equal(t, exitRefused, got.code)
	found := lintFindings(t, got)
	require.Len(t, found, 2, got.out)
	require.Equal(t, finding{Set: "core", File: "2_drop.sql", Line: 3, Code: "DS102", Text: `Dropping table "old"`, Wrong: true}, found[0])
	require.Equal(t, "plugins/spark", found[1].Set)
	require.Equal(t, "2_more.sql", found[1].File)
	require.Contains(t, found[1].Text, `relation "nothing" does not exist`)
	require.True(t, found[1].Wrong)
}

func TestLintsAdviceDoesNotFail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "core", "1_meters.sql", "CREATE TABLE meters (id bigint PRIMARY KEY);\n")
	write(t, dir, "core", "2_owner.sql", "ALTER TABLE meters ADD COLUMN owner text NOT NULL;\n")
	got := command(t, nil, "migration", "lint", "core", "--migrations", dir, "--latest", "1")
	require.Equal(t, 0, got.code, got.problem)
	found := lintFindings(t, got)
	require.Len(t, found, 1)
	require.False(t, found[0].Wrong)
}

func TestLintStopsAChangedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "core", "1_meters.sql", "CREATE TABLE meters (id bigint PRIMARY KEY);\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "core", "1_meters.sql"), []byte("SELECT 1;\n"), 0o600))
	got := command(t, nil, "migration", "lint", "core", "--migrations", dir)
	require.Equal(t, exitRefused, got.code)
	require.Contains(t, got.out, "since atlas.sum was written")
}
