package lint_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	atlas "ariga.io/atlas/sql/migrate"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/lint"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/scratch"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// tree is made of files such as `core/1_a.sql`.
func tree(t *testing.T, files map[string]string) *migrate.Tree {
	t.Helper()
	fsys := fstest.MapFS{"core": {Mode: os.ModeDir}}
	sets := map[string]*atlas.MemDir{"core": {}}
	for path, sql := range files {
		set, file := path[:strings.LastIndex(path, "/")], path[strings.LastIndex(path, "/")+1:]
		if sets[set] == nil {
			sets[set] = &atlas.MemDir{}
		}
		require.NoError(t, sets[set].WriteFile(file, []byte(sql)))
		fsys[path] = &fstest.MapFile{Data: []byte(sql)}
	}
	for set, dir := range sets {
		sum, err := dir.Checksum()
		require.NoError(t, err)
		text, err := sum.MarshalText()
		require.NoError(t, err)
		fsys[set+"/"+migrate.SumFile] = &fstest.MapFile{Data: text}
	}
	loaded, err := migrate.LoadTree(fsys)
	require.NoError(t, err)
	return loaded
}

func serverOf(t *testing.T) scratch.Server {
	t.Helper()
	server := pgtest.Server(t)
	return scratch.Server{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, server.DSN("postgres")) },
		DSN:     func(database string) (string, error) { return server.DSN(database), nil },
	}
}

func judge(t *testing.T, tree, since *migrate.Tree) []lint.Finding {
	t.Helper()
	cli, err := atlascli.New("")
	require.NoError(t, err)
	found, err := lint.Judge(t.Context(), cli, serverOf(t), tree, since)
	require.NoError(t, err)
	return found
}

// brief is a finding in one line.
func brief(f lint.Finding) string {
	severity := map[lint.Severity]string{lint.Warning: "warning", lint.Destructive: "destructive", lint.Broken: "broken"}[f.Severity]
	return fmt.Sprintf("%s/%s:%d %s %s", f.Set, f.File, f.Line, f.Code, severity)
}

func briefs(found []lint.Finding) []string {
	out := []string{}
	for _, f := range found {
		out = append(out, brief(f))
	}
	return out
}

func TestOnlyNewFilesAreJudgedInTheOrderOfSetFileAndLine(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"core/1_meters.sql":          "CREATE TABLE meters (id bigint PRIMARY KEY, name text);\nCREATE TABLE old (id int);\n",
		"core/2_old.sql":             "DROP TABLE old;\n",
		"plugins/calin/1_calin.sql":  "CREATE TABLE calin (meter_id bigint REFERENCES meters (id));\n",
		"plugins/spark/1_spark.sql":  "CREATE TABLE spark (meter_id bigint REFERENCES meters (id));\n",
		"plugins/spark/2_spark2.sql": "CREATE INDEX spark_meter ON spark (meter_id);\n",
	}
	since := tree(t, files)
	require.Empty(t, judge(t, since, since), "nothing is new")

	files["core/3_more.sql"] = "CREATE TABLE more (id int);\n\nTRUNCATE meters;\nALTER TABLE meters RENAME name TO label;\n"
	files["plugins/spark/3_meters.sql"] = "ALTER TABLE meters ALTER COLUMN label SET NOT NULL;\n"
	files["plugins/viber/1_viber.sql"] = "CREATE TABLE viber (meter_id bigint REFERENCES meters (id));\n"
	files["plugins/viber/2_viber.sql"] = "-- nobody needs it\n\nDROP TABLE viber;\n"
	require.Equal(t, []string{
		"core/3_more.sql:3 TN113 destructive",
		"core/3_more.sql:4 BC102 destructive",
		"plugins/spark/3_meters.sql:1 MF104 warning",
		"plugins/spark/3_meters.sql:1 TN105 warning",
		"plugins/viber/2_viber.sql:3 DS102 destructive",
	}, briefs(judge(t, tree(t, files), since)))
}

func TestWithoutAnOlderTreeAllFilesAreJudged(t *testing.T) {
	t.Parallel()
	found := judge(t, tree(t, map[string]string{
		"core/1_a.sql":    "CREATE TABLE a (id int);\nTRUNCATE a;\n",
		"core/2_a.sql":    "TRUNCATE a;\n",
		"plugins/p/1.sql": "CREATE TABLE p (id int);\n",
		"plugins/p/2.sql": "CREATE INDEX p_id ON p (id);\n",
	}), nil)
	require.Equal(t, []string{"core/2_a.sql:1 TN113 destructive", "plugins/p/2.sql:1 PG101 warning"}, briefs(found))
}

func TestAFileThatWasChangedAndThoseBehindItAreNew(t *testing.T) {
	t.Parallel()
	files := map[string]string{"core/1_a.sql": "CREATE TABLE a (id int);\n", "core/2_a.sql": "DELETE FROM a WHERE id = 1;\n", "core/3_a.sql": "TRUNCATE a;\n"}
	since := tree(t, files)
	files["core/2_a.sql"] = "DELETE FROM a;\n"
	require.Equal(t, []string{"core/2_a.sql:1 TN113 destructive", "core/3_a.sql:1 TN113 destructive"}, briefs(judge(t, tree(t, files), since)))
}

func TestAFileThatDoesNotApplyIsBrokenWhereItIs(t *testing.T) {
	t.Parallel()
	found := judge(t, tree(t, map[string]string{
		"core/1_a.sql":    "CREATE TABLE a (id int);\n",
		"core/2_a.sql":    "ALTER TABLE nothing ADD COLUMN x int;\n",
		"plugins/p/1.sql": "CREATE TABLE p (id int);\n",
	}), nil)
	require.Equal(t, []string{"core/2_a.sql:0 TN100 broken", "core/2_a.sql:0 TN100 broken"}, briefs(found), "and so it is beneath a plugin")
	require.Contains(t, found[0].Message, `relation "nothing" does not exist`)
}

func TestLinesAreThoseOfTheFileInAForeignFormatToo(t *testing.T) {
	t.Parallel()
	found := judge(t, tree(t, map[string]string{
		"core/1_a.sql": "CREATE TABLE a (id int, b int);\n",
		"core/2_a.sql": "-- atlas:delimiter -- end\n\nALTER TABLE a DROP COLUMN b;\n-- end\n\nTRUNCATE a;\n-- end\n",
	}), nil)
	require.Equal(t, []string{"core/2_a.sql:3 DS103 destructive", "core/2_a.sql:6 TN113 destructive"}, briefs(found))
}

func scratchDatabases(t *testing.T, dsn string) []string {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(context.Background(), "SELECT datname FROM pg_database WHERE datname LIKE $1", scratch.Prefix+"%")
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}

// TestNothingIsLeftWheneverTheContextEnds has a server of its own, where no other test makes scratch databases.
func TestNothingIsLeftWheneverTheContextEnds(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	cli, err := atlascli.New("")
	require.NoError(t, err)
	slow := tree(t, map[string]string{"core/1_a.sql": "CREATE TABLE a (id int);\nSELECT pg_sleep(60);\n"})
	admin := server.DSN("postgres")
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 2 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		done := make(chan error, 1)
		go func() {
			_, err := lint.Judge(ctx, cli, scratch.Server{
				Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, admin) },
				DSN:     func(database string) (string, error) { return server.DSN(database), nil },
			}, slow, nil)
			done <- err
		}()
		if after > time.Second {
			require.Eventually(t, func() bool { return len(scratchDatabases(t, admin)) == 1 }, after, 10*time.Millisecond, "it is replayed in a scratch database")
		}
		require.Error(t, <-done)
		cancel()
		require.Empty(t, scratchDatabases(t, admin), "after %s", after)
	}
}
