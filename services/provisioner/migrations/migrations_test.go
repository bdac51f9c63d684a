package migrations_test

import (
	"context"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	atlasmigrate "ariga.io/atlas/sql/migrate"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/provisioner/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// domain is every table of the core schema, by area.
var domain = strings.Fields(`
	people person_documents addresses users agents password_resets roles permissions role_has_permissions model_has_roles
	model_has_permissions
	clusters mini_grids cities countries geographical_informations
	devices meters meter_types meter_consumptions solar_home_systems e_bikes manufacturers connection_types
	sub_connection_types connection_groups
	tariffs tariff_pricing_components time_of_usages social_tariffs access_rates access_rate_payments
	transactions transaction_conflicts payment_histories tokens cash_transactions agent_transactions
	third_party_transactions revenues payment_profiles loans
	appliance_types appliances appliance_people appliance_rates
	agent_commissions agent_assigned_appliances agent_sold_appliances agent_balance_histories agent_charges agent_receipts
	agent_receipt_details
	sms sms_bodies sms_android_settings sms_appliance_remind_rates sms_resend_information_keys
	sms_variable_default_values
	tickets ticket_users ticket_categories ticket_comments ticket_outsources ticket_outsource_payout_reports
	main_settings map_settings plugins registration_tail logs reports targets sub_targets`)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	return conn
}

// list returns the one column of a query's rows.
func list(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return values
}

const tables = `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')`

func TestCoreIsTheDomainsTablesAndNoOthers(t *testing.T) {
	t.Parallel()
	require.Len(t, domain, 73)
	conn := connect(t, tenant(t, "core"))
	require.ElementsMatch(t, domain, list(t, conn, tables))
}

func TestPluginsTablesBearTheirPluginsName(t *testing.T) {
	t.Parallel()
	prefixes := map[string]string{
		"africas-talking":                  "africas_talking_",
		"bulk-registration":                "bulk_registration_",
		"calin-meter":                      "calin_meter_",
		"flutterwave-payment-provider":     "flutterwave_",
		"paystack-payment-provider":        "paystack_",
		"safaricom-mpesa-payment-provider": "safaricom_mpesa_",
		"spark-meter":                      "spark_meter_",
		"sunking-shs":                      "sunking_shs_",
	}
	require.Len(t, sets(t), 1+len(prefixes))
	for _, set := range sets(t)[1:] {
		t.Run(path.Base(set), func(t *testing.T) {
			t.Parallel()
			// Alone with core: no plugin needs another.
			conn := connect(t, tenant(t, "core", set))
			added := slices.DeleteFunc(list(t, conn, tables), func(name string) bool { return slices.Contains(domain, name) })
			prefix := prefixes[path.Base(set)]
			require.NotEmpty(t, prefix, "a new set has to be in the list above")
			require.Contains(t, added, prefix+"credentials")
			require.GreaterOrEqual(t, len(added), 2)
			for _, name := range added {
				require.True(t, strings.HasPrefix(name, prefix), name)
			}
		})
	}
}

func TestSchemaKeepsItsRules(t *testing.T) {
	t.Parallel()
	dsn := tenant(t, sets(t)...)
	// Each query finds what breaks its rule.
	for rule, sql := range map[string]string{
		"every table has a comment": tables + ` AND obj_description(oid, 'pg_class') IS NULL`,
		"every table has a primary key": tables + ` AND NOT EXISTS (
			SELECT FROM pg_constraint WHERE conrelid = pg_class.oid AND contype = 'p')`,
		// The order of the columns in the index does not matter to the look-up that a foreign key makes.
		"every foreign key has an index": `
			SELECT conrelid::regclass || '.' || conname FROM pg_constraint
			WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND NOT EXISTS (
				SELECT FROM pg_index
				WHERE indrelid = conrelid AND indisvalid AND indpred IS NULL AND (
					(indkey::int2[])[0:cardinality(conkey) - 1] @> conkey
					-- A key's first column may be unique by itself.
					OR (indisunique AND indnkeyatts = 1 AND indkey[0] = ANY (conkey))))`,
		"numbers are exact, and times have zones": `
			SELECT attrelid::regclass || '.' || attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
			WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
			AND atttypid IN ('real'::regtype, 'float8'::regtype, 'money'::regtype, 'timestamp'::regtype, 'timetz'::regtype)`,
		"money is numeric with a scale": `
			SELECT table_name || '.' || column_name FROM information_schema.columns
			WHERE table_schema = 'public'
			AND column_name ~ '(^|_)(amount|price|cost|balance|debt|fee|total|principal|remaining|revenue|collected|due)(_|$)'
			AND column_name !~ '(_at|_on|_kwh|_days|_type|_code|_percent|_before_due|_id)$'
			AND column_name !~ '^(percent_of|rows)_'
			AND (data_type <> 'numeric' OR COALESCE(numeric_scale, 0) < 2)`,
		"secrets are bytes": `
			SELECT table_name || '.' || column_name FROM information_schema.columns
			WHERE table_schema = 'public' AND data_type <> 'bytea'
			AND column_name ~ '(_encrypted|secret|password|passkey|_token$|_hash$|sha256)' AND column_name <> 'push_token'`,
		"every constraint bears its table's name": `
			SELECT conname FROM pg_constraint
			WHERE connamespace = 'public'::regnamespace AND NOT starts_with(conname, conrelid::regclass::text)`,
		"no index is another's prefix": `
			SELECT a.indexrelid::regclass::text FROM pg_index a JOIN pg_index b
				ON a.indrelid = b.indrelid AND a.indexrelid <> b.indexrelid
			JOIN pg_class ON pg_class.oid = a.indrelid
			WHERE relnamespace = 'public'::regnamespace AND NOT a.indisunique AND a.indpred IS NULL AND b.indpred IS NULL
			AND a.indexprs IS NULL AND (b.indkey::int2[])[0:a.indnkeyatts - 1] = a.indkey::int2[]`,
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			require.Empty(t, list(t, connect(t, dsn), sql))
		})
	}
}

func TestSetsOnlyMakeThings(t *testing.T) {
	t.Parallel()
	// Roles, grants, schemas and transactions are the provisioner's, and an extension is not everywhere to be had.
	allowed := regexp.MustCompile(`^(CREATE TABLE|CREATE (UNIQUE )?INDEX|COMMENT ON TABLE|INSERT INTO) \w+\s`)
	for _, set := range sets(t) {
		sub, err := fs.Sub(migrations.FS(), set)
		require.NoError(t, err)
		files, err := fs.Glob(sub, "*.sql")
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, name := range files {
			text, err := fs.ReadFile(sub, name)
			require.NoError(t, err)
			statements, err := atlasmigrate.Stmts(string(text))
			require.NoError(t, err)
			require.NotEmpty(t, statements)
			for _, statement := range statements {
				require.Regexp(t, allowed, statement.Text, name)
			}
		}
	}
}

func TestSumsAreFresh(t *testing.T) {
	t.Parallel()
	for _, set := range sets(t) {
		out, err := atlas(t, "migrate", "validate", "--dir", export(t, set))
		require.NoError(t, err, "%s: %s", set, out)
	}
	changed := export(t, "core")
	file := strings.TrimPrefix(changed, "file://") + "/20261101000003_tariffs.sql"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(text, '\n'), 0o600))
	_, err = atlas(t, "migrate", "validate", "--dir", changed)
	require.Error(t, err, "validation must see a changed file")
}

func TestStatusIsOKForEverySet(t *testing.T) {
	t.Parallel()
	dsn := tenant(t, sets(t)...)
	for _, set := range sets(t) {
		args := []string{"migrate", "status", "--dir", export(t, set), "--url", dsn}
		if set != "core" {
			args = append(args, "--revisions-schema", revisions(set))
		}
		out, err := atlas(t, args...)
		require.NoError(t, err, out)
		require.Contains(t, out, "Migration Status: OK", set)
	}
}
