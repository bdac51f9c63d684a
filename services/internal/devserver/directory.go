package devserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// EnvironmentFile is the name of the file, in the data directory, that tells how to reach the system.
const EnvironmentFile = "dev.env"

// ErrRunning says that the data directory is another running process's.
var ErrRunning = errors.New("another `tenantry dev` runs on this data directory")

// directory is the data directory, held by a lock that the kernel takes back when the process dies, however it dies.
type directory struct {
	path      string
	temporary bool
	lock      *os.File
}

// openDirectory makes the directory where it is missing, takes its lock, and removes the dev.env of a start that was
// killed.
func openDirectory(path string, temporary bool) (*directory, error) {
	if path == "" {
		return nil, errors.New("data directory: got nothing, want a path")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if temporary {
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("data directory: %w", err)
		}
		if len(entries) > 0 {
			return nil, fmt.Errorf("data directory: got %s, which holds something; want one that may be deleted: missing or empty", path)
		}
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		// PostgreSQL, which root must run as another user, has to get through; what is secret is closed further down.
		if err := os.MkdirAll(path, 0o711); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	// The lock stays when the directory's content goes: it is beside the content only as far as this process minds.
	lock, err := lockFile(filepath.Join(path, "dev.lock"))
	if err != nil {
		return nil, err
	}
	d := &directory{path: path, temporary: temporary, lock: lock}
	if err := removeFile(d.env()); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

func lockFile(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := io.ReadAll(io.LimitReader(lock, 32)) // Who it is only makes the message better.
		return nil, errors.Join(fmt.Errorf("%w: process %s holds %s", ErrRunning, strings.TrimSpace(string(holder)), path), lock.Close())
	}
	if err == nil {
		err = lock.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(lock, "%d\n", os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), lock.Close())
	}
	return lock, nil
}

func (d *directory) env() string          { return filepath.Join(d.path, EnvironmentFile) }
func (d *directory) postgres() string     { return filepath.Join(d.path, "postgres") }
func (d *directory) postgresLog() string  { return filepath.Join(d.path, "postgres.log") }
func (d *directory) certificates() string { return filepath.Join(d.path, "certificates") }
func (d *directory) keys() string         { return filepath.Join(d.path, "keys") }

// close gives the directory up, and deletes it when it is temporary.
func (d *directory) close() error {
	if d.lock == nil {
		return nil
	}
	var problems []error
	if d.temporary {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		// Where PostgreSQL cannot run in the directory, the cluster is elsewhere, and only pgserver knows.
		problems = append(problems, pgserver.Remove(ctx, d.postgres()), os.RemoveAll(d.path))
	}
	problems = append(problems, d.lock.Close())
	d.lock = nil
	return errors.Join(problems...)
}
