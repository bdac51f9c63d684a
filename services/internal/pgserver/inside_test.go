package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPassingADirectoryFollowsTheKernelsRule(t *testing.T) {
	t.Parallel()
	as := &syscall.Credential{Uid: 101, Gid: 104, Groups: []uint32{104, 7}}
	for _, c := range []struct {
		perm     fs.FileMode
		uid, gid uint32
		want     bool
	}{
		{0o711, 0, 0, true},
		{0o700, 0, 0, false},
		{0o700, 101, 0, true},
		{0o071, 101, 104, false}, // the owner's own bits count, though all others may
		{0o710, 0, 104, true},
		{0o710, 0, 7, true},
		{0o701, 0, 7, false},
		{0o710, 0, 8, false},
		{0o744, 0, 0, false}, // reading is not passing
	} {
		require.Equal(t, c.want, mayPass(as, c.perm, c.uid, c.gid), "%v %d:%d", c.perm, c.uid, c.gid)
	}
}

func TestReachingNeedsEveryDirectoryAbove(t *testing.T) {
	t.Parallel()
	stranger := &syscall.Credential{Uid: 4242424, Gid: 4242424}
	// Not TMPDIR, which may itself be out of the stranger's reach.
	top, err := os.MkdirTemp("/tmp", "pgserver-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(top)) })
	inner := filepath.Join(top, "inner")
	require.NoError(t, os.Mkdir(inner, 0o755))
	for _, c := range []struct {
		top, inner fs.FileMode
		want       bool
	}{
		{0o711, 0o755, true},
		{0o700, 0o755, false},
		{0o711, 0o700, false},
	} {
		require.NoError(t, os.Chmod(top, c.top))
		require.NoError(t, os.Chmod(inner, c.inner))
		got, err := canReach(stranger, inner)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%v/%v", c.top, c.inner)
	}
}

// installation writes programs that say they are of a version.
func installation(t *testing.T, dir, version string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestProgramsAreFoundWhereTheyAreLookedForInOrder(t *testing.T) {
	t.Parallel()
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	named := installation(t, filepath.Join(top, "named"), "18devel")
	onPath := installation(t, filepath.Join(top, "path"), "16.1 (Debian 16.1-1.pgdg)")
	installation(t, filepath.Join(top, "lib", "9.6", "bin"), "9.6.24")
	installation(t, filepath.Join(top, "lib", "15", "bin"), "15.13")
	newest := installation(t, filepath.Join(top, "lib", "17", "bin"), "17beta1")
	clientOnly := filepath.Join(top, "lib", "18", "bin")
	require.NoError(t, os.MkdirAll(clientOnly, 0o755))
	links := filepath.Join(top, "links")
	require.NoError(t, os.MkdirAll(links, 0o755))
	require.NoError(t, os.Symlink(filepath.Join(onPath, "postgres"), filepath.Join(links, "postgres")))
	patterns := []string{filepath.Join(top, "lib", "*", "bin")}
	path := strings.Join([]string{"relative", filepath.Join(top, "missing"), onPath}, string(os.PathListSeparator))

	for name, c := range map[string]struct {
		env     []string
		dir     string
		version int
	}{
		"TENANTRY_PG_BIN goes first":             {[]string{"TENANTRY_PG_BIN", named, "PATH", path}, named, 18},
		"PATH goes before the usual places":      {[]string{"PATH", path}, onPath, 16},
		"links lead to the whole installation":   {[]string{"PATH", links}, onPath, 16},
		"the newest whole one of a usual place":  {[]string{"PATH", filepath.Join(top, "missing")}, newest, 17},
		"nothing in the environment, none asked": {nil, newest, 17},
	} {
		got, err := findPrograms(environ(c.env...), patterns)
		require.NoError(t, err, name)
		require.Equal(t, Programs{Dir: c.dir, Initdb: filepath.Join(c.dir, "initdb"), Postgres: filepath.Join(c.dir, "postgres"), Version: c.version}, got, name)
	}
}

func TestMissingProgramsSayWhereTheyWereLookedForAndWhatToDo(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	old := installation(t, filepath.Join(top, "old"), "14.9")
	for name, c := range map[string]struct {
		env  []string
		want []string
	}{
		"nowhere":         {nil, []string{"TENANTRY_PG_BIN is not set", "PATH", top + "/none/*", "run `make deps`"}},
		"too old on PATH": {[]string{"PATH", old}, []string{old, "version: got 14, want 15 or newer", "run `make deps`"}},
		"named but empty": {[]string{"TENANTRY_PG_BIN", top}, []string{"TENANTRY_PG_BIN: got " + top, "version 15 or newer"}},
		"named but old":   {[]string{"TENANTRY_PG_BIN", old}, []string{"version: got 14"}},
	} {
		_, err := findPrograms(environ(c.env...), []string{filepath.Join(top, "none", "*")})
		for _, want := range c.want {
			require.ErrorContains(t, err, want, name)
		}
	}
}

func TestLockOnARemovedFileIsNoLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg.lock")
	first, err := acquireNow(path, "")
	require.NoError(t, err)
	_, err = acquireNow(path, "")
	require.ErrorIs(t, err, ErrOwned)
	require.ErrorContains(t, err, fmt.Sprintf("process %d holds", os.Getpid()))

	require.NoError(t, first.remove())
	second, err := acquireNow(path, "")
	require.NoError(t, err)
	_, err = acquireNow(path, "")
	require.ErrorIs(t, err, ErrOwned)
	require.NoError(t, second.release())
	third, err := acquireNow(path, "")
	require.NoError(t, err)
	require.NoError(t, third.release())
}

func TestWhoOnlyRemovesAClusterIsWaitedForAndAnyOtherIsNot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg.lock")
	remover, err := acquireNow(path, removing)
	require.NoError(t, err)
	_, err = acquireNow(path, removing)
	require.ErrorIs(t, err, errRemoving)
	require.ErrorIs(t, err, ErrOwned)
	ctx, cancel := context.WithTimeout(t.Context(), 3*glance)
	defer cancel()
	_, err = acquire(ctx, path, "")
	require.ErrorIs(t, err, errRemoving)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	type result struct {
		own *owner
		err error
	}
	got := make(chan result)
	go func() {
		own, err := acquire(t.Context(), path, "")
		got <- result{own, err}
	}()
	select {
	case early := <-got:
		require.Fail(t, "it did not wait", "%v", early.err)
	case <-time.After(3 * glance):
	}
	require.NoError(t, remover.remove())
	next := <-got
	require.NoError(t, next.err)

	_, err = acquire(t.Context(), path, "")
	require.ErrorIs(t, err, ErrOwned)
	require.NotErrorIs(t, err, errRemoving)
	require.ErrorContains(t, err, fmt.Sprintf("process %d holds", os.Getpid()))
	require.NoError(t, next.own.release())
}

func TestLogTailKeepsTheLastWholeLinesAndNeverFails(t *testing.T) {
	t.Parallel()
	tail := &logTail{next: brokenWriter{}}
	for i := range 1000 {
		line := fmt.Sprintf("line %d\n", i)
		n, err := tail.Write([]byte(line))
		require.NoError(t, err)
		require.Equal(t, len(line), n)
	}
	lines := strings.Split(tail.String(), "\n")
	require.Equal(t, "line 999", lines[len(lines)-1])
	require.Regexp(t, `^line \d+$`, lines[0])
	require.Less(t, len(tail.String()), tailBytes)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestARightThatIsGivenUpIsFreeThoughAChildStillHasTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg.lock")
	first, err := acquireNow(path, "")
	require.NoError(t, err)
	child, err := syscall.Dup(int(first.file.Fd())) // As a program has it that is being started.
	require.NoError(t, err)
	defer func() { require.NoError(t, syscall.Close(child)) }()
	require.NoError(t, first.release())
	second, err := acquireNow(path, "")
	require.NoError(t, err)
	require.NoError(t, second.remove())
}
