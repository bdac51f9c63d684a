package pgtest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// role, in the environment, makes this binary play a part in one of its own tests.
const (
	role   = "PGTEST_TEST_ROLE"
	victim = "victim" // starts the shared server, and waits to be killed
	leaker = "leaker" // leaves a goroutine behind
)

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case victim:
		beKilled()
	case leaker:
		go func() { select {} }()
	}
	Main(m)
}

func beKilled() {
	s := &suite{}
	server, err := s.server()
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(server.Config().Dir, server.DSN("postgres"))
	<-server.Done()
}

func as(part string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(append(os.Environ(), role+"="+part), env...)
	return cmd
}

func TestWhatAKilledTestBinaryLeftGoesWithTheNext(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	cmd := as(victim, "TMPDIR="+parent)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	dir, dsn, found := strings.Cut(strings.TrimSpace(line), " ")
	require.True(t, found, line)
	cluster, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	_, err = pgconn.Connect(t.Context(), strings.Replace(dsn, "postgres?", "none?", 1))
	require.ErrorContains(t, err, "3D000", "the victim's server must be running")

	// Others come and go meanwhile, and leave it alone.
	require.NoError(t, sweep(parent))
	require.FileExists(t, filepath.Join(cluster, "postmaster.pid"))

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.NoError(t, sweep(parent))

	require.NoDirExists(t, cluster, "as root, the data is elsewhere")
	require.Empty(t, entries(t, parent))
	_, err = pgconn.Connect(t.Context(), dsn)
	require.ErrorContains(t, err, "connection refused")
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, entry := range list {
		names = append(names, entry.Name())
	}
	return names
}

func TestSweepTakesOnlyWhatIsSurelyDead(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	live, err := newDirectory(parent)
	require.NoError(t, err)
	dead, err := newDirectory(parent)
	require.NoError(t, err)
	require.NoError(t, dead.lock.Close())
	young, old := filepath.Join(parent, directoryPrefix+"young"), filepath.Join(parent, directoryPrefix+"old")
	require.NoError(t, os.Mkdir(young, 0o700))
	require.NoError(t, os.Mkdir(old, 0o700))
	hourAgo := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(old, hourAgo, hourAgo))
	elsewhere := filepath.Join(t.TempDir(), "precious")
	require.NoError(t, os.Mkdir(elsewhere, 0o700))
	require.NoError(t, os.Chtimes(elsewhere, hourAgo, hourAgo))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(parent, directoryPrefix+"link")))
	require.NoError(t, os.Mkdir(filepath.Join(parent, "unrelated"), 0o700))

	require.NoError(t, sweep(parent))

	require.ElementsMatch(t, []string{filepath.Base(live.path), filepath.Base(young), directoryPrefix + "link", "unrelated"}, entries(t, parent))
	require.DirExists(t, elsewhere)
	require.NoError(t, live.remove(t.Context()))
	require.NoDirExists(t, live.path)
}

func TestLeakedGoroutineFailsTheBinary(t *testing.T) {
	t.Parallel()
	cmd := as(leaker, "TMPDIR="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr

	err := cmd.Run()

	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, stderr.String(), "goroutines leaked")
}
