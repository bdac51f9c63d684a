// Package lint judges migration sets before they are released: by Atlas's analyzers, which replay them on a scratch
// database, and, where those do not see what PostgreSQL locks or rewrites, by checks of our own on the parse tree of
// PostgreSQL's own parser (libpg_query).
//
// It gives no verdict on what is in a database already: that is drift.
package lint

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	atlas "ariga.io/atlas/sql/migrate"
	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// Severity is how bad a finding is.
type Severity int

const (
	// Warning is worth knowing: a lock that is held for long, a change that fails on some data.
	Warning Severity = iota + 1
	// Destructive loses data, or breaks programs that still run.
	Destructive
	// Broken does not apply at all.
	Broken
)

// Finding is one thing that was found in a set's new files.
type Finding struct {
	Severity Severity
	// Code is Atlas's, such as DS102 (https://atlasgo.io/lint/analyzers), or one of ours, such as TN101.
	Code    string
	Message string
	Set     string
	File    string
	Line    int // 0 when it is about no one line
}

// CodeBroken is the code of a file that does not apply.
const CodeBroken = "TN100"

// Judge replays the sets of a tree in databases of its own on a server, plugins' on top of core, and
// returns what is found in the files that since has not; nil since means all of them. Findings come in order of set, file
// and line. Nothing is left on the server.
func Judge(ctx context.Context, cli *atlascli.CLI, server Server, tree, since *migrate.Tree) ([]Finding, error) {
	if since == nil {
		since = &migrate.Tree{}
	}
	found, err := JudgeSet(ctx, cli, server, nil, tree.Core, newFiles(since.Core, tree.Core))
	if err != nil {
		return nil, err
	}
	for name, set := range tree.Plugins {
		more, err := JudgeSet(ctx, cli, server, tree.Core, set, newFiles(since.Plugins[name], set))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	sortFindings(found)
	return found, nil
}

func sortFindings(found []Finding) {
	slices.SortStableFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Code, b.Code))
	})
}

// newFiles is how many of the newest files of a set an older one has not.
func newFiles(older, newer *migrate.Set) int {
	if older == nil {
		return len(newer.Files())
	}
	return max(0, len(newer.Files())-len(older.Files()))
}

// JudgeSet judges the newest files of a set, on top of another, which may be nil.
func JudgeSet(ctx context.Context, cli *atlascli.CLI, server Server, base, set *migrate.Set, newest int) ([]Finding, error) {
	if newest == 0 {
		return nil, nil
	}
	scripts := scriptsOf(set)
	own, err := hazards(set.Name(), scripts[len(scripts)-newest:])
	if err != nil {
		return nil, err
	}
	if base != nil {
		scripts = append(scriptsOf(base), scripts...)
	}
	found, err := replay(ctx, cli, server, set.Name(), scripts, newest)
	if err != nil {
		return nil, err
	}
	for _, f := range own {
		if !slices.ContainsFunc(found, func(theirs Finding) bool { return same(theirs, f) }) {
			found = append(found, f)
		}
	}
	sortFindings(found)
	return found, nil
}

// same tells whether Atlas found what we did: it names what is dropped or renamed in another way.
func same(theirs, ours Finding) bool {
	if theirs.File != ours.File {
		return false
	}
	switch ours.Code {
	case codeDrop:
		return strings.HasPrefix(theirs.Code, "DS")
	case codeRename:
		return strings.HasPrefix(theirs.Code, "BC")
	case codeConstraint, codeForeignKey:
		return false
	default:
		return theirs.Code == ours.Code
	}
}

// script is one migration file in Atlas's form.
type script struct {
	migrate.File
	content []byte
}

func scriptsOf(set *migrate.Set) []script {
	content := set.Content()
	var out []script
	for _, f := range set.Files() {
		out = append(out, script{f, content[f.Name]})
	}
	return out
}

// lineOf is the line of a position in the file.
func (s script) lineOf(position int) int {
	return 1 + bytes.Count(s.content[:min(max(position, 0), len(s.content))], []byte("\n"))
}

// replay lets Atlas replay scripts in a scratch database and says what it finds in the newest.
func replay(ctx context.Context, cli *atlascli.CLI, server Server, set string, scripts []script, newest int) (found []Finding, err error) {
	dir, err := layOut(scripts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	dsn, drop, err := server.scratch(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	report, err := cli.Lint(ctx, dsn, dir, newest)
	if err != nil {
		return nil, fmt.Errorf("lint: set %s: %w", set, err)
	}
	byName := map[string]script{}
	for i, s := range scripts {
		byName[numbered(i)] = s
	}
	for _, r := range report.Files {
		s := byName[r.Name]
		before := len(found)
		for _, about := range r.Reports {
			for _, d := range about.Diagnostics {
				found = append(found, Finding{Severity: severityOf(d.Code), Code: d.Code, Message: d.Text, Set: set, File: s.Name, Line: s.lineOf(d.Pos)})
			}
		}
		if r.Error != "" && len(found) == before {
			found = append(found, Finding{Severity: Broken, Code: CodeBroken, Message: r.Error, Set: set, File: s.Name})
		}
	}
	return found, nil
}

// severityOf judges by Atlas's analyzer: destructive and backward-incompatible changes against data-dependent ones.
func severityOf(code string) Severity {
	if strings.HasPrefix(code, "DS") || strings.HasPrefix(code, "BC") {
		return Destructive
	}
	return Warning
}

// layOut writes scripts under numbers, in their order: a plugin's versions and core's need not differ.
func layOut(scripts []script) (path string, err error) {
	if path, err = os.MkdirTemp("", "tenantry-lint-"); err != nil {
		return "", fmt.Errorf("lint: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}()
	dir, err := atlas.NewLocalDir(path)
	if err != nil {
		return "", fmt.Errorf("lint: %w", err)
	}
	for i, s := range scripts {
		if err := os.WriteFile(filepath.Join(path, numbered(i)), s.content, 0o600); err != nil {
			return "", fmt.Errorf("lint: %w", err)
		}
	}
	sum, err := dir.Checksum()
	if err != nil {
		return "", fmt.Errorf("lint: %w", err)
	}
	return path, atlas.WriteSumFile(dir, sum)
}

func numbered(i int) string { return fmt.Sprintf("%06d.sql", i+1) }

// dropWithin is how long dropping a scratch database may take, also when the context has ended.
const dropWithin = 30 * time.Second

// ScratchPrefix begins the names of scratch databases. One that is left was left by a process that died.
const ScratchPrefix = "lint_"

// Server is where scratch databases are made.
type Server struct {
	// Connect connects to its maintenance database as one who may make databases.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// DSN is the URI of one of its databases.
	DSN func(database string) (string, error)
}

// scratch makes an empty database that nobody else can enter.
func (s Server) scratch(ctx context.Context) (dsn string, drop func() error, err error) {
	name := ScratchPrefix + strings.ToLower(rand.Text())
	run := func(ctx context.Context, statements ...string) (err error) {
		conn, err := s.Connect(ctx)
		if err != nil {
			return fmt.Errorf("lint: %w", err)
		}
		defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("lint: scratch database: %w", err)
			}
		}
		return nil
	}
	drop = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropWithin)
		defer cancel()
		return run(ctx, "DROP DATABASE IF EXISTS "+pg.Quote(name)+" WITH (FORCE)")
	}
	err = run(ctx, "CREATE DATABASE "+pg.Quote(name)+" TEMPLATE template0", "REVOKE ALL ON DATABASE "+pg.Quote(name)+" FROM PUBLIC")
	if err == nil {
		dsn, err = s.DSN(name)
	}
	if err != nil {
		return "", nil, errors.Join(err, drop())
	}
	return dsn, drop, nil
}
