package lint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	atlas "ariga.io/atlas/sql/migrate"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/scratch"
)

// script is one migration file in Atlas's form.
type script struct {
	migrate.File
	set     string
	content []byte
}

func scriptsOf(set *migrate.Set) []script {
	content := set.Content()
	var out []script
	for _, f := range set.Files() {
		out = append(out, script{f, set.Name(), content[f.Name]})
	}
	return out
}

// lineOf is the line of a position in the file.
func (s script) lineOf(position int) int {
	return 1 + bytes.Count(s.content[:min(max(position, 0), len(s.content))], []byte("\n"))
}

// atlasLineOf is the line of a position that Atlas gives, who counts from behind the line that names a delimiter.
func (s script) atlasLineOf(position int) int {
	if bytes.HasPrefix(s.content, []byte("-- atlas:delimiter ")) {
		position += 1 + bytes.IndexByte(s.content, '\n')
	}
	return s.lineOf(position)
}

// replay lets Atlas replay scripts in a scratch database and says what it finds in the newest, and which of the server's
// functions are steady.
func replay(ctx context.Context, cli *atlascli.CLI, server scratch.Server, scripts []script, newest int) (found []Finding, steady map[string]bool, err error) {
	dir, err := layOut(scripts)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	dsn, drop, err := server.Database(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	if steady, err = steadyFunctions(ctx, server); err != nil {
		return nil, nil, err
	}
	report, err := cli.Lint(ctx, dsn, dir, newest)
	if err != nil {
		return nil, nil, err
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
				found = append(found, Finding{severityOf(d.Code), d.Code, d.Text, s.set, s.Name, s.atlasLineOf(d.Pos)})
			}
		}
		if r.Error != "" && len(found) == before {
			found = append(found, Finding{Severity: Broken, Code: CodeBroken, Message: r.Error, Set: s.set, File: s.Name})
		}
	}
	return found, steady, nil
}

// Atlas's codes for what our checks find, too, see https://atlasgo.io/lint/analyzers.
const (
	atlasDropSchema    = "DS101"
	atlasDropTable     = "DS102"
	atlasDropColumn    = "DS103"
	atlasRenameTable   = "BC101"
	atlasRenameColumn  = "BC102"
	atlasIndex         = "PG101"
	atlasDropIndex     = "PG102"
	atlasInTransaction = "PG103"
)

// severityOf judges by Atlas's analyzer: destructive and backward-incompatible changes against data-dependent ones.
func severityOf(code string) Severity {
	switch {
	case strings.HasPrefix(code, "DS"), strings.HasPrefix(code, "BC"):
		return Destructive
	case code == atlasInTransaction:
		return Broken // The replay has no transaction, so that it passes there.
	default:
		return Warning
	}
}

// layOut writes scripts under numbers, in their order: a plugin's versions and core's need not differ.
func layOut(scripts []script) (path string, err error) {
	if path, err = os.MkdirTemp("", "tenantry-lint-"); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}()
	for i, s := range scripts {
		if err := os.WriteFile(filepath.Join(path, numbered(i)), s.content, 0o600); err != nil {
			return "", err
		}
	}
	dir, err := atlas.NewLocalDir(path)
	if err != nil {
		return "", err
	}
	sum, err := dir.Checksum()
	if err != nil {
		return "", err
	}
	return path, atlas.WriteSumFile(dir, sum)
}

func numbered(i int) string { return fmt.Sprintf("%06d.sql", i+1) }

// steadyFunctions are the server's own functions that give the same result for all rows of a statement.
func steadyFunctions(ctx context.Context, server scratch.Server) (steady map[string]bool, err error) {
	steady = map[string]bool{}
	err = server.Run(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT proname FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
			GROUP BY proname HAVING bool_and(provolatile <> 'v')`)
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, name := range names {
			steady[name] = true
		}
		return err
	})
	return steady, err
}
