package pgserver_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// otherOwner starts a process that owns a server in dir, and returns it with the server's DSN.
func otherOwner(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerOf+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(line, "postgres://"), line)
	return cmd, strings.TrimSpace(line)
}

func TestKilledOwnerTakesItsServerAlongAndTheNextFindsTheData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	owner, dsn := otherOwner(t, dir)
	query(t, dsn, "CREATE TABLE kept AS SELECT 7 AS x")
	require.NotEmpty(t, serving(t, dir))

	require.NoError(t, owner.Process.Kill())

	require.Eventually(t, func() bool { return len(serving(t, dir)) == 0 }, 10*time.Second, 20*time.Millisecond)
	server := startServer(t, config(dir))
	require.Equal(t, "7", query(t, server.DSN("postgres"), "SELECT x FROM kept"))
}

func TestStartRightAfterTheOwnersDeathTakesOver(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	owner, dsn := otherOwner(t, dir)
	query(t, dsn, "CREATE TABLE kept AS SELECT 7 AS x")

	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())

	server := startServer(t, config(dir))
	require.Equal(t, "7", query(t, server.DSN("postgres"), "SELECT x FROM kept"))
}

func TestServerLeftRunningByADeadOwnerIsStoppedAndReplaced(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	server := startServer(t, config(dir))
	query(t, server.DSN("postgres"), "CREATE TABLE kept AS SELECT 7 AS x")
	require.NoError(t, server.Stop(t.Context()))

	// What is left where a system cannot tie a program's life to its owner's: a server, and nobody who holds the lock.
	left := runByHand(t, dir, server.Port())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "postmaster.pid"))
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)

	again := startServer(t, config(dir))

	require.NoError(t, left.Wait(), "it must be stopped in order")
	require.NotEqual(t, left.Process.Pid, postmaster(t, dir))
	require.Equal(t, "7", query(t, again.DSN("postgres"), "SELECT x FROM kept"))
}

// runByHand starts a server on an existing cluster as anybody could.
func runByHand(t *testing.T, dir string, port int) *exec.Cmd {
	t.Helper()
	programs, err := pgserver.FindPrograms()
	require.NoError(t, err)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	cmd := exec.Command(programs.Postgres, "-D", dir, "-c", "unix_socket_directories=", "-c", "port="+strconv.Itoa(port))
	cmd.Dir = "/"
	if owner := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

func TestSecondOwnerIsRefusedAndTheFirstUndisturbed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	owner, dsn := otherOwner(t, dir)

	_, err := pgserver.Start(t.Context(), config(dir))

	require.ErrorIs(t, err, pgserver.ErrOwned)
	require.ErrorContains(t, err, "process "+strconv.Itoa(owner.Process.Pid))
	require.Equal(t, "1", query(t, dsn, "SELECT 1"))
}

func TestStaleProcessIdIsNotSignalled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	require.NoError(t, startServer(t, config(dir)).Stop(t.Context()))
	// After a restart of the machine the number in the file may be anybody's.
	bystander := exec.Command("sleep", "60")
	require.NoError(t, bystander.Start())
	exited := make(chan error, 1)
	go func() { exited <- bystander.Wait() }()
	stale := strconv.Itoa(bystander.Process.Pid) + "\n" + dir + "\n0\n1\n\n127.0.0.1\n0 0\nready\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(stale), 0o600))

	require.NoError(t, pgserver.Remove(t.Context(), dir))

	select {
	case err := <-exited:
		require.Fail(t, "a bystander was killed", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	require.NoError(t, bystander.Process.Kill())
	require.Error(t, <-exited)
}

func TestServerOutlivesTheThreadThatStartedIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachable(t), "pg")
	started := make(chan *pgserver.Server)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		server, err := pgserver.Start(context.Background(), config(dir))
		assert.NoError(t, err)
		started <- server
	}()
	server := <-started
	require.NotNil(t, server)
	t.Cleanup(func() { require.NoError(t, server.Stop(context.Background())) })

	select {
	case <-server.Done():
		require.NoError(t, server.Err())
	case <-time.After(300 * time.Millisecond):
	}
	require.Equal(t, "1", query(t, server.DSN("postgres"), "SELECT 1"))
}
