// Package atlascli runs the Atlas command line for what it is the authority on: applying a set to an empty database
// when a template is built, and telling where a database stands. Migrating a fleet is package migrate's.
//
// Where it was cut off from the database, or was killed, errors are UNAVAILABLE `ATLAS_CUT_OFF`.
//
// Nothing here logs in or calls home, and no password appears on a command line.
package atlascli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"ariga.io/atlas-go-sdk/atlasexec"
)

// binary is the program's name, and Variable the environment variable that says where it is.
const (
	binary   = "atlas"
	Variable = "TENANTRY_ATLAS_BIN"
)

// Find returns the path of the Atlas CLI: what TENANTRY_ATLAS_BIN says, else the program beside this one, else bin/atlas
// here or in a directory above, else atlas on PATH.
func Find() (string, error) {
	if path := os.Getenv(Variable); path != "" {
		if !runs(path) {
			return "", fmt.Errorf("atlas: %s says %s, which is no program", Variable, path)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), binary); runs(path) {
			return path, nil
		}
	}
	if dir, err := os.Getwd(); err == nil {
		for ; ; dir = filepath.Dir(dir) {
			if path := filepath.Join(dir, "bin", binary); runs(path) {
				return path, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	if path, err := exec.LookPath(binary); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("atlas: found no program %s: `make build` puts one beside tenantry, or say where it is with %s", binary, Variable)
}

func runs(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

// CLI is an Atlas command line.
type CLI struct{ path string }

// New returns the CLI at a path, or the one that Find finds when the path is empty.
func New(path string) (*CLI, error) {
	if path == "" {
		var err error
		if path, err = Find(); err != nil {
			return nil, err
		}
	}
	if !runs(path) {
		return nil, fmt.Errorf("atlas: %w", &fs.PathError{Op: "run", Path: path, Err: errors.New("is no program")})
	}
	return &CLI{path}, nil
}

// Apply applies what is left of a directory in Atlas's form to the database of a DSN (a URI) and returns the version it
// is at. An empty revisions schema means the CLI's own.
func (c *CLI) Apply(ctx context.Context, dsn, dir, revisionsSchema string) (string, error) {
	client, target, err := c.client(dsn)
	if err != nil {
		return "", err
	}
	report, err := client.MigrateApply(ctx, &atlasexec.MigrateApplyParams{
		URL: target, DirURL: dirURL(dir), RevisionsSchema: revisionsSchema,
		// A set of a plugin begins in a database that has the core set.
		AllowDirty: revisionsSchema != "",
	})
	if err != nil {
		return "", failed(ctx, "migrate apply", err)
	}
	if report.Error != "" {
		return "", reported("migrate apply", errors.New(report.Error))
	}
	if report.Target == "" {
		return report.Current, nil
	}
	return report.Target, nil
}

// Status is what `atlas migrate status` says of a database.
type Status struct {
	// OK says that everything was applied.
	OK bool
	// Current is the newest version applied; empty for none.
	Current string
	// Pending is how many files are left.
	Pending int
}

// Status tells where the database of a DSN (a URI) stands with a directory in Atlas's form.
func (c *CLI) Status(ctx context.Context, dsn, dir, revisionsSchema string) (Status, error) {
	client, target, err := c.client(dsn)
	if err != nil {
		return Status{}, err
	}
	report, err := client.MigrateStatus(ctx, &atlasexec.MigrateStatusParams{URL: target, DirURL: dirURL(dir), RevisionsSchema: revisionsSchema})
	if err != nil {
		return Status{}, failed(ctx, "migrate status", err)
	}
	s := Status{OK: report.Status == "OK", Current: report.Current, Pending: len(report.Pending)}
	if len(report.Applied) == 0 {
		s.Current = "" // The CLI has words there.
	}
	return s, nil
}

// Hash writes a directory's atlas.sum.
func (c *CLI) Hash(ctx context.Context, dir string) error {
	client, err := atlasexec.NewClient("", c.path)
	if err != nil {
		return fmt.Errorf("atlas: %w", err)
	}
	if err := client.MigrateHash(ctx, &atlasexec.MigrateHashParams{DirURL: dirURL(dir)}); err != nil {
		return failed(ctx, "migrate hash", err)
	}
	return nil
}

// client takes the password out of the DSN and into the program's environment, where other users of the machine cannot
// read it.
func (c *CLI) client(dsn string) (*atlasexec.Client, string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		// The error of url.Parse repeats what it could not parse.
		return nil, "", errors.New("atlas: the DSN is no URI")
	}
	client, err := atlasexec.NewClient("", c.path)
	if err != nil {
		return nil, "", fmt.Errorf("atlas: %w", err)
	}
	env := atlasexec.NewOSEnviron()
	for _, name := range []string{"ATLAS_NO_UPDATE_NOTIFIER", "ATLAS_NO_UPGRADE_SUGGESTIONS"} {
		delete(env, name) // The client sets them.
	}
	if password, ok := u.User.Password(); ok {
		env["PGPASSWORD"] = password
		u.User = url.User(u.User.Username())
	}
	if err := client.SetEnv(env); err != nil {
		return nil, "", fmt.Errorf("atlas: %w", err)
	}
	return client, u.String(), nil
}

func dirURL(dir string) string { return (&url.URL{Scheme: "file", Path: dir}).String() }
