package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/lint"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pgserver"
	"github.com/tenantry/tenantry/services/internal/scratch"
)

// migrationLintCmd is `tenantry migration lint`.
type migrationLintCmd struct {
	setFlags
	Set    string `arg:"" optional:"" help:"Set to check. Default: every set."`
	Latest int    `name:"latest" placeholder:"N" help:"Look only at the newest N files. Default: all."`
}

// Help is the long help.
func (migrationLintCmd) Help() string {
	return setsHelp + ` Atlas replays each set on a PostgreSQL server made for the purpose, plugins' sets on top of core, and looks at what each file does (DS, BC, MF, PG); PostgreSQL's own parser finds what locks or rewrites tables (TN). It exits 1 when a file does not apply, was changed since it was sealed, destroys data or renames what runs; other findings are advice.

Example:

    tenantry migration lint
    tenantry migration lint core --latest 1`
}

// Run checks.
func (c *migrationLintCmd) Run(ctx context.Context, a *app) (err error) {
	sets, err := c.sets(c.Set)
	if err != nil {
		return err
	}
	linter, err := newLinter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, linter.close()) }()
	wrong := 0
	for _, set := range sets {
		findings, err := linter.lint(ctx, c.setFlags, set, c.Latest)
		if err != nil {
			return err
		}
		for _, f := range findings {
			if f.Wrong {
				wrong++
			}
			if err := a.printFinding(f); err != nil {
				return err
			}
		}
	}
	if wrong > 0 {
		return &findingsError{fmt.Sprintf("found what must be mended before a release: %d", wrong)}
	}
	return nil
}

// finding is one thing that was found in a set.
type finding struct {
	Set  string `json:"set"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Code is Atlas's, such as DS102, see https://atlasgo.io/lint/analyzers, or one of ours, such as TN101.
	Code string `json:"code,omitempty"`
	Text string `json:"text"`
	// Wrong says that it keeps the set from being released.
	Wrong bool `json:"wrong"`
}

func (a *app) printFinding(f finding) error {
	if a.json {
		return a.printJSON(f)
	}
	place := f.Set
	if f.File != "" {
		place += "/" + f.File
	}
	if f.Line > 0 {
		place += fmt.Sprintf(":%d", f.Line)
	}
	kind := "advice"
	if f.Wrong {
		kind = "wrong"
	}
	return a.printf("%s  %s  %s\n", kind, place, strings.TrimSpace(f.Code+" "+f.Text))
}

// linter is a PostgreSQL server to replay sets on, and a directory to lay them out in.
type linter struct {
	dir    string
	server *pgserver.Server
	atlas  *atlascli.CLI
}

func newLinter(ctx context.Context) (_ *linter, err error) {
	cli, err := atlascli.New("")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tenantry-lint-")
	if err != nil {
		return nil, err
	}
	l := &linter{dir: dir, atlas: cli}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	// PostgreSQL, which root must run as another user, has to get through.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	l.server, err = pgserver.Start(ctx, pgserver.Config{Dir: l.postgres(), Password: rand.Text()})
	return l, err
}

func (l *linter) postgres() string { return filepath.Join(l.dir, "postgres") }

func (l *linter) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var problems []error
	if l.server != nil {
		problems = append(problems, l.server.Stop(ctx), pgserver.Remove(ctx, l.postgres()))
	}
	return errors.Join(append(problems, os.RemoveAll(l.dir))...)
}

// lint tells what is found in a set's newest files; latest 0 means all.
func (l *linter) lint(ctx context.Context, flags setFlags, set migrationSet, latest int) ([]finding, error) {
	own, err := migrate.Load(os.DirFS(set.dir), set.name)
	if f := fault.From(err); f != nil && (f.Reason == fault.ChecksumMismatch || f.Reason == fault.MigrationInvalid) {
		return []finding{{Set: set.name, File: f.Metadata["file"], Text: f.Text, Wrong: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	var base *migrate.Set
	if strings.HasPrefix(set.name, migrate.PluginsPrefix) {
		core, err := flags.set(migrate.CoreName)
		if err != nil {
			return nil, err
		}
		if base, err = migrate.Load(os.DirFS(core.dir), core.name); err != nil {
			return nil, err
		}
	}
	if files := len(own.Files()); latest <= 0 || latest > files {
		latest = files
	}
	found, err := lint.JudgeSet(ctx, l.atlas, l.scratch(), base, own, latest)
	var out []finding
	for _, f := range found {
		out = append(out, finding{Set: f.Set, File: f.File, Line: f.Line, Code: f.Code, Text: f.Message, Wrong: f.Severity >= lint.Destructive})
	}
	return out, err
}

func (l *linter) scratch() scratch.Server {
	return scratch.Server{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, l.server.DSN("postgres")) },
		DSN:     func(database string) (string, error) { return l.server.DSN(database), nil },
	}
}
