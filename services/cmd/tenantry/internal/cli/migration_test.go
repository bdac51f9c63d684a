package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	atlas "ariga.io/atlas/sql/migrate"
	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// parse reads a command line into a grammar.
func parse(t *testing.T, grammar any, args ...string) {
	t.Helper()
	parser, err := kong.New(grammar)
	require.NoError(t, err)
	_, err = parser.Parse(args)
	require.NoError(t, err)
}

func TestANewMigrationIsSealedAndSortsLast(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := command(t, nil, "migration", "new", "core", "Add  meter-owner!", "--migrations", dir)
	require.Equal(t, 0, got.code, got.problem)
	var made struct{ Set, Version, File string }
	require.NoError(t, json.Unmarshal([]byte(got.out), &made))
	require.Equal(t, filepath.Join(dir, "core", made.Version+"_add_meter_owner.sql"), made.File)

	set, err := atlas.NewLocalDir(filepath.Join(dir, "core"))
	require.NoError(t, err)
	require.NoError(t, atlas.Validate(set))

	again := command(t, nil, "migration", "new", "core", "another", "--migrations", dir)
	require.Equal(t, 0, again.code, again.problem)
	files, err := set.Files()
	require.NoError(t, err)
	require.Len(t, files, 2)
	require.Equal(t, "another", files[1].Desc(), "two files of one second must still have an order")
}

func TestANewMigrationIsRefusedBesideAChangedOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.Equal(t, 0, command(t, nil, "migration", "new", "core", "first", "--migrations", dir).code)
	files, err := filepath.Glob(filepath.Join(dir, "core", "*.sql"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0], []byte("SELECT 1;\n"), 0o600))

	got := command(t, nil, "migration", "new", "core", "second", "--migrations", dir)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.problem, "tenantry migration hash core")

	require.Equal(t, 0, command(t, nil, "migration", "hash", "--migrations", dir).code)
	require.Equal(t, 0, command(t, nil, "migration", "new", "core", "second", "--migrations", dir).code)
}

func TestHashTellsWhetherItChangedAnything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.Equal(t, 0, command(t, nil, "migration", "new", "plugin/spark-meter", "first", "--migrations", dir).code)
	got := command(t, nil, "migration", "hash", "plugins/spark-meter", "--migrations", dir)
	require.Contains(t, got.out, `"changed":false`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plugins", "spark-meter", "99999999999999_x.sql"), []byte("SELECT 1;\n"), 0o600))
	got = command(t, nil, "migration", "hash", "plugins/spark-meter", "--migrations", dir)
	require.Contains(t, got.out, `"changed":true`)
}

func TestTheNextVersionIsNeverBeforeTheNewest(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for newest, want := range map[string]string{
		"20261101000001": "20261124120000",
		"20261124120000": "20261124120001",
		"20301231235959": "20310101000000",
	} {
		dir := &atlas.MemDir{}
		require.NoError(t, dir.WriteFile(newest+"_x.sql", nil))
		got, err := nextVersion(dir, now)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	dir := &atlas.MemDir{}
	require.NoError(t, dir.WriteFile("V3_x.sql", nil))
	_, err := nextVersion(dir, now)
	require.Equal(t, exitUsage, exitCode(err))
}

func TestSetsAreNamedAsTheContractNamesThem(t *testing.T) {
	t.Parallel()
	f := setFlags{Migrations: "/m"}
	for name, want := range map[string]migrationSet{
		"core":                {"core", "/m/core"},
		"plugins/spark-meter": {"plugins/spark-meter", "/m/plugins/spark-meter"},
		"plugin/spark-meter":  {"plugins/spark-meter", "/m/plugins/spark-meter"},
	} {
		got, err := f.set(name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, name := range []string{"", "other", "plugins/", "plugins/../core", "plugins/a/b", "plugin/Spark"} {
		_, err := f.set(name)
		require.Equal(t, exitUsage, exitCode(err), name)
	}
	got, err := setFlags{}.set("central")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(got.dir, "atlas.sum"))
}

func TestAKeyIsNeverWrittenOver(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	for _, kind := range []string{"signing", "master"} {
		require.NoError(t, os.RemoveAll(file))
		require.Equal(t, 0, command(t, nil, "key", "new", kind, file).code)
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		before, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, exitUsage, command(t, nil, "key", "new", kind, file).code)
		after, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
}

func TestACertificateIsIssuedForItsHosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := command(t, nil, "certificate", "issue", "upstream/readings", "--host", "localhost", "--dir", dir)
	require.Equal(t, 0, got.code, got.problem)
	var files struct{ CA, Cert, Key string }
	require.NoError(t, json.Unmarshal([]byte(got.out), &files))
	require.FileExists(t, files.CA)
	require.Equal(t, filepath.Join(dir, "upstream-readings.pem"), files.Cert)
	require.FileExists(t, files.Key)
	require.Equal(t, exitUsage, command(t, nil, "certificate", "issue", "nobody", "--dir", dir).code)
}

func TestADirectoryOfAnotherToolIsNotSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	core := filepath.Join(dir, "core")
	require.NoError(t, os.Mkdir(core, 0o700))
	for _, file := range []string{"1_meters.up.sql", "1_meters.down.sql"} {
		require.NoError(t, os.WriteFile(filepath.Join(core, file), []byte("SELECT 1;\n"), 0o600))
	}
	for _, args := range [][]string{{"migration", "hash", "core"}, {"migration", "new", "core", "more"}} {
		got := command(t, nil, append(args, "--migrations", dir)...)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.problem, "not in Atlas's format")
	}
	entries, err := os.ReadDir(core)
	require.NoError(t, err)
	require.Len(t, entries, 2)
}
