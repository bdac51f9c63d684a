package migrate_test

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

// shop is another product's history: tables, types, functions, triggers, views, extensions, data, and an index that is
// built without a transaction.
var shop = []string{
	`CREATE EXTENSION IF NOT EXISTS pgcrypto; CREATE EXTENSION IF NOT EXISTS citext;`,
	`CREATE TYPE order_state AS ENUM ('new', 'paid', 'sent');`,
	`CREATE TABLE customers (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email citext UNIQUE NOT NULL, created_at timestamptz NOT NULL DEFAULT now());`,
	`CREATE TABLE products (id bigserial PRIMARY KEY, name text NOT NULL, price numeric(12,2) CHECK (price >= 0), downloads int DEFAULT 0);`,
	`CREATE TABLE orders (id bigserial PRIMARY KEY, customer_id uuid REFERENCES customers, state order_state NOT NULL DEFAULT 'new');`,
	`CREATE TABLE order_lines (order_id bigint REFERENCES orders ON DELETE CASCADE, product_id bigint REFERENCES products, n int, PRIMARY KEY (order_id, product_id));`,
	`INSERT INTO products (name, price) VALUES ('semi;colon', 1.5), ('quote''s', 2);`,
	"CREATE FUNCTION order_total(o bigint) RETURNS numeric LANGUAGE plpgsql AS $$\nDECLARE t numeric;\nBEGIN\n  SELECT sum(n * price) INTO t FROM order_lines JOIN products ON id = product_id WHERE order_id = o;\n  RETURN coalesce(t, 0);\nEND;\n$$;",
	`CREATE TABLE changes (id bigserial, what text, at timestamptz DEFAULT now());`,
	"CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $body$\nBEGIN\n  INSERT INTO changes (what) VALUES (TG_TABLE_NAME || ' ' || TG_OP);\n  RETURN NULL;\nEND\n$body$;",
	`CREATE TRIGGER products_changed AFTER INSERT OR UPDATE ON products FOR EACH STATEMENT EXECUTE FUNCTION note_change();`,
	`CREATE VIEW paid_orders AS SELECT * FROM orders WHERE state = 'paid';`,
	`CREATE INDEX orders_customer_id_idx ON orders (customer_id);`,
	"-- atlas:txmode none\n\nCREATE INDEX CONCURRENTLY products_name_idx ON products (name);",
	`ALTER TABLE products ADD COLUMN sku text; UPDATE products SET sku = 'P' || id; ALTER TABLE products ALTER COLUMN sku SET NOT NULL;`,
	`CREATE SCHEMA stock; CREATE TABLE stock.moves (id bigserial PRIMARY KEY, product_id bigint REFERENCES public.products, n int);`,
	"CREATE PROCEDURE stock.take(p bigint, k int) LANGUAGE sql BEGIN ATOMIC\n  INSERT INTO stock.moves (product_id, n) VALUES (p, -k);\nEND;",
	`ALTER TYPE order_state ADD VALUE 'returned';`,
	`CREATE MATERIALIZED VIEW sales AS SELECT product_id, sum(n) AS n FROM order_lines GROUP BY 1;`,
	`CREATE UNIQUE INDEX sales_product_id_idx ON sales (product_id);`,
	"DO $$ BEGIN PERFORM 1; END $$;",
	`COMMENT ON TABLE products IS 'What is sold; Down to the last one'; CREATE TABLE "Odd Name" ("a ""b" int);`,
}

// schemaOf is all that the product made, in words.
const schemaOf = `SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text || ' ' || coalesce((SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ',' ORDER BY a.attnum)
	FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'stock')
	UNION ALL SELECT 'function ' || p.proname || md5(p.prosrc) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('public', 'stock') AND p.prolang <> 13
	UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal UNION ALL SELECT 'label ' || enumlabel FROM pg_enum
	UNION ALL SELECT 'change ' || what FROM changes UNION ALL SELECT 'product ' || name || ' ' || sku FROM products ORDER BY 1`

// directory writes the history in a tool's format, as its users write it.
func directory(t *testing.T, format string) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	add := func(name, text string) { out[name] = &fstest.MapFile{Data: []byte(text)} }
	for i, sql := range shop {
		n := i + 1
		switch format {
		case "golang-migrate":
			if n%3 == 0 && !strings.Contains(sql, "txmode") {
				sql = "BEGIN;\n" + sql + "\nCOMMIT;"
			}
			add(fmt.Sprintf("%06d_step.up.sql", n), sql)
			add(fmt.Sprintf("%06d_step.down.sql", n), "SELECT 'down';")
		case "goose":
			head := "-- +goose Up\n"
			if strings.Contains(sql, "txmode none") {
				head = "-- +goose NO TRANSACTION\n-- +goose Up\n"
				sql = strings.TrimPrefix(sql, "-- atlas:txmode none\n\n")
			}
			if strings.Contains(sql, "$") || strings.Contains(sql, "ATOMIC") {
				sql = "-- +goose StatementBegin\n" + sql + "\n-- +goose StatementEnd"
			}
			add(fmt.Sprintf("%05d_step.sql", n), head+sql+"\n\n-- +goose Down\nDROP TABLE everything;\n")
		case "dbmate":
			head := "-- migrate:up\n"
			if strings.Contains(sql, "txmode none") {
				head = "-- migrate:up transaction:false\n"
				sql = strings.TrimPrefix(sql, "-- atlas:txmode none\n\n")
			}
			add(fmt.Sprintf("202611010000%02d_step.sql", n), head+sql+"\n\n-- migrate:down\nDROP TABLE everything;\n")
		case "flyway":
			add(fmt.Sprintf("V%d__step.sql", n), sql)
			add(fmt.Sprintf("U%d__step.sql", n), "DROP TABLE everything;")
		case "liquibase":
			add(fmt.Sprintf("202611010000%02d_step.sql", n), "--liquibase formatted sql\n--changeset shop:"+fmt.Sprint(n)+" splitStatements:false\n"+
				strings.TrimPrefix(sql, "-- atlas:txmode none\n\n")+"\n--rollback DROP TABLE everything;\n")
		}
	}
	return out
}

func TestAnotherProductsHistoryGivesTheSameSchemaInEveryFormat(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(shop), 20)
	var want []string
	for _, format := range []string{"golang-migrate", "goose", "dbmate", "flyway", "liquibase"} {
		s, err := migrate.Load(directory(t, format), "core")
		require.NoError(t, err, format)
		require.Len(t, s.Files(), len(shop), format)
		dsn := pgtest.Database(t)
		conn := connect(t, dsn)
		got, err := migrate.Apply(t.Context(), conn, s, migrate.Options{})
		require.NoError(t, err, format)
		require.Len(t, got.Applied, len(shop))
		schema := texts(t, conn, schemaOf)
		if want == nil {
			want = schema
			require.Greater(t, len(want), 40)
			require.Contains(t, strings.Join(want, "\n"), "product quote's P2")
		}
		require.Equal(t, want, schema, format)
		requireStatus(t, dsn, s, "", atlascli.Status{OK: true, Current: s.Latest()})
	}

	// What became of one format is an Atlas directory: the CLI makes the same of it.
	s, err := migrate.Load(directory(t, "goose"), "core")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, s.WriteTo(dir))
	cli, err := atlascli.New("")
	require.NoError(t, err)
	dsn := pgtest.Database(t)
	_, err = cli.Apply(t.Context(), dsn, dir, "")
	require.NoError(t, err)
	require.Equal(t, want, texts(t, connect(t, dsn), schemaOf))
}

func TestAnAtlasDirectoryMustAgreeWithItsSum(t *testing.T) {
	t.Parallel()
	s := set(t, "CREATE TABLE a (id int);", "CREATE TABLE b (id int);")
	content := s.Content()
	again, err := migrate.Parse("core", content)
	require.NoError(t, err)
	require.Equal(t, s.Hash(), again.Hash())
	require.Equal(t, s.Files(), again.Files())

	for name, change := range map[string]func(map[string][]byte){
		"edited":  func(c map[string][]byte) { c["00000002_file.sql"] = append(c["00000002_file.sql"], '\n') },
		"removed": func(c map[string][]byte) { delete(c, "00000002_file.sql") },
		"added":   func(c map[string][]byte) { c["00000003_file.sql"] = []byte("SELECT 1;") },
		"no sum":  func(c map[string][]byte) { delete(c, migrate.SumFile) },
	} {
		content := s.Content()
		change(content)
		_, err := migrate.Parse("core", content)
		require.True(t, fault.HasReason(err, fault.ChecksumMismatch), "%s: %v", name, err)
		if name != "no sum" {
			require.ErrorContains(t, err, name)
		}
	}
}

func TestWhatCannotBeAppliedAsAMigrationIsRefusedWhenItIsLoaded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"CREATE TABLE a (id int);\nCOPY a /* all */ FROM STDIN;":   "INSERT",
		"CREATE TABLE a (id int);\nROLLBACK;":                      "txmode none",
		"SELECT 1; START TRANSACTION ISOLATION LEVEL SERIALIZABLE": "txmode none",
		"CREATE TABLE a (\n  id int;":                              "line 1, column 16: unclosed (",
		"SELECT 1;\n\nSELECT 'x":                                   "line 3, column 8: unclosed '",
	} {
		_, err := migrate.Load(fstest.MapFS{"1_a.up.sql": {Data: []byte(text)}}, "core")
		require.True(t, fault.HasReason(err, fault.MigrationInvalid), "%s: %v", text, err)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "1_a")
	}
}

// The CLI writes an atlas.sum for any format, and does not turn the directory into Atlas's by that.
func TestAForeignDirectoryMayHaveASum(t *testing.T) {
	t.Parallel()
	atlas, err := atlascli.Find()
	require.NoError(t, err)
	for _, format := range []string{"goose", "dbmate", "golang-migrate", "flyway"} {
		tree, dir := directory(t, format), t.TempDir()
		want, err := migrate.Load(tree, "core")
		require.NoError(t, err)
		for name, f := range tree {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), f.Data, 0o600))
		}
		out, err := osexec.CommandContext(t.Context(), atlas, "migrate", "hash", "--dir", "file://"+dir+"?format="+format).CombinedOutput()
		require.NoError(t, err, string(out))
		got, err := migrate.Load(os.DirFS(dir), "core")
		require.NoError(t, err, format)
		require.Equal(t, want.Hash(), got.Hash())
		for name, f := range tree {
			if strings.Contains(name, "1_step") || strings.Contains(name, "1__step") || strings.HasSuffix(name, "01_step.up.sql") {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), append(f.Data, "\n-- changed"...), 0o600))
			}
		}
		_, err = migrate.Load(os.DirFS(dir), "core")
		require.True(t, fault.HasReason(err, fault.ChecksumMismatch), "%s: %v", format, err)
	}
}

func TestVersionsAreOrderedAsTheirToolDoes(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{
		{"01_a.up.sql", "2_b.up.sql", "099_c.up.sql", "100_d.up.sql", "1000_e.up.sql", "20261101000000_f.up.sql"},
		{"V1__a.sql", "V1_1__b.sql", "V1.2__c.sql", "V1_10__d.sql", "V2__e.sql", "V10__f.sql"},
	} {
		tree := fstest.MapFS{}
		for _, name := range names {
			tree[name] = &fstest.MapFile{Data: []byte("SELECT 1;")}
		}
		s, err := migrate.Load(tree, "core")
		require.NoError(t, err)
		got := ""
		for _, f := range s.Files() {
			got += f.Description
		}
		require.Equal(t, "abcdef", got)
	}
	_, err := migrate.Load(fstest.MapFS{"R__a.sql": {Data: []byte("SELECT 1;")}}, "core")
	require.True(t, fault.HasReason(err, fault.MigrationInvalid), "%v", err)
	require.ErrorContains(t, err, "repeatable")
}

func TestNumbersAreOrderedAsNumbersAndKeepTheirVersion(t *testing.T) {
	t.Parallel()
	tree := fstest.MapFS{}
	for i := 1; i <= 11; i++ {
		tree[fmt.Sprintf("V%d__x.sql", i)] = &fstest.MapFile{Data: []byte("SELECT 1;")}
		s, err := migrate.Load(tree, "core")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%08d", i), s.Latest())
		require.Equal(t, "00000001", s.Files()[0].Version)
	}
}

func TestFilesThatCannotBeReadAreNamed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n": "StatementEnd",
		"-- +goose Up\n-- +goose Sideways\nSELECT 1;\n":       "Sideways",
		"-- +goose ENVSUB ON\n-- +goose Up\nSELECT 1;\n":      "environment",
	} {
		_, err := migrate.Load(fstest.MapFS{"00001_a.sql": {Data: []byte(text)}}, "core")
		require.True(t, fault.HasReason(err, fault.MigrationInvalid), "%v", err)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "00001_a.sql")
	}
}

func TestNoFileOfADirectoryIsLost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"-- +goose Up\nSELECT 1;": "goose Up", "-- migrate:up\nSELECT 1;": "migrate:up"} {
		_, err := migrate.Load(fstest.MapFS{"00001_a.sql": {Data: []byte(text)}, "00002_b.sql": {Data: []byte("CREATE TABLE lost (id int);")}}, "core")
		require.True(t, fault.HasReason(err, fault.MigrationInvalid), "%v", err)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "00002_b.sql")
	}
}

func TestATreeIsCoreAndPluginsAndSeed(t *testing.T) {
	t.Parallel()
	tree := fstest.MapFS{
		"core/00000001_a.up.sql":      {Data: []byte("SELECT 1;")},
		"plugins/p/00000001_b.up.sql": {Data: []byte("SELECT 2;")},
		"plugins/README.md":           {Data: []byte("not a set")},
		"seed.sql":                    {Data: []byte("SELECT @company_id")},
		"core/not-a-migration.txt":    {Data: []byte("x")},
	}
	got, err := migrate.LoadTree(tree)
	require.NoError(t, err)
	require.Equal(t, "00000001", got.Core.Latest())
	require.Equal(t, "plugins/p", got.Plugins["p"].Name())
	require.Equal(t, "SELECT @company_id", got.Seed)
	hash := got.Hash()
	tree["seed.sql"].Data = nil
	got, err = migrate.LoadTree(tree)
	require.NoError(t, err)
	require.NotEqual(t, hash, got.Hash())
	_, err = migrate.LoadTree(fstest.MapFS{})
	require.True(t, fault.HasReason(err, fault.MigrationInvalid), "%v", err)
	require.ErrorContains(t, err, "core")
}
