package e2e

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func execSQL(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func TestPostgreSQLItselfKeepsATenantInItsOwnDatabase(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun, moon := s.signUp("sun"), s.signUp("moon", "calin-meter")
	client := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", asNobody))
	admin := s.asAdmin("postgres")
	other := column(t, admin, `SELECT datname::text FROM pg_database WHERE datname LIKE 'tenant\_%' ORDER BY 1`)[0]
	ctx := s.logIn(moon)
	run := func(sql string) error {
		_, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: sql})
		return err
	}
	for _, sql := range []string{
		"CREATE TABLE x (id int)", "CREATE TEMP TABLE x (id int)", "CREATE SCHEMA x", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE EXTENSION dblink", "CREATE ROLE x", "CREATE DATABASE x", "ALTER TABLE people ADD x int", "DROP TABLE people", "TRUNCATE people",
		"CREATE INDEX ON people (name)", "ALTER DATABASE " + other + " RENAME TO x", "DROP DATABASE " + other,
		"COPY people TO PROGRAM 'id'", "COPY people FROM PROGRAM 'id'", "COPY people TO '/tmp/x'", "COPY people FROM '/etc/passwd'",
		"SELECT pg_read_file('/etc/passwd')", "SELECT pg_ls_dir('/')", "SELECT pg_stat_file('/etc/passwd')", "SELECT lo_import('/etc/passwd')", "SELECT lo_create(0)",
		"SELECT lo_from_bytea(0, 'x')", "SET ROLE postgres", "SET SESSION AUTHORIZATION postgres", "SET ROLE " + other, "ALTER ROLE " + other + " PASSWORD 'x'",
		"ALTER SYSTEM SET work_mem = '1GB'", "SET log_statement = 'all'", "SELECT pg_reload_conf()",
		"SELECT * FROM pg_database", "SELECT * FROM pg_roles", "SELECT * FROM pg_user", "SELECT * FROM pg_authid", "SELECT * FROM pg_shadow", "SELECT * FROM pg_stat_activity",
		"SELECT * FROM pg_stat_get_activity(NULL)", "SELECT * FROM pg_auth_members", "SELECT * FROM pg_stat_database", "SELECT * FROM pg_hba_file_rules", "SELECT pg_terminate_backend(1)",
		"SELECT pg_database_size('postgres')", "SELECT * FROM atlas_schema_revisions.atlas_schema_revisions", "SELECT * FROM atlas_plugin_calin_meter.atlas_schema_revisions",
		"DELETE FROM atlas_schema_revisions.atlas_schema_revisions",
	} {
		err := run(sql)
		require.Error(t, err, sql)
		f := requireReason(t, err, codes.PermissionDenied, fault.SQLError)
		require.Equal(t, "42501", f.Metadata["sqlstate"], "%s: %v", sql, f)
	}
	for _, sql := range []string{`\connect ` + other, "SELECT * FROM " + other + ".public.people"} {
		require.Error(t, run(sql), sql)
	}
	for _, sql := range []string{
		"INSERT INTO people (name) VALUES ('Juma')", "UPDATE people SET name = 'Neema'", "SELECT * FROM people", "DELETE FROM people",
		"SELECT table_name FROM information_schema.tables", "SELECT * FROM pg_class", "SELECT * FROM pg_type", "SELECT * FROM pg_indexes", "SELECT version()",
	} {
		require.NoError(t, run(sql), "what drivers and applications need stays: %s", sql)
	}

	// With the role's own password, were it known: no other database lets it in.
	role := column(t, admin, `SELECT datname::text FROM pg_database WHERE datname LIKE 'tenant\_%' ORDER BY 1`)[1]
	execSQL(t, admin, "ALTER ROLE "+role+" PASSWORD 'known'")
	cfg, err := pgx.ParseConfig(s.env["TENANTRY_ADMIN_DSN"])
	require.NoError(t, err)
	cfg.User, cfg.Password = role, "known"
	databases := append(column(t, admin, "SELECT datname::text FROM pg_database WHERE datname <> 'template0'"), "template0")
	require.GreaterOrEqual(t, len(databases), 7)
	for _, database := range databases {
		cfg.Database = database
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if database == role {
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
			continue
		}
		require.Error(t, err, database)
		require.Regexp(t, "42501|55000", err.Error(), database)
	}
	require.EqualValues(t, 0, s.execute(sun, "DELETE FROM people"))
}
