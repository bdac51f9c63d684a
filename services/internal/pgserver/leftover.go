package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// leftoverWait is how long a server left by a dead owner gets to shut down, first in order, then at once.
const leftoverWait = 10 * time.Second

// stopLeftover ends the server that runs in dir though its owner is dead: the caller holds the owner's lock. What it
// signals is known to be a postgres of that very directory, for a process id in a file may long be somebody else's.
func stopLeftover(ctx context.Context, dir string) error {
	pid, err := postmasterPID(dir)
	if err != nil || pid == 0 || !serves(pid, dir) {
		return err
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop the server %d left in %s: %w", pid, dir, err)
		}
		gone, err := waitGone(ctx, pid, dir)
		if gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("the server %d left in %s does not stop", pid, dir)
}

func waitGone(ctx context.Context, pid int, dir string) (bool, error) {
	deadline := time.Now().Add(leftoverWait)
	for serves(pid, dir) {
		if time.Now().After(deadline) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait for the server %d left in %s to stop: %w", pid, dir, context.Cause(ctx))
		case <-time.After(pollEvery):
		}
	}
	return true, nil
}

// postmasterPID returns the process id that a server noted in dir, 0 if there is none.
func postmasterPID(dir string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	// A file torn by a crash names nobody; PostgreSQL has its own words for it.
	if pid, bad := strconv.Atoi(strings.TrimSpace(line)); bad == nil && pid > 1 {
		return pid, nil
	}
	return 0, nil
}

// serves says whether the process is a live postgres started on dir.
func serves(pid int, dir string) bool {
	args, err := commandLine(pid)
	if err != nil || len(args) == 0 || filepath.Base(args[0]) != "postgres" {
		return false
	}
	i := slices.Index(args, "-D")
	return i > 0 && i+1 < len(args) && args[i+1] == dir
}
