package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ariga.io/atlas-go-sdk/atlasexec"
	atlas "ariga.io/atlas/sql/migrate"
	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// migrationLintCmd is `tenantry migration lint`.
type migrationLintCmd struct {
	setFlags
	Set    string `arg:"" optional:"" help:"Set to check. Default: every set."`
	Latest int    `name:"latest" placeholder:"N" help:"Look only at the newest N files. Default: all."`
}

// Help is the long help.
func (migrationLintCmd) Help() string {
	return setsHelp + ` Atlas replays each set on a PostgreSQL server made for the purpose, plugins' sets on top of core, and looks at what each file does. It exits 1 when a file does not apply, was changed since it was sealed, or destroys data; other findings are advice.

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
	// Code is Atlas's, such as DS102; see https://atlasgo.io/lint/analyzers.
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

// lint replays a set in a database of its own and tells what was found in its newest files; latest 0 means all.
func (l *linter) lint(ctx context.Context, flags setFlags, set migrationSet, latest int) ([]finding, error) {
	own, err := loadScripts(set)
	if f := fault.From(err); f != nil && (f.Reason == fault.ChecksumMismatch || f.Reason == fault.MigrationInvalid) {
		return []finding{{Set: set.name, File: f.Metadata["file"], Text: f.Text, Wrong: true}}, nil
	}
	if err != nil || len(own) == 0 {
		return nil, err
	}
	scripts := own
	if strings.HasPrefix(set.name, migrate.PluginsPrefix) {
		core, err := flags.set(migrate.CoreName)
		if err != nil {
			return nil, err
		}
		if scripts, err = loadScripts(core); err != nil {
			return nil, err
		}
		scripts = append(scripts, own...)
	}
	layout, err := l.layOut(set, scripts)
	if err != nil {
		return nil, err
	}
	if latest <= 0 || latest > len(own) {
		latest = len(own)
	}
	url, err := l.database(ctx, set)
	if err != nil {
		return nil, err
	}
	report, err := l.atlas.Lint(ctx, url, layout, latest)
	if err != nil {
		return nil, fmt.Errorf("lint %s: %w", set.name, err)
	}
	return findings(set, scripts, report), nil
}

// script is one migration file in Atlas's form.
type script struct {
	name    string
	content []byte
}

func loadScripts(set migrationSet) ([]script, error) {
	loaded, err := migrate.Load(os.DirFS(set.dir), set.name)
	if err != nil {
		return nil, err
	}
	content := loaded.Content()
	var scripts []script
	for _, f := range loaded.Files() {
		scripts = append(scripts, script{f.Name, content[f.Name]})
	}
	return scripts, nil
}

// layOut writes files under numbers, in their order: a plugin's versions and core's need not differ.
func (l *linter) layOut(set migrationSet, scripts []script) (string, error) {
	path := filepath.Join(l.dir, strings.ReplaceAll(set.name, "/", "_"))
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", err
	}
	dir, err := atlas.NewLocalDir(path)
	if err != nil {
		return "", err
	}
	for i, s := range scripts {
		if err := dir.WriteFile(numbered(i), s.content); err != nil {
			return "", err
		}
	}
	return path, seal(dir)
}

func numbered(i int) string { return fmt.Sprintf("%06d.sql", i+1) }

// database makes an empty database for a set.
func (l *linter) database(ctx context.Context, set migrationSet) (string, error) {
	name := "lint_" + strings.ReplaceAll(set.name, "/", "_")
	conn, err := pgx.Connect(ctx, l.server.DSN("postgres"))
	if err != nil {
		return "", err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pg.Quote(name))
	return l.server.DSN(name), errors.Join(err, conn.Close(ctx))
}

// findings reads Atlas's report, whose file names are those of the layout.
func findings(set migrationSet, scripts []script, report *atlasexec.SummaryReport) []finding {
	byName := map[string]script{}
	for i, s := range scripts {
		byName[numbered(i)] = s
	}
	var found []finding
	for _, r := range report.Files {
		s := byName[r.Name]
		before := len(found)
		for _, about := range r.Reports {
			for _, d := range about.Diagnostics {
				line := 1 + bytes.Count(s.content[:min(max(d.Pos, 0), len(s.content))], []byte("\n"))
				found = append(found, finding{Set: set.name, File: s.name, Line: line, Code: d.Code, Text: d.Text, Wrong: r.Error != ""})
			}
		}
		if r.Error != "" && len(found) == before {
			found = append(found, finding{Set: set.name, File: s.name, Text: r.Error, Wrong: true})
		}
	}
	return found
}
