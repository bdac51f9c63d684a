package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// sets is a directory of migration sets that grows.
type sets struct {
	dir, binary string
	files       int
}

// newSets makes a directory for `--migrations`.
func newSets(binary string) (*sets, error) {
	dir, err := os.MkdirTemp("", "tenantry-bench-sets-")
	if err != nil {
		return nil, err
	}
	return &sets{dir: dir, binary: binary}, nil
}

// copyCore copies the sets that Tenantry comes with.
func (s *sets) copyCore() error {
	for _, name := range []string{"core", "plugins"} {
		if err := os.CopyFS(filepath.Join(s.dir, name), os.DirFS(filepath.Join("services", "provisioner", "migrations", name))); err != nil {
			return err
		}
	}
	for _, name := range []string{"seed.sql", "clone.sql"} {
		data, err := os.ReadFile(filepath.Join("services", "provisioner", "migrations", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s *sets) core() string { return filepath.Join(s.dir, "core") }

// file is a migration.
type file struct{ version, description, sql string }

// small is the next small migration: a table with an index, or a column.
func (s *sets) small() file {
	s.files++
	f := file{version: fmt.Sprintf("20270101%06d", s.files)}
	if s.files%2 == 1 {
		f.description = fmt.Sprintf("table_%d", s.files)
		f.sql = fmt.Sprintf("CREATE TABLE bench_%d (id bigint PRIMARY KEY, name text NOT NULL, made timestamptz);\nCREATE INDEX bench_%d_name ON bench_%d (name);\n", s.files, s.files, s.files)
	} else {
		f.description = fmt.Sprintf("column_%d", s.files)
		f.sql = fmt.Sprintf("ALTER TABLE bench_%d ADD COLUMN note text;\n", s.files-1)
	}
	return f
}

// add writes n more small migrations and the set's sum.
func (s *sets) add(ctx context.Context, n int) ([]file, error) {
	var added []file
	for range n {
		f := s.small()
		if err := os.WriteFile(filepath.Join(s.core(), f.version+"_"+f.description+".sql"), []byte(f.sql), 0o600); err != nil {
			return nil, err
		}
		added = append(added, f)
	}
	return added, s.hash(ctx)
}

func (s *sets) hash(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, s.binary, "migration", "hash", "core", "--migrations", s.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("tenantry migration hash: %w\n%s", err, out)
	}
	return nil
}

func (s *sets) remove() error { return os.RemoveAll(s.dir) }
