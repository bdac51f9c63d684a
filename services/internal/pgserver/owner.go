package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrOwned says that another live process owns the cluster.
var ErrOwned = errors.New("another process owns this PostgreSQL server")

// owner is the right to run the cluster in one directory. The kernel takes it back when the process dies, however it
// dies, which a file with a process id in it cannot promise.
type owner struct {
	file *os.File
}

// errRemoving says that whoever owns the cluster is about to have removed it.
var errRemoving = fmt.Errorf("%w: it is being removed", ErrOwned)

// removing is what is written behind the process id of one who removes the cluster.
const removing = " removing"

const (
	// glance is how long one may take to write what it owns the cluster for.
	glance = 50 * time.Millisecond
	// removal is how long the removal of a cluster may take.
	removal = time.Minute
)

// acquire takes the right to the cluster whose lock is at path, to run it or, where what is removing, for that: ErrOwned
// when it is another's. One who only removes what is there is waited for.
func acquire(ctx context.Context, path, what string) (*owner, error) {
	begun := time.Now()
	for {
		o, err := acquireNow(path, what)
		waited := time.Since(begun)
		if !errors.Is(err, ErrOwned) || waited > removal || waited > glance && !errors.Is(err, errRemoving) {
			return o, err
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
}

// acquireNow is acquire that waits for nobody.
func acquireNow(path, what string) (*owner, error) {
	for {
		o, err := tryAcquire(path, what)
		if o != nil || err != nil {
			return o, err
		}
	}
}

// tryAcquire returns nothing at all when the file was removed between opening and locking it: the lock then held is on
// a file that nobody else will ever see.
func tryAcquire(path, what string) (*owner, error) {
	file, err := openLock(path)
	if err != nil {
		return nil, fmt.Errorf("open the owner's lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(file, 32)) // who it is only makes the message better
		err = errors.Join(lockError(path, strings.TrimSpace(string(holder)), err), file.Close())
		return nil, err
	}
	locked, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(locked, named) {
		return nil, file.Close()
	}
	if err := file.Truncate(0); err == nil {
		// A lock file made by another user may be locked though not written; the id in it is a courtesy.
		_, _ = fmt.Fprintf(file, "%d%s\n", os.Getpid(), what)
	}
	return &owner{file: file}, nil
}

// openLock opens for writing where it may: someone who ran a command once as root must still be able to lock the file
// as himself.
func openLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if errors.Is(err, os.ErrPermission) {
		return os.Open(path)
	}
	return file, err
}

func lockError(path, holder string, err error) error {
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if pid, ok := strings.CutSuffix(holder, removing); ok {
		return fmt.Errorf("%w by process %s, which holds %s", errRemoving, pid, path)
	}
	if holder != "" {
		return fmt.Errorf("%w: process %s holds %s", ErrOwned, holder, path)
	}
	return fmt.Errorf("%w: its lock is %s", ErrOwned, path)
}

// release gives the right up. Closing the file would do that only once no child has it open, and between its fork and its
// exec each program that this process starts does for a moment.
func (o *owner) release() error {
	return errors.Join(syscall.Flock(int(o.file.Fd()), syscall.LOCK_UN), o.file.Close())
}

// remove deletes the lock file while still holding it, then gives the right up.
func (o *owner) remove() error {
	return errors.Join(os.Remove(o.file.Name()), o.file.Close())
}
