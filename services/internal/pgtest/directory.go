package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

const (
	directoryPrefix = "tenantry-test-"
	clusterPrefix   = "cluster-"
	ownerLock       = "owner.lock"
	// unclaimed is how old a directory must be before the lack of a lock in it means that its maker is dead, and not
	// that it is about to lock it.
	unclaimed = time.Minute
)

// directory is where a test binary keeps its clusters. It holds a lock in it for as long as it lives, so that those who
// come after a killed one can tell that what it left may go.
type directory struct {
	path string
	lock *os.File
}

// newDirectory makes a directory in parent, and first removes those there whose owners are dead.
func newDirectory(parent string) (*directory, error) {
	if err := sweep(parent); err != nil {
		// It is in nobody's way but the disk's, and no reason why today's tests should fail.
		fmt.Fprintln(os.Stderr, "pgtest: remove what killed tests left:", err)
	}
	path, err := os.MkdirTemp(parent, directoryPrefix)
	if err != nil {
		return nil, err
	}
	lock, err := lockIn(path)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	if lock == nil {
		return nil, fmt.Errorf("%s was taken by another process", path)
	}
	// As root, PostgreSQL runs as another user, who has to get through.
	if err := os.Chmod(path, 0o711); err != nil {
		return nil, errors.Join(err, lock.Close(), os.RemoveAll(path))
	}
	return &directory{path: path, lock: lock}, nil
}

// lockIn locks a directory, and returns nil when somebody else has.
func lockIn(path string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, ownerLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, lock.Close()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// remove deletes the directory and gives up the lock.
func (d *directory) remove(ctx context.Context) error {
	clusters, err := filepath.Glob(filepath.Join(d.path, clusterPrefix+"*"))
	problems := []error{err}
	for _, path := range clusters {
		// Where PostgreSQL's user cannot get here, the cluster is only a link, and its data elsewhere.
		if filepath.Ext(path) == "" {
			problems = append(problems, pgserver.Remove(ctx, path))
		}
	}
	problems = append(problems, os.RemoveAll(d.path), d.lock.Close())
	return errors.Join(problems...)
}

// sweep removes the directories in parent that test binaries left which were killed.
func sweep(parent string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	paths, err := filepath.Glob(filepath.Join(parent, directoryPrefix+"*"))
	if err != nil {
		return err
	}
	var problems []error
	for _, path := range paths {
		left, err := leftAt(path)
		if left != nil {
			err = left.remove(ctx)
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// leftAt returns the directory, locked, if its owner is dead; else nil. Others may be removing it at this moment.
func leftAt(path string) (*directory, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() {
		return nil, nil
	}
	if _, err := os.Lstat(filepath.Join(path, ownerLock)); errors.Is(err, fs.ErrNotExist) && time.Since(info.ModTime()) < unclaimed {
		return nil, nil
	}
	lock, err := lockIn(path)
	if errors.Is(err, fs.ErrNotExist) || lock == nil && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &directory{path: path, lock: lock}, nil
}
