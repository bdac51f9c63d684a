package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

func TestEveryCommandTeachesByExample(t *testing.T) {
	t.Parallel()
	var r root
	parser, err := kong.New(&r, kong.Vars{"version": ""})
	require.NoError(t, err)
	for _, leaf := range parser.Model.Leaves(true) {
		path := strings.TrimPrefix(leaf.FullPath(), parser.Model.Name+" ")
		path, _, _ = strings.Cut(path, " <")
		got := command(t, nil, append(strings.Fields(path), "--help")...)
		require.Equal(t, 0, got.code, path)
		_, example, found := strings.Cut(got.out, "Example:")
		require.True(t, found, "%s --help has no example:\n%s", path, got.out)
		require.Contains(t, example, "tenantry "+path)
	}
}

func TestTheHelpListsEveryExitCode(t *testing.T) {
	t.Parallel()
	got := command(t, nil, "--help")
	_, codes, found := strings.Cut(got.out, "Exit codes:")
	require.True(t, found)
	for _, code := range []string{"0    done", "1    ", "2    ", "3    ", "4    ", "130  "} {
		require.Contains(t, codes, "\n    "+code)
	}
}

func TestAWrongCommandLineNamesTheCommandsOwnHelp(t *testing.T) {
	t.Parallel()
	got := command(t, nil, "company", "suspend", "sun-valley")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.problem, "--reason")
	require.Contains(t, got.problem, "`tenantry company suspend")
	require.Contains(t, got.problem, "--help`")
}

func TestUsageErrorsAreJSONWhenAskedFor(t *testing.T) {
	t.Parallel()
	got := command(t, map[string]string{"TENANTRY_REGISTRY": "127.0.0.1:1"}, "company", "list", "--json", "--state", "sleepy")
	require.Equal(t, exitUsage, got.code)
	require.JSONEq(t, `{"error": {"message": "--state: got \"sleepy\", want provisioning, active, suspended, maintenance, deleting, deleted or failed", "exit_code": 2}}`, got.problem)
}

func TestSettingsComeFromTheEnvironmentThenFromTheNamedFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "some.env")
	require.NoError(t, os.WriteFile(file, []byte("# a comment\n\nTENANTRY_GATEWAY=file:1\nexport TENANTRY_CA='/a b/it'\\''s.pem'\n"), 0o600))
	s := &settings{file: file, getenv: func(name string) string {
		return map[string]string{"TENANTRY_GATEWAY": "environment:1"}[name]
	}}
	for name, want := range map[string]string{"TENANTRY_GATEWAY": "environment:1", "TENANTRY_CA": "/a b/it's.pem", "TENANTRY_REGISTRY": ""} {
		got, err := s.get(name)
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	_, err := s.need("TENANTRY_REGISTRY")
	require.ErrorContains(t, err, "TENANTRY_REGISTRY is not set")
	require.Equal(t, exitUsage, exitCode(err))

	_, err = (&settings{file: file + ".not", getenv: func(string) string { return "" }}).get("TENANTRY_CA")
	require.Equal(t, exitUsage, exitCode(err), "a file that was named must be there")
}
