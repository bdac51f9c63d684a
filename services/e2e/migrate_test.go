package e2e

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// copyOfSets copies the tenants' migration sets of the working tree, to add files to.
func copyOfSets(t testing.TB) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	dir := filepath.Join(t.TempDir(), "migrations")
	source := filepath.Join(filepath.Dir(here), "..", "provisioner", "migrations")
	for _, set := range []string{"core", "plugins"} {
		require.NoError(t, os.CopyFS(filepath.Join(dir, set), os.DirFS(filepath.Join(source, set))))
	}
	seed, err := os.ReadFile(filepath.Join(source, "seed.sql"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "seed.sql"), seed, 0o600))
	return dir
}

// addMigration writes a new file of the core set with the command line, and returns its version.
func addMigration(t testing.TB, sets, name, sql string) string {
	t.Helper()
	made := objects(t, ok(t, runTenantry(t, nil, "migration", "new", "core", name, "--migrations", sets)))[0]
	file, isText := made["file"].(string)
	require.True(t, isText)
	require.NoError(t, os.WriteFile(file, []byte(sql), 0o600))
	sealed := objects(t, ok(t, runTenantry(t, nil, "migration", "hash", "core", "--migrations", sets)))[0]
	require.Equal(t, true, sealed["changed"])
	return made["version"].(string)
}

// admin runs a statement in a tenant's database as the administrator.
func (s *system) admin(c company, sql string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.adminDSN(c))
	require.NoError(s.t, err)
	_, err = conn.Exec(s.t.Context(), sql)
	require.NoError(s.t, err)
	require.NoError(s.t, conn.Close(s.t.Context()))
}

// schemaVersion is a tenant's own, as Atlas's table in its database says.
func (s *system) schemaVersion(c company) string {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.adminDSN(c))
	require.NoError(s.t, err)
	var version string
	require.NoError(s.t, conn.QueryRow(s.t.Context(), "SELECT max(version) FROM atlas_schema_revisions.atlas_schema_revisions").Scan(&version))
	require.NoError(s.t, conn.Close(s.t.Context()))
	return version
}

// adminDSN is the administrator's URI of a tenant's database.
func (s *system) adminDSN(c company) string {
	s.t.Helper()
	shown := objects(s.t, ok(s.t, s.tenantry("company", "show", c.slug)))[0]
	return s.databaseDSN(shown["database"].(string))
}

func TestMigrateTenantMigratesOneAndMigrateTheRest(t *testing.T) {
	t.Parallel()
	sets := copyOfSets(t)
	s := newSystem(t, "--migrations", sets)
	one, other := s.signUp("one"), s.signUp("other")
	before := s.schemaVersion(one)
	version := addMigration(t, sets, "add nicknames", "ALTER TABLE people ADD COLUMN nickname text;\n")

	pending := objects(t, ok(t, s.tenantry("migrate-tenant", "one", "--dry-run")))[0]
	require.Len(t, pending["pending"], 1)
	require.Equal(t, before, s.schemaVersion(one), "a dry run does nothing")

	done := objects(t, ok(t, s.tenantry("migrate-tenant", "one")))[0]
	require.Equal(t, version, done["to_version"])
	require.Equal(t, version, s.schemaVersion(one))
	require.Equal(t, before, s.schemaVersion(other))

	lines := ok(t, s.tenantry("migrate"))
	require.Contains(t, lines, "2 of 2 tenants are at "+version)
	require.Equal(t, version, s.schemaVersion(other))
	require.Equal(t, version, s.schemaVersion(s.signUp("third")), "new tenants are born on the new release")
}

func TestMigrateReportsTheOneTenantThatFailsAndMigratesTheOthers(t *testing.T) {
	t.Parallel()
	sets := copyOfSets(t)
	s := newSystem(t, "--migrations", sets)
	first, bad, last := s.signUp("first"), s.signUp("bad"), s.signUp("last")
	before := s.schemaVersion(bad)
	s.admin(bad, "CREATE TABLE vouchers (mine int)")
	version := addMigration(t, sets, "vouchers", "CREATE TABLE vouchers (id bigint PRIMARY KEY);\n")

	got := s.tenantry("migrate")
	require.Equal(t, 3, got.code, "out:\n%s\nerr:\n%s", got.out, got.errOut)
	for _, want := range []string{"failed  bad", "MIGRATION_FAILED", version + "_vouchers.sql", "sqlstate: 42P07", "CREATE TABLE vouchers", "2 of 3 tenants are at " + version} {
		require.Contains(t, got.out, want)
	}
	require.Contains(t, got.errOut, "1 of 3 tenants failed")
	require.Equal(t, []string{version, before, version}, []string{s.schemaVersion(first), s.schemaVersion(bad), s.schemaVersion(last)})

	asJSON := s.tenantry("migrate", "--json")
	require.Equal(t, 3, asJSON.code)
	all := objects(t, asJSON.out)
	require.Contains(t, all[len(all)-1], "rollout")

	s.admin(bad, "DROP TABLE vouchers")
	ok(t, s.tenantry("migrate"))
	require.Equal(t, version, s.schemaVersion(bad))
}

func TestAChangedMigrationFileTouchesNoTenant(t *testing.T) {
	t.Parallel()
	sets := copyOfSets(t)
	s := newSystem(t, "--migrations", sets)
	one := s.signUp("one")
	before := s.schemaVersion(one)
	version := addMigration(t, sets, "vouchers", "CREATE TABLE vouchers (id bigint PRIMARY KEY);\n")
	file := filepath.Join(sets, "core", version+"_vouchers.sql")
	require.NoError(t, os.WriteFile(file, []byte("CREATE TABLE other (id bigint PRIMARY KEY);\n"), 0o600))

	for _, args := range [][]string{{"migrate"}, {"migrate-tenant", "one"}, {"migrate-tenant", "one", "--force"}} {
		got := s.tenantry(args...)
		require.Equal(t, 1, got.code, "out:\n%s\nerr:\n%s", got.out, got.errOut)
		require.Contains(t, got.errOut, "CHECKSUM_MISMATCH")
	}
	require.Equal(t, before, s.schemaVersion(one))
	refused := runTenantry(t, nil, "migration", "new", "core", "another", "--migrations", sets)
	require.Equal(t, 2, refused.code, "a new file's seal would hide that another was changed")
}

func TestMigrateCentralMakesTheServicesOwnDatabases(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	registry := s.databaseDSN("central_of_a_test")
	variables := []string{"TENANTRY_REGISTRY_DSN=" + registry}
	ok(t, runTenantry(t, variables, "migrate", "central"))
	conn, err := pgx.Connect(t.Context(), registry)
	require.NoError(t, err)
	var companies int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM companies").Scan(&companies))
	require.NoError(t, conn.Close(t.Context()))
	ok(t, runTenantry(t, variables, "migrate", "central"))
	require.Equal(t, 2, runTenantry(t, nil, "migrate", "central").code)
}
