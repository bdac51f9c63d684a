package migrations_test

import (
	"io/fs"
	"maps"
	"strings"
	"testing"

	atlasmigrate "ariga.io/atlas/sql/migrate"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/provisioner/migrations"
)

func acme() pgx.NamedArgs {
	return pgx.NamedArgs{
		"company_id":      "01900000-0000-7000-8000-00000000000a",
		"company_name":    "Acme's \"Power\"; Ltd",
		"company_slug":    "acme",
		"company_email":   "office@acme.example",
		"company_phone":   "+254 700 000 001",
		"company_address": "Mombasa Road 1",
		"country_code":    "KE",
		"usage_type":      "mini-grid",
		"owner_id":        "01900000-0000-7000-8000-00000000000b",
		"owner_name":      "Wanjiru O'Hara",
		"owner_email":     "wanjiru@acme.example",
	}
}

// with is acme but for one parameter.
func with(name, value string) pgx.NamedArgs {
	args := maps.Clone(acme())
	args[name] = value
	return args
}

func seed(t *testing.T, conn *pgx.Conn, args pgx.NamedArgs) error {
	t.Helper()
	text, err := fs.ReadFile(migrations.FS(), "seed.sql")
	require.NoError(t, err)
	statements, err := atlasmigrate.Stmts(string(text))
	require.NoError(t, err)
	require.NotEmpty(t, statements)
	require.LessOrEqual(t, len(statements), 12, "it is run at each signup")
	return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		for _, statement := range statements {
			if _, err := tx.Exec(t.Context(), statement.Text, args); err != nil {
				return err
			}
		}
		return nil
	})
}

// content returns every row of every table.
func content(t *testing.T, conn *pgx.Conn) map[string][]string {
	t.Helper()
	rows := map[string][]string{}
	for _, table := range domain {
		name := pgx.Identifier{table}.Sanitize()
		rows[table] = list(t, conn, "SELECT to_jsonb(r)::text FROM "+name+" AS r ORDER BY 1")
	}
	return rows
}

func TestSeedMakesTheCompanyItsOwnerAndTheRoles(t *testing.T) {
	t.Parallel()
	conn := connect(t, tenant(t, "core"))

	require.NoError(t, seed(t, conn, acme()))

	require.Equal(t, []string{"1|01900000-0000-7000-8000-00000000000a|Acme's \"Power\"; Ltd|acme|office@acme.example|" +
		"+254 700 000 001|Mombasa Road 1|KE|mini-grid|KES"}, list(t, conn, `
		SELECT concat_ws('|', s.id, company_id, company_name, company_slug, company_email, company_phone, company_address,
			c.code, usage_type, s.currency_code)
		FROM main_settings s JOIN countries c ON c.id = s.country_id`))
	require.Equal(t, []string{"01900000-0000-7000-8000-00000000000b|Wanjiru O'Hara|wanjiru@acme.example|owner"}, list(t, conn, `
		SELECT concat_ws('|', u.id, u.name, u.email, r.name)
		FROM users u JOIN model_has_roles m ON m.user_id = u.id JOIN roles r ON r.id = m.role_id`))
	require.Equal(t, []string{"admin 14", "financial-manager 8", "owner 15", "user 5"}, list(t, conn, `
		SELECT name || ' ' || count(*) FROM roles JOIN role_has_permissions ON role_id = id GROUP BY name ORDER BY name`))
	require.Len(t, list(t, conn, `SELECT name FROM permissions`), 15)
	require.Len(t, list(t, conn, `SELECT provider FROM map_settings`), 1)
	for _, table := range []string{"ticket_categories", "sms_bodies", "sms_variable_default_values", "registration_tail"} {
		require.NotEmpty(t, list(t, conn, "SELECT id::text FROM "+table), table)
	}
}

func TestSeedTwiceGivesTheSameRows(t *testing.T) {
	t.Parallel()
	conn := connect(t, tenant(t, "core"))
	require.NoError(t, seed(t, conn, acme()))
	once := content(t, conn)

	require.NoError(t, seed(t, conn, acme()))

	require.Equal(t, once, content(t, conn))
}

func TestSeedKeepsWhatSomebodyChanged(t *testing.T) {
	t.Parallel()
	conn := connect(t, tenant(t, "core"))
	require.NoError(t, seed(t, conn, acme()))
	_, err := conn.Exec(t.Context(), `
		UPDATE main_settings SET currency_code = 'TZS';
		UPDATE sms_bodies SET body = 'Asante' WHERE reference = 'energy_confirmation';
		UPDATE users SET name = 'Wanjiru Kamau'`)
	require.NoError(t, err)
	changed := content(t, conn)

	require.NoError(t, seed(t, conn, acme()))

	require.Equal(t, changed, content(t, conn))
}

func TestSeedOfAnotherCompanyIsRefusedAndWritesNothing(t *testing.T) {
	t.Parallel()
	conn := connect(t, tenant(t, "core"))
	require.NoError(t, seed(t, conn, acme()))
	before := content(t, conn)

	err := seed(t, conn, with("company_id", "01900000-0000-7000-8000-00000000000c"))

	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, pgerrcode.UniqueViolation, refusal.Code)
	require.Equal(t, "main_settings_pkey", refusal.ConstraintName)
	require.Equal(t, before, content(t, conn))
}

func TestSeedTakesACompanyThatSaidLittle(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]pgx.NamedArgs{
		"no country":         with("country_code", ""),
		"an unknown country": with("country_code", "XK"),
		"no usage type":      with("usage_type", ""),
		"no phone":           with("company_phone", ""),
		"no address":         with("company_address", ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, tenant(t, "core"))
			require.NoError(t, seed(t, conn, args))
			require.Equal(t, []string{"1"}, list(t, conn, `
				SELECT num_nulls(country_id, usage_type, company_phone, company_address)::text FROM main_settings`))
			currency := "KES"
			if strings.HasSuffix(name, "country") {
				currency = "USD"
			}
			require.Equal(t, []string{currency}, list(t, conn, `SELECT currency_code FROM main_settings`))
		})
	}
}
