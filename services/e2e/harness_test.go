// Package e2e tests the whole system as its users meet it: the real binary in real processes, called over gRPC and by
// its command line, and killed.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/tenantry/tenantry/services/internal/devserver"
	"github.com/tenantry/tenantry/services/internal/pgserver"
	"github.com/tenantry/tenantry/services/internal/pgtest"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// patience bounds every wait, so that what hangs fails with a message. It is long because tests share few processors.
const patience = 2 * time.Minute

// binary is the path of the tenantry that TestMain built. Tests are functions that the testing package calls with
// nothing of ours, so it can only reach them through a variable; TestMain alone sets it, before any test runs.
var binary string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tenantry-e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // It is in nobody's way.
	binary = filepath.Join(dir, "tenantry")
	// Without the race detector, even when these tests run with it: that starts six times as slowly, and every package
	// has tests of its own that run with it.
	// As the image and `make build` do it, so that all is compiled once.
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/tenantry/tenantry/services/cmd/tenantry")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: build tenantry:", err)
		return 1
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: goroutines leaked:", err)
			return 1
		}
	}
	return code
}

// system is a `tenantry dev` of a test's own.
type system struct {
	t   testing.TB
	dir string
	// args are those of `tenantry dev` besides its directory and ports.
	args []string
	dev  *process
	// env are the variables of dev.env.
	env map[string]string
}

// newSystem starts a system in a new directory. When the test ends it is stopped, in order if it still runs, and deleted.
func newSystem(t testing.TB, args ...string) *system {
	t.Helper()
	s := &system{t: t, dir: filepath.Join(newDirectory(t), "data"), args: args}
	t.Cleanup(func() {
		if s.dev != nil && s.dev.alive() {
			s.stop()
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, pgserver.Remove(ctx, filepath.Join(s.dir, "postgres")))
	})
	s.start()
	return s
}

// newDirectory makes a directory that PostgreSQL's user can get through, unlike t.TempDir's, and deletes it at the end.
func newDirectory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(pgtest.Root(), "tenantry-e2e-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

// start starts the system, and waits until dev.env tells that everything answers.
func (s *system) start() {
	s.t.Helper()
	path := filepath.Join(s.dir, devserver.EnvironmentFile)
	// One that was killed leaves its file, which the next removes.
	old, _ := os.Stat(path)
	// Most tests are over before a spare would be taken. Those that want some say so.
	s.dev = startProcess(s.t, nil, append([]string{"dev", "--data", s.dir, "--ephemeral-ports", "--spares", "0"}, s.args...)...)
	require.Eventually(s.t, func() bool {
		info, err := os.Stat(path)
		return err == nil && !os.SameFile(old, info) || !s.dev.alive()
	}, patience, 10*time.Millisecond)
	require.True(s.t, s.dev.alive(), "tenantry dev ended:\n%s", s.dev.output())
	env, err := devserver.ReadEnvironment(path)
	require.NoError(s.t, err)
	s.env = env
}

// stop asks the system to end as an orchestrator does, and requires that it does so well.
func (s *system) stop() {
	s.t.Helper()
	s.dev.terminate()
	require.Equal(s.t, 0, s.dev.wait(s.t), "tenantry dev did not stop well:\n%s", s.dev.output())
	s.dev.requireTidy(s.t)
}

// kill ends the system as a crash does.
func (s *system) kill() {
	s.t.Helper()
	s.dev.kill()
	s.dev.wait(s.t)
}

// postgresPID is the process id of the system's database server; 0 when its directory names none.
func (s *system) postgresPID() int {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "postgres", "postmaster.pid"))
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(s.t, err)
	var pid int
	_, err = fmt.Sscan(string(text), &pid)
	require.NoError(s.t, err)
	return pid
}

// The ports that freeAddress has to give: below the ones that systems hand out to whoever asks for any, or connects to
// somewhere, and below pgserver's. Each is given once, so that no test takes what another was given and does not listen at
// yet. Tests share nothing else that could count them.
const firstPort, lastPort = 10000, 19999

var given atomic.Int64

// freeAddress is an address of the loopback that nobody listens at.
func freeAddress(t testing.TB) string {
	t.Helper()
	for {
		n := given.Add(1)
		require.LessOrEqual(t, n, int64(lastPort-firstPort), "no port is free any more")
		// Another run of these tests begins elsewhere.
		port := firstPort + (int64(os.Getpid())*97+n)%(lastPort-firstPort+1)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.FormatInt(port, 10)))
		if err != nil {
			continue
		}
		require.NoError(t, l.Close())
		return l.Addr().String()
	}
}

// Who calls: the prefix of the variables that name a certificate.
const (
	asOperator = "TENANTRY_OPERATOR"
	asSignup   = "TENANTRY_SIGNUP"
	asNobody   = ""
)

// dial connects to the service whose address is a variable of dev.env, as an operator, the signup flow or nobody.
func (s *system) dial(address, as string) *grpc.ClientConn {
	s.t.Helper()
	files := rpc.TLS{CA: s.env["TENANTRY_CA"]}
	if as != asNobody {
		files.Cert, files.Key = s.env[as+"_CERT"], s.env[as+"_KEY"]
	}
	conn, err := rpc.Dial(s.env[address], files)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, conn.Close()) })
	return conn
}

// result is how a command ended.
type result struct {
	code        int
	out, errOut string
}

// tenantry runs a command against the system.
func (s *system) tenantry(args ...string) result {
	s.t.Helper()
	return runTenantry(s.t, s.variables(), args...)
}

// variables are the system's, as a process's environment.
func (s *system) variables() []string {
	// The session of `login` is the system's, too.
	vars := []string{"XDG_STATE_HOME=" + filepath.Join(s.dir, "state")}
	for name, value := range s.env {
		vars = append(vars, name+"="+value)
	}
	return vars
}

// runTenantry runs a command with nothing in its environment but these variables and what programs need.
func runTenantry(t testing.TB, variables []string, args ...string) result {
	t.Helper()
	return runTenantryIn(t, t.TempDir(), "", variables, args...)
}

// runTenantryIn runs a command in a directory, with a text on standard input.
func runTenantryIn(t testing.TB, dir, stdin string, variables []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = append(plainEnvironment(), variables...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// plainEnvironment is what is around us without any setting of Tenantry's, save where its programs are.
func plainEnvironment() []string {
	var env []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "TENANTRY_") || name == "TENANTRY_PG_BIN" {
			env = append(env, v)
		}
	}
	if path := atlasCLI(); path != "" {
		env = append(env, "TENANTRY_ATLAS_BIN="+path)
	}
	return env
}

// atlasCLI is the Atlas command line of the working tree: the binary under test is not beside it.
func atlasCLI() string {
	if path := os.Getenv("TENANTRY_ATLAS_BIN"); path != "" {
		return path
	}
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		path := filepath.Join(dir, "bin", "atlas")
		if _, err := os.Stat(path); err == nil {
			return path
		}
		dir = filepath.Dir(dir)
	}
	return ""
}
