package migrate_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// set makes a set of files in Atlas's form, in order, with the sum that belongs to them.
func set(t *testing.T, files ...string) *migrate.Set {
	t.Helper()
	dir := t.TempDir()
	tree := fstest.MapFS{}
	for i, text := range files {
		tree[fmt.Sprintf("%04d_file.up.sql", i+1)] = &fstest.MapFile{Data: []byte(text)}
	}
	// The other formats need no sum, and become Atlas's.
	s, err := migrate.Load(tree, "core")
	require.NoError(t, err)
	require.NoError(t, s.WriteTo(dir))
	return s
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func texts(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return out
}

// requireStatus asks the real CLI.
func requireStatus(t *testing.T, dsn string, s *migrate.Set, revisionsSchema string, want atlascli.Status) {
	t.Helper()
	cli, err := atlascli.New("")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, s.WriteTo(dir))
	got, err := cli.Status(t.Context(), dsn, dir, revisionsSchema)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestASetIsAppliedOnceAndTheCLISaysOK(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	s := set(t, "CREATE TABLE a (id int); CREATE TABLE b (id int);", "CREATE TABLE c (t text DEFAULT 'a;b''c\\');", "ALTER TABLE a ADD x int;")
	for range 2 {
		got, err := migrate.Status(t.Context(), conn, s, "")
		require.NoError(t, err)
		require.Equal(t, "00000003", got.To)
		require.Empty(t, got.From)
		require.Len(t, got.Pending, 3)
	}
	got, err := migrate.Apply(t.Context(), conn, s, migrate.Options{ToVersion: "00000002"})
	require.NoError(t, err)
	require.Equal(t, "00000002", got.To)
	require.Len(t, got.Applied, 2)
	require.Len(t, got.Pending, 1)
	requireStatus(t, dsn, s, "", atlascli.Status{Current: "00000002", Pending: 1})
	got, err = migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.NoError(t, err)
	require.Equal(t, "00000002", got.From)
	require.Equal(t, "00000003", got.To)
	require.Positive(t, got.Applied[0].Duration)
	requireStatus(t, dsn, s, "", atlascli.Status{OK: true, Current: "00000003"})
	got, err = migrate.Apply(t.Context(), conn, s, migrate.Options{})
	require.NoError(t, err)
	require.Empty(t, got.Applied)
	require.Equal(t, "00000003", got.From)
	require.Equal(t, []string{"0"}, texts(t, conn, "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"))
	require.Equal(t, []string{"0"}, texts(t, conn, "SHOW lock_timeout"))
	_, err = migrate.Apply(t.Context(), conn, s, migrate.Options{ToVersion: "00000009"})
	require.True(t, fault.HasReason(err, fault.VersionNotFound), "%v", err)
}

func TestTheCLIGoesOnWhereTheEngineStoppedAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	cli, err := atlascli.New("")
	require.NoError(t, err)
	one := set(t, "CREATE TABLE a (id int);")
	two := set(t, "CREATE TABLE a (id int);", "CREATE TABLE b (id int);")
	three := set(t, "CREATE TABLE a (id int);", "CREATE TABLE b (id int);", "CREATE TABLE c (id int);")
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	apply := func(s *migrate.Set) {
		dir := t.TempDir()
		require.NoError(t, s.WriteTo(dir))
		version, err := cli.Apply(t.Context(), dsn, dir, "")
		require.NoError(t, err)
		require.Equal(t, s.Latest(), version)
	}
	apply(one)
	got, err := migrate.Apply(t.Context(), conn, two, migrate.Options{})
	require.NoError(t, err)
	require.Len(t, got.Applied, 1)
	require.Equal(t, "00000001", got.From)
	apply(three)
	got, err = migrate.Apply(t.Context(), conn, three, migrate.Options{})
	require.NoError(t, err)
	require.Empty(t, got.Applied)
	require.Equal(t, []string{"a", "b", "c"}, texts(t, conn, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"))
}

func TestSetsWithASchemaOfTheirOwnForRevisionsDoNotMeet(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	core, plugin := set(t, "CREATE TABLE a (id int);"), set(t, "CREATE TABLE p (id int);")
	_, err := migrate.Apply(t.Context(), conn, core, migrate.Options{})
	require.NoError(t, err)
	schema := migrate.Revisions("calin-meter")
	require.Equal(t, "atlas_plugin_calin_meter", schema)
	got, err := migrate.Apply(t.Context(), conn, plugin, migrate.Options{RevisionsSchema: schema})
	require.NoError(t, err)
	require.Len(t, got.Applied, 1)
	requireStatus(t, dsn, core, "", atlascli.Status{OK: true, Current: "00000001"})
	requireStatus(t, dsn, plugin, schema, atlascli.Status{OK: true, Current: "00000001"})
}

func TestAFailingStatementLeavesTheLastWholeFileAndIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ bad, sqlstate, position string }{
		"unknown column": {"SELECT nothing FROM a", "42703", "8"},
		"syntax":         {"CREATE TABEL x ()", "42601", "8"},
		"no position":    {"CREATE TABLE a (id int)", "42P07", ""},
		"at the end":     {"ALTER TABLE a ADD CONSTRAINT c CHECK (id > 5)", "23514", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Database(t)
			conn := connect(t, dsn)
			s := set(t, "CREATE TABLE a (id int); INSERT INTO a VALUES (1);",
				"CREATE TABLE b (t text DEFAULT 'é;');\n-- a comment\nSELECT 1; "+c.bad+"; CREATE TABLE z (id int);", "CREATE TABLE c (id int);")
			got, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
			require.True(t, fault.HasReason(err, fault.MigrationFailed), "%v", err)
			f := fault.From(err)
			require.Equal(t, "core", f.Metadata["set"])
			require.Equal(t, "00000002_file.sql", f.Metadata["file"])
			require.Equal(t, c.bad, strings.TrimSuffix(f.Metadata["statement"], ";"))
			require.Equal(t, c.sqlstate, f.Metadata["sqlstate"])
			require.Equal(t, c.position, f.Metadata["position"])
			require.Equal(t, "00000001", got.To)
			require.Len(t, got.Applied, 1)
			require.Len(t, got.Pending, 2)
			require.Equal(t, []string{"a"}, texts(t, conn, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"))
			requireStatus(t, dsn, s, "", atlascli.Status{Current: "00000001", Pending: 2})
		})
	}
}

func TestHistoryThatTheSetDoesNotHaveIsRefusedBeforeAnythingIsApplied(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	tree := func(files ...string) *migrate.Set {
		m := fstest.MapFS{}
		for _, f := range files {
			name, text, _ := strings.Cut(f, "=")
			m[name+"_f.up.sql"] = &fstest.MapFile{Data: []byte(text)}
		}
		s, err := migrate.Load(m, "core")
		require.NoError(t, err)
		return s
	}
	released := tree("00000001=CREATE TABLE a (id int);", "00000003=CREATE TABLE c (id int);")
	_, err := migrate.Apply(t.Context(), conn, released, migrate.Options{})
	require.NoError(t, err)
	for reason, s := range map[string]*migrate.Set{
		fault.ChecksumMismatch: tree("00000001=CREATE TABLE a (id bigint);", "00000003=CREATE TABLE c (id int);", "00000004=CREATE TABLE d ();"),
		fault.HistoryNotLinear: tree("00000001=CREATE TABLE a (id int);", "00000002=CREATE TABLE b ();", "00000003=CREATE TABLE c (id int);", "00000004=CREATE TABLE d ();"),
	} {
		_, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
		require.True(t, fault.HasReason(err, reason), "%v", err)
		require.NotEmpty(t, fault.From(err).Metadata["file"])
		require.NotEmpty(t, migrate.FirstChange(released, s))
	}
	_, err = migrate.Apply(t.Context(), conn, tree("00000003=CREATE TABLE c (id int);", "00000004=CREATE TABLE d ();"), migrate.Options{})
	require.True(t, fault.HasReason(err, fault.HistoryNotLinear), "%v", err)
	require.Equal(t, []string{"a", "c"}, texts(t, conn, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"))

	older := tree("00000001=CREATE TABLE a (id int);")
	require.Empty(t, migrate.FirstChange(older, released))
	got, err := migrate.Apply(t.Context(), conn, older, migrate.Options{})
	require.NoError(t, err, "a database that is ahead of the set is left alone")
	require.Equal(t, "00000003", got.To)
}
