package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// compose is what deploy/compose.yaml says, as far as it is about our image.
type compose struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Command     []string          `yaml:"command"`
		Environment map[string]string `yaml:"environment"`
		Ports       []string          `yaml:"ports"`
		Volumes     []string          `yaml:"volumes"`
		ReadOnly    bool              `yaml:"read_only"`
		User        string            `yaml:"user"`
		CapDrop     []string          `yaml:"cap_drop"`
		Healthcheck struct {
			Test []string `yaml:"test"`
		} `yaml:"healthcheck"`
		DependsOn map[string]any `yaml:"depends_on"`
	} `yaml:"services"`
}

func readCompose(t *testing.T) compose {
	t.Helper()
	text, err := os.ReadFile("../../deploy/compose.yaml")
	require.NoError(t, err)
	var out compose
	require.NoError(t, yaml.Unmarshal(text, &out))
	return out
}

// help is what a command's --help prints.
func help(t *testing.T, verb ...string) string {
	t.Helper()
	out, err := exec.Command(binary, append(verb, "--help")...).CombinedOutput()
	require.NoError(t, err, "%v: %s", verb, out)
	return string(out)
}

func TestTheComposeFileNamesOnlyWhatExists(t *testing.T) {
	t.Parallel()
	// What setup.sh makes is what the services mount.
	deploy := filepath.Join(newDirectory(t), "deploy")
	require.NoError(t, os.Mkdir(deploy, 0o755))
	script, err := os.ReadFile("../../deploy/setup.sh")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(deploy, "setup.sh"), script, 0o755))
	for range 2 { // It may be repeated, and changes nothing then.
		cmd := exec.Command(filepath.Join(deploy, "setup.sh"))
		cmd.Env = append(plainEnvironment(), "TENANTRY="+binary)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	variables, err := os.ReadFile(filepath.Join(deploy, ".env"))
	require.NoError(t, err)

	c := readCompose(t)
	ours := 0
	for name, s := range c.Services {
		for need := range s.DependsOn {
			require.Contains(t, c.Services, need, "%s waits for it", name)
		}
		whole := fmt.Sprint(s)
		for _, m := range regexp.MustCompile(`\$\{([A-Z_]+)\}`).FindAllStringSubmatch(whole, -1) {
			require.Contains(t, string(variables), m[1]+"=", "%s needs the variable", name)
		}
		if s.Image != "tenantry" {
			continue
		}
		ours++
		require.True(t, s.ReadOnly, name)
		require.Equal(t, []string{"ALL"}, s.CapDrop, name)
		require.NotEmpty(t, s.User, name)
		for _, path := range regexp.MustCompile(`/tenantry/[a-z./-]+`).FindAllString(whole, -1) {
			require.FileExists(t, filepath.Join(deploy, "local", strings.TrimPrefix(path, "/tenantry/")), "%s names it", name)
		}
		requireCommand(t, name, s.Command, s.Environment)
		for _, port := range s.Ports {
			parts := strings.Split(port, ":")
			require.Contains(t, strings.Join(s.Command, " "), "--listen :"+parts[2], "%s publishes it", name)
			require.Equal(t, []string{"CMD", "/usr/local/bin/tenantry", "health", "localhost:" + parts[2]}, s.Healthcheck.Test, name)
		}
	}
	require.Equal(t, 5, ours)
}

// requireCommand requires that the program has a service's verb, its flags and its variables.
func requireCommand(t *testing.T, service string, command []string, environment map[string]string) {
	t.Helper()
	var verb []string
	for _, word := range command {
		if strings.HasPrefix(word, "-") {
			break
		}
		verb = append(verb, word)
	}
	// The last words may be arguments; the verb is what has a help of its own.
	text := help(t, verb[:min(len(verb), 2)]...)
	for _, word := range command {
		if strings.HasPrefix(word, "--") {
			require.Contains(t, text, word, "%s has no such flag", service)
		}
	}
	known := help(t) + help(t, "registry") + help(t, "provisioner") + help(t, "gateway") + help(t, "migrate")
	for name := range environment {
		require.Contains(t, known, name, "%s sets a variable that nothing reads", service)
	}
}

func TestTheImagesProgramIsStaticAndItsBuildNamesWhatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/Dockerfile")
	require.NoError(t, err)
	dockerfile := string(text)
	for _, line := range strings.Split(dockerfile, "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "COPY" && !strings.HasPrefix(fields[1], "--from") {
			for _, source := range fields[1 : len(fields)-1] {
				_, err := os.Stat(filepath.Join("../..", source))
				require.NoError(t, err, line)
			}
		}
	}
	require.Contains(t, dockerfile, "\nUSER 65532:65532\n")
	require.Contains(t, dockerfile, "\nFROM scratch\n")

	static := filepath.Join(t.TempDir(), "tenantry")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", static, "./services/cmd/tenantry")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, dockerfile, `CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/tenantry ./services/cmd/tenantry`)
	out, err = exec.Command("ldd", static).CombinedOutput()
	require.Error(t, err, "a static program has no libraries: %s", out)
	// Alone in a directory it still runs.
	version, err := exec.Command(static, "--version").CombinedOutput()
	require.NoError(t, err, "%s", version)
}
