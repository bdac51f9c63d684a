package migrate_test

import (
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

// history is a set of n small files.
func history(b *testing.B, n int) *migrate.Set {
	b.Helper()
	tree := fstest.MapFS{}
	for i := range n {
		tree[fmt.Sprintf("%04d_file.up.sql", i+1)] = &fstest.MapFile{Data: fmt.Appendf(nil, "CREATE TABLE t%d (id int PRIMARY KEY, v text);\nCREATE INDEX ON t%d (v);", i, i)}
	}
	s, err := migrate.Load(tree, "core")
	require.NoError(b, err)
	return s
}

// BenchmarkUpToDate finds out that nothing is left of 13 files, beside the Atlas CLI doing the same. A connection is
// made each time, as in a fleet.
func BenchmarkUpToDate(b *testing.B) {
	s, dsn, dir := history(b, 13), pgtest.Database(b), b.TempDir()
	require.NoError(b, s.WriteTo(dir))
	engine := func(b *testing.B) {
		b.Helper()
		conn, err := pgx.Connect(b.Context(), dsn)
		require.NoError(b, err)
		_, err = migrate.Apply(b.Context(), conn, s, migrate.Options{})
		require.NoError(b, err)
		require.NoError(b, conn.Close(b.Context()))
	}
	engine(b)
	b.Run("engine", func(b *testing.B) {
		for b.Loop() {
			engine(b)
		}
	})
	b.Run("cli", func(b *testing.B) {
		cli, err := atlascli.New("")
		require.NoError(b, err)
		for b.Loop() {
			_, err := cli.Apply(b.Context(), dsn, dir, "")
			require.NoError(b, err)
		}
	})
}

// BenchmarkTwoFiles applies two small files to a database that has 13, beside the Atlas CLI doing the same, and beside a
// bare loop over pgx with the same transactions and no revisions.
func BenchmarkTwoFiles(b *testing.B) {
	before, after, dir := history(b, 13), history(b, 15), b.TempDir()
	require.NoError(b, after.WriteTo(dir))
	fresh := func(b *testing.B) string {
		b.Helper()
		dsn := pgtest.Database(b)
		conn, err := pgx.Connect(b.Context(), dsn)
		require.NoError(b, err)
		_, err = migrate.Apply(b.Context(), conn, before, migrate.Options{})
		require.NoError(b, err)
		require.NoError(b, conn.Close(b.Context()))
		return dsn
	}
	each := func(name string, apply func(b *testing.B, dsn string)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dsn := fresh(b)
				b.StartTimer()
				apply(b, dsn)
			}
		})
	}
	each("engine", func(b *testing.B, dsn string) {
		b.Helper()
		conn, err := pgx.Connect(b.Context(), dsn)
		require.NoError(b, err)
		_, err = migrate.Apply(b.Context(), conn, after, migrate.Options{})
		require.NoError(b, err)
		require.NoError(b, conn.Close(b.Context()))
	})
	each("pgx", func(b *testing.B, dsn string) {
		b.Helper()
		conn, err := pgx.Connect(b.Context(), dsn)
		require.NoError(b, err)
		for i := 13; i < 15; i++ {
			_, err = conn.Exec(b.Context(), fmt.Sprintf("BEGIN; CREATE TABLE t%d (id int PRIMARY KEY, v text); CREATE INDEX ON t%d (v); COMMIT", i, i))
			require.NoError(b, err)
		}
		require.NoError(b, conn.Close(b.Context()))
	})
	each("cli", func(b *testing.B, dsn string) {
		b.Helper()
		cli, err := atlascli.New("")
		require.NoError(b, err)
		_, err = cli.Apply(b.Context(), dsn, dir, "")
		require.NoError(b, err)
	})
}
