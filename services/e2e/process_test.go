package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is a running tenantry.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  lockedBuffer
	// temp is its directory for temporary files: what it leaves there when it is killed goes with the test.
	temp string
}

// startProcess starts tenantry with these variables added to its environment. It ends with the test binary, also when
// that is killed: Linux tells it when the thread that started it ends, so that thread lives as long as it does. The
// caller stops it.
func startProcess(t testing.TB, variables []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary, args...), done: make(chan struct{}), temp: t.TempDir()}
	p.cmd.Env = append(append(plainEnvironment(), "TMPDIR="+p.temp), variables...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = diesWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // The exit code is what counts, and wait returns it.
		}
		close(p.done)
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		if p.alive() {
			p.kill()
			<-p.done
		}
		if t.Failed() {
			t.Logf("the end of the log of tenantry %v:\n%s", args, p.tail())
		}
	})
	return p
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// terminate asks it to end; kill does not ask.
func (p *process) terminate() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }
func (p *process) kill()      { _ = p.cmd.Process.Kill() }

// wait returns its exit code once it has ended.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		require.Fail(t, "the process does not end", "its log:\n%s", p.output())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) output() string { return p.log.String() }

// tail is the end of its output, and what it said before of things that went wrong: a test that starts processes by the
// dozen would bury what failed under the rest.
func (p *process) tail() string {
	const end, errors = 10, 20
	all := strings.SplitAfter(p.output(), "\n")
	begin := max(0, len(all)-end)
	wrong := slices.DeleteFunc(slices.Clone(all[:begin]), func(line string) bool { return !strings.Contains(line, `"level":"error"`) })
	return strings.Join(append(wrong[max(0, len(wrong)-errors):], all[begin:]...), "")
}

// requireTidy requires that it left no temporary files.
func (p *process) requireTidy(t testing.TB) {
	t.Helper()
	left, err := os.ReadDir(p.temp)
	require.NoError(t, err)
	require.Empty(t, left, "left in %s", p.temp)
}

// lockedBuffer is written by a process and read by a test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
