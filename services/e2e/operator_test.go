package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAServerIsDrainedAndTakesTenantsAgainOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	name, isText := objects(t, ok(t, s.tenantry("cluster", "list")))[0]["name"].(string)
	require.True(t, isText)

	drained := objects(t, ok(t, s.tenantry("cluster", "drain", name)))[0]
	require.Equal(t, true, drained["draining"])
	refused := s.tenantry("company", "create", "Sun Valley", "--owner-email", "ada@sun.example", "--json")
	require.Equal(t, 1, refused.code)
	require.Contains(t, refused.errOut, "NO_CLUSTER_AVAILABLE")

	for range 2 {
		undrained := objects(t, ok(t, s.tenantry("cluster", "undrain", name)))[0]
		require.Equal(t, false, undrained["draining"])
	}
	ok(t, s.tenantry("company", "create", "Sun Valley", "--owner-email", "ada@sun.example"))
	unknown := s.tenantry("cluster", "undrain", "nowhere", "--json")
	require.Equal(t, 1, unknown.code)
	require.Contains(t, unknown.errOut, "CLUSTER_NOT_FOUND")
}

func TestTheAuditLogIsListedOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun := s.signUp("sun-valley")
	s.signUp("green-grid")
	ok(t, s.tenantry("company", "suspend", "sun-valley", "--reason", "unpaid"))
	ok(t, s.tenantry("company", "suspend", "green-grid", "--reason", "unpaid"))
	ok(t, s.tenantry("company", "resume", "sun-valley"))

	newest := objects(t, ok(t, s.tenantry("audit", "list", "--company", "sun-valley", "--limit", "2")))
	require.Len(t, newest, 2)
	require.Equal(t, "company.resumed", newest[0]["action"])
	require.Equal(t, "company.suspended", newest[1]["action"])
	require.Equal(t, sun.id, newest[0]["company_id"])
	require.Regexp(t, "^operator/", newest[0]["actor"])
	require.Len(t, objects(t, ok(t, s.tenantry("audit", "list", "--action", "company.suspended"))), 2, "of all companies")

	// More than two pages.
	_, err := s.asAdmin("micro_power_manager").Exec(t.Context(),
		"INSERT INTO audit_events (actor, action, subject, details) SELECT 'operator/many', 'test.counted', i::text, '{\"b\": \"2\", \"a\": \"1\"}' FROM generate_series(1, 2100) i")
	require.NoError(t, err)
	require.Len(t, objects(t, ok(t, s.tenantry("audit", "list", "--action", "test.counted"))), 100, "what is listed when no limit is given")
	some := objects(t, ok(t, s.tenantry("audit", "list", "--action", "test.counted", "--limit", "1500")))
	require.Len(t, some, 1500)
	require.Equal(t, "601", some[1499]["subject"])
	every := objects(t, ok(t, s.tenantry("audit", "list", "--action", "test.counted", "--limit", "0")))
	require.Len(t, every, 2100)
	for i, e := range every {
		require.Equal(t, strconv.Itoa(2100-i), e["subject"], "each once, newest first")
	}

	table := ok(t, s.tenantry("audit", "list", "--action", "test.counted", "--limit", "1", "--no-json"))
	require.Contains(t, table, "│ operator/many │ test.counted │")
	require.Contains(t, table, "│ 2100    │ a=1 b=2 │")
	require.Equal(t, 2, s.tenantry("audit", "list", "--limit", "-1").code)
	nobody := s.tenantry("audit", "list", "--company", "nobody", "--json")
	require.Equal(t, 1, nobody.code)
	require.Contains(t, nobody.errOut, "COMPANY_NOT_FOUND")
}

func TestABackupReplacesNothingUnlessForcedAndOnlyAWholeOneIsRestored(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.signUp("sun-valley")
	person := func(name string) {
		ok(t, s.tenantry("sql", "sun-valley", "INSERT INTO people (name) VALUES ($1)", name))
	}
	people := func() (names []any) {
		for _, o := range objects(t, ok(t, s.tenantry("sql", "sun-valley", "SELECT name FROM people ORDER BY id"))) {
			names = append(names, o["name"])
		}
		return names
	}
	person("Juma")
	dir := t.TempDir()
	file := filepath.Join(dir, "sun.dump")
	read := func(name string) string {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(data)
	}
	only := func(want ...string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		require.Equal(t, want, names)
	}
	ok(t, s.tenantry("tenant", "backup", "sun-valley", file))
	first, about := read(file), read(file+".json")
	only("sun.dump", "sun.dump.json")

	person("Asha")
	again := s.tenantry("tenant", "backup", "sun-valley", file, "--no-json")
	require.Equal(t, 2, again.code)
	require.Contains(t, again.errOut, file+" is there already")
	require.Contains(t, again.errOut, "--force")
	require.NoError(t, os.Remove(file))
	again = s.tenantry("tenant", "backup", "sun-valley", file)
	require.Equal(t, 2, again.code, "what says what it is of must not be there either")
	require.NoError(t, os.WriteFile(file, []byte(first), 0o600))
	require.Equal(t, 1, s.tenantry("tenant", "backup", "nobody", file, "--force").code)
	only("sun.dump", "sun.dump.json")
	require.Equal(t, first, read(file), "a copy that came to nothing replaces nothing")
	require.Equal(t, about, read(file+".json"))
	ok(t, s.tenantry("tenant", "backup", "sun-valley", file, "--force"))
	only("sun.dump", "sun.dump.json")
	whole := read(file)
	require.NotEqual(t, first, whole)

	person("Neema")
	database := func() any { return objects(t, ok(t, s.tenantry("status", "sun-valley")))[0]["database"] }
	before := database()
	require.NotEmpty(t, before)
	tampered := []byte(whole)
	tampered[len(tampered)/2] ^= 0x55
	for name, bad := range map[string]string{"truncated": whole[:len(whole)-100], "tampered": string(tampered), "longer": whole + "x", "empty": "", "an earlier one": first} {
		require.NoError(t, os.WriteFile(file, []byte(bad), 0o600))
		got := s.tenantry("tenant", "restore", "sun-valley", file, "--json")
		require.Equal(t, 1, got.code, name)
		require.Equal(t, "BACKUP_INVALID", objects(t, got.errOut)[0]["error"].(map[string]any)["reason"], "%s: %s", name, got.errOut)
		require.Equal(t, before, database(), "%s: the route stays", name)
	}
	require.Equal(t, []any{"Juma", "Asha", "Neema"}, people())
	require.NoError(t, os.WriteFile(file, []byte(whole), 0o600))
	ok(t, s.tenantry("tenant", "restore", "sun-valley", file))
	require.NotEqual(t, before, database())
	require.Equal(t, []any{"Juma", "Asha"}, people())
}
