package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// object is one line of a command's JSON.
type object map[string]any

// objects reads JSON lines.
func objects(t testing.TB, text string) []object {
	t.Helper()
	var all []object
	for line := range strings.Lines(text) {
		var o object
		require.NoError(t, json.Unmarshal([]byte(line), &o), "want JSON lines, got:\n%s", text)
		all = append(all, o)
	}
	return all
}

// ok requires that a command succeeded, and returns what it printed.
func ok(t testing.TB, got result) string {
	t.Helper()
	require.Equal(t, 0, got.code, "out:\n%s\nerr:\n%s", got.out, got.errOut)
	return got.out
}

func TestACompanysLifeOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newSystem(t)

	created := s.tenantry("company", "create", "Sun Valley", "--owner-email", "ada@sun.example", "--plugin", "spark-meter", "--request-id", "r-1")
	company := objects(t, ok(t, created))[0]
	require.Equal(t, "sun-valley", company["slug"])
	require.Equal(t, "COMPANY_STATE_ACTIVE", company["state"])

	again := s.tenantry("company", "create", "Sun Valley", "--owner-email", "ada@sun.example", "--plugin", "spark-meter", "--request-id", "r-1")
	require.Equal(t, company, objects(t, ok(t, again))[0], "the same request id is the same signup")

	listed := objects(t, ok(t, s.tenantry("company", "list")))
	require.Len(t, listed, 1)
	require.Equal(t, company["company_id"], listed[0]["company_id"])

	shown := objects(t, ok(t, s.tenantry("company", "show", "sun-valley")))[0]
	require.Equal(t, []any{"spark-meter"}, shown["plugins"])

	suspended := objects(t, ok(t, s.tenantry("company", "suspend", "sun-valley", "--reason", "unpaid")))[0]
	require.Equal(t, "COMPANY_STATE_SUSPENDED", suspended["state"])
	require.Equal(t, "unpaid", suspended["state_reason"])
	require.Empty(t, objects(t, ok(t, s.tenantry("company", "list", "--state", "active"))))

	resumed := objects(t, ok(t, s.tenantry("company", "resume", "sun-valley")))[0]
	require.Equal(t, "COMPANY_STATE_ACTIVE", resumed["state"])

	status := objects(t, ok(t, s.tenantry("status", "sun-valley")))[0]
	require.Equal(t, true, status["database_exists"])
	require.Equal(t, company["schema_version"], status["schema_version"])

	system := objects(t, ok(t, s.tenantry("status")))[0]
	require.Len(t, system["services"], 3)
	clusters, isList := system["clusters"].([]any)
	require.True(t, isList)
	require.EqualValues(t, 1, clusters[0].(map[string]any)["tenants"])
}

func TestSQLOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.signUp("sun-valley")

	require.Equal(t, []object{{"command_tag": "INSERT 0 1"}}, objects(t, ok(t, s.tenantry("sql", "sun-valley",
		"INSERT INTO people (name, surname, additional) VALUES ($1, $2, $3)", "Juma, the elder", "O'Neil", `{"vip": true}`))))
	require.Equal(t, //nolint:testifylint // the order of the columns and the digits of a number are what must hold
		`{"id":1,"name":"Juma, the elder","is_active":true,"birth_date":null,"additional":{"vip":true},"price":1.50,"n":"NaN","name_2":"O'Neil"}`+"\n",
		ok(t, s.tenantry("sql", "sun-valley", "SELECT id, name, is_active, birth_date, additional, 1.50::numeric AS price, 'NaN'::numeric AS n, surname AS name FROM people")))
	require.Equal(t, []object{{"a": nil, "b": `\N`[1:]}}, objects(t, ok(t, s.tenantry("sql", "sun-valley", "SELECT $1::text AS a, $2::text AS b", `\N`, "N"))))

	table := ok(t, s.tenantry("sql", "sun-valley", "SELECT name FROM people", "--no-json"))
	require.Contains(t, table, "│ Juma, the elder │")
	require.Contains(t, table, "SELECT 1")

	first := s.tenantry("sql", "sun-valley", "SELECT generate_series(1, 1000000) AS g", "--max-rows", "2")
	require.Equal(t, []object{{"g": 1.0}, {"g": 2.0}}, objects(t, ok(t, first)))
	require.Contains(t, first.errOut, "the first 2 rows; there are more")
	require.Equal(t, []object{{"i": "repeatable read", "r": "on"}}, objects(t, ok(t, s.tenantry("sql", "sun-valley", "--read-only", "--isolation", "repeatable-read",
		"SELECT current_setting('transaction_isolation') AS i, current_setting('transaction_read_only') AS r"))))
	refused := s.tenantry("sql", "sun-valley", "DELETE FROM people", "--read-only", "--json")
	require.Equal(t, "25006", objects(t, refused.errOut)[0]["error"].(map[string]any)["metadata"].(map[string]any)["sqlstate"])
	require.Equal(t, 2, s.tenantry("sql", "sun-valley", "SELECT 1", "--isolation", "chaos").code)
	require.Equal(t, 2, s.tenantry("sql", "sun-valley", "SELECT 1", "--max-rows=-1").code)
	require.Equal(t, 2, s.tenantry("sql", "--all", "SELECT 1", "--isolation", "serializable").code)

	fromStdin := runTenantryIn(t, t.TempDir(), "SELECT count(*) AS n\nFROM people\n", s.variables(), "sql", "sun-valley")
	require.Equal(t, []object{{"n": 1.0}}, objects(t, ok(t, fromStdin)))

	wrong := s.tenantry("sql", "sun-valley", "SELECT nothing FROM people", "--json")
	require.Equal(t, 1, wrong.code)
	failed := objects(t, wrong.errOut)[0]["error"].(map[string]any)
	require.Equal(t, "SQL_ERROR", failed["reason"])
	require.Equal(t, "42703", failed["metadata"].(map[string]any)["sqlstate"])
}

func TestALoginIsKeptForSQLAndEndedByLogout(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun := s.signUp("sun-valley")
	s.signUp("green-grid")

	require.Equal(t, 2, s.tenantry("sql", "@", "SELECT 1").code, "nobody is logged in")
	login := runTenantryIn(t, t.TempDir(), password+"\n", s.variables(), "login", sun.owner)
	require.Equal(t, sun.id, objects(t, ok(t, login))[0]["company_id"])
	file := filepath.Join(s.dir, "state", "tenantry", "session.json")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Equal(t, []object{{"company_slug": "sun-valley"}}, objects(t, ok(t, s.tenantry("sql", "@", "SELECT company_slug FROM main_settings"))))

	// A session near its end is renewed, and the new one kept.
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var kept object
	require.NoError(t, json.Unmarshal(text, &kept))
	kept["expires_at"] = "2020-01-01T00:00:00Z"
	text, err = json.Marshal(kept)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))
	ok(t, s.tenantry("sql", "@", "SELECT 1"))
	renewed, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NotContains(t, string(renewed), kept["refresh_token"])

	elsewhere := s.tenantry("sql", "@", "SELECT 1", "--env", filepath.Join(s.dir, "dev.env"))
	ok(t, elsewhere)
	ok(t, s.tenantry("logout"))
	require.NoFileExists(t, file)

	wrong := runTenantryIn(t, t.TempDir(), "not the password\n", s.variables(), "login", sun.owner, "--json")
	require.Equal(t, 1, wrong.code)
	require.Equal(t, "CREDENTIALS_INVALID", objects(t, wrong.errOut)[0]["error"].(map[string]any)["reason"])
}

func TestExitCodesTellWhoseFaultItIs(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	nowhere := append(s.variables(), "TENANTRY_REGISTRY=127.0.0.1:1", "TENANTRY_PROVISIONER=127.0.0.1:1")
	for name, c := range map[string]struct {
		got  result
		want int
	}{
		"help":                       {runTenantry(t, nil, "--help"), 0},
		"a company that is not":      {s.tenantry("company", "show", "nobody"), 1},
		"a field that is wrong":      {s.tenantry("company", "create", "X", "--owner-email", "no e-mail"), 1},
		"a command that is not":      {runTenantry(t, nil, "frobnicate"), 2},
		"a missing flag":             {runTenantry(t, nil, "company", "create", "X"), 2},
		"no settings":                {runTenantry(t, nil, "company", "list"), 2},
		"a password in an argument":  {runTenantry(t, nil, "registry", "--dsn", "postgres://a:b@c/d", "--tls-ca=x", "--tls-cert=x", "--tls-key=x", "--signing-key=x"), 2},
		"nobody there":               {runTenantry(t, nowhere, "company", "list"), 4},
		"nobody there to sign up":    {runTenantry(t, nowhere, "company", "create", "X", "--owner-email", "x@x.example"), 4},
		"a system that is half down": {runTenantry(t, nowhere, "status"), 4},
		"a healthy server":           {s.tenantry("health", s.env["TENANTRY_GATEWAY"]), 0},
		"no server":                  {s.tenantry("health", "127.0.0.1:1"), 4},
	} {
		require.Equal(t, c.want, c.got.code, "%s\nout:\n%s\nerr:\n%s", name, c.got.out, c.got.errOut)
		if c.want != 0 {
			require.NotEmpty(t, c.got.errOut, name)
		}
	}
}

func TestAnErrorForPeopleNamesTheFieldAndTheNextStep(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.signUp("sun-valley")
	wrong := s.tenantry("company", "create", "X", "--owner-email", "no e-mail")
	require.Contains(t, wrong.errOut, "FIELD_INVALID")
	require.Contains(t, wrong.errOut, "owner.email")
	require.Contains(t, wrong.errOut, `got "no e-mail"`)
	taken := s.tenantry("company", "create", "X", "--slug", "sun-valley", "--owner-email", "x@x.example")
	require.Contains(t, taken.errOut, "SLUG_TAKEN")
	require.Contains(t, taken.errOut, "Choose another with --slug")
}

func TestVerbsFindDevEnvInADirectoryAbove(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	root := t.TempDir()
	below := filepath.Join(root, "a", "b")
	require.NoError(t, os.MkdirAll(filepath.Join(root, ".tenantry"), 0o700))
	require.NoError(t, os.MkdirAll(below, 0o700))
	require.NoError(t, os.Symlink(filepath.Join(s.dir, "dev.env"), filepath.Join(root, ".tenantry", "dev.env")))
	ok(t, runTenantryIn(t, below, "", nil, "company", "list"))
}
