package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	// versionFile is what initdb leaves in every cluster.
	versionFile = "PG_VERSION"
	// scratchSuffix, and something random, is added to a cluster's path for the directory in which initdb makes it.
	scratchSuffix = ".initdb-"
)

// initCluster makes the cluster unless it is there. It comes to be by one rename, so a kill leaves all of it or nothing.
func (p place) initCluster(ctx context.Context, programs Programs, cfg Config) (err error) {
	if exists(filepath.Join(p.dir, versionFile)) {
		return nil
	}
	scratch, err := os.MkdirTemp(filepath.Dir(p.dir), filepath.Base(p.dir)+scratchSuffix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()

	password := filepath.Join(scratch, "password")
	if err := os.WriteFile(password, []byte(cfg.Password+"\n"), 0o600); err != nil {
		return err
	}
	if p.as != nil {
		if err := chown(scratch, p.as); err != nil {
			return err
		}
	}
	data := filepath.Join(scratch, "data")
	cmd := exec.CommandContext(ctx, programs.Initdb,
		"--pgdata="+data,
		"--username="+cfg.Superuser,
		"--pwfile="+password,
		"--auth=scram-sha-256",
		"--encoding=UTF8",
		// The one locale that is the same on every system.
		"--locale=C",
		"--no-sync",
		"--no-instructions",
	)
	cmd.Env = environment()
	cmd.Dir = "/"
	cmd.SysProcAttr = attributes(p.as)
	tail := &logTail{}
	cmd.Stdout, cmd.Stderr = tail, tail
	child, err := start(cmd)
	if err != nil {
		return fmt.Errorf("start initdb: %w", err)
	}
	<-child.done
	if child.err != nil {
		return fmt.Errorf("initdb: %w\n%s", child.err, tail)
	}

	// An empty directory at the cluster's place is fine, and Go does not rename over one.
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: want nothing, an empty directory or a cluster: %w", p.dir, err)
	}
	return os.Rename(data, p.dir)
}

// environment is all that PostgreSQL's programs get to see: neither the caller's PG* variables nor its secrets, and
// messages in English, which retryable reads.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Remove deletes the cluster that Start made at dir, wherever it is kept, with all its data. It stops a server that a
// dead owner left there, and refuses with ErrOwned while a live one owns it. It is no error if there is none.
func Remove(ctx context.Context, dir string) error {
	if _, err := os.Lstat(filepath.Dir(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	p, err := locate(dir)
	if err != nil {
		return err
	}
	if p.link != "" && !exists(keep) {
		return removeLink(p.link)
	}
	own, err := acquire(ctx, p.lockPath(), removing)
	if err != nil {
		return err
	}
	return errors.Join(p.remove(ctx), own.remove())
}

func (p place) remove(ctx context.Context) error {
	if err := stopLeftover(ctx, p.dir); err != nil {
		return err
	}
	if exists(filepath.Join(p.dir, versionFile)) {
		if err := os.RemoveAll(p.dir); err != nil {
			return err
		}
	} else if err := os.Remove(p.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: want a cluster to remove: %w", p.dir, err)
	}
	// In this order: a cluster whose link is gone is the one that clean may remove.
	return errors.Join(removeLink(p.link), p.clean())
}

func removeLink(link string) error {
	if !isLink(link) {
		return nil
	}
	return os.Remove(link)
}
