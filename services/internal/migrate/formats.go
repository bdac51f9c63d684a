package migrate

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"ariga.io/atlas/sql/sqltool"
)

// reader reads a directory of a foreign format, in the order in which its tool applies the files.
type reader func(fsys fs.FS, content map[string][]byte) ([]foreign, error)

// How the formats are known: https://github.com/golang-migrate/migrate/blob/master/MIGRATIONS.md (*.up.sql),
// https://pressly.github.io/goose/documentation/annotations/, https://github.com/amacneil/dbmate#creating-migrations,
// https://docs.liquibase.com/concepts/changelogs/sql-format.html, and Flyway's file names.
var (
	goosePragma     = regexp.MustCompile(`(?m)^--\s*\+goose\s+Up\b`)
	dbmatePragma    = regexp.MustCompile(`(?m)^--\s*migrate:up\b`)
	liquibasePragma = regexp.MustCompile(`(?m)^--\s*liquibase formatted sql\b`)
	flywayName      = regexp.MustCompile(`^[VBR][0-9._]*__.*\.sql$`)
)

func readGolangMigrate(fsys fs.FS, _ map[string][]byte) ([]foreign, error) {
	files, err := (&sqltool.GolangMigrateDir{FS: fsys}).Files()
	if err != nil {
		return nil, err
	}
	var out []foreign
	for _, f := range files {
		statements, err := split(string(f.Bytes()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		out = append(out, foreign{f.Version(), f.Desc(), statements, noTxDirective.Match(f.Bytes())})
	}
	return inOrder(out)
}

// readGoose and readDBMate are our own: those of sqltool leave out every line of SQL that holds the word Down, or down.
func readGoose(_ fs.FS, content map[string][]byte) ([]foreign, error) {
	var out []foreign
	for _, file := range slices.Sorted(maps.Keys(content)) {
		statements, noTx, err := gooseUp(string(content[file]))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		version, description := versioned(file)
		out = append(out, foreign{version, description, statements, noTx || noTxDirective.Match(content[file])})
	}
	return inOrder(out)
}

var gooseAnnotation = regexp.MustCompile(`^--\s*\+goose\s+(.*?)\s*$`)

// gooseUp returns the statements between Up and Down. What stands between StatementBegin and StatementEnd is one.
func gooseUp(text string) (statements []string, noTx bool, err error) {
	var part []string
	up, block := false, false
	flush := func() error {
		text := strings.Join(part, "\n")
		part = nil
		if block {
			statements = append(statements, text)
			return nil
		}
		more, err := split(text)
		statements = append(statements, more...)
		return err
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		m := gooseAnnotation.FindStringSubmatch(line)
		if m == nil {
			if up {
				part = append(part, line)
			}
			continue
		}
		switch annotation := strings.ToUpper(m[1]); {
		case annotation == "UP":
			up = true
		case annotation == "DOWN":
			return statements, noTx, flush()
		case annotation == "NO TRANSACTION":
			noTx = true
		case annotation == "STATEMENTBEGIN" && up && !block, annotation == "STATEMENTEND" && up && block:
			if err := flush(); err != nil {
				return nil, false, err
			}
			block = !block
		case strings.HasPrefix(annotation, "ENVSUB"):
			return nil, false, fmt.Errorf("got %q: migrations that depend on the environment are not the same for every tenant", line)
		case up:
			return nil, false, fmt.Errorf("did not expect %q here", line)
		}
	}
	if block {
		return nil, false, fmt.Errorf("got StatementBegin without StatementEnd")
	}
	return statements, noTx, flush()
}

var dbmateAnnotation = regexp.MustCompile(`^--\s*migrate:(up|down)\b(.*)$`)

func readDBMate(_ fs.FS, content map[string][]byte) ([]foreign, error) {
	var out []foreign
	for _, file := range slices.Sorted(maps.Keys(content)) {
		version, description := versioned(file)
		f := foreign{version: version, description: description, noTx: noTxDirective.Match(content[file])}
		var up []string
		in := false
		for line := range strings.Lines(string(content[file])) {
			if m := dbmateAnnotation.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
				in = m[1] == "up"
				f.noTx = f.noTx || in && strings.Contains(strings.ReplaceAll(m[2], " ", ""), "transaction:false")
				continue
			}
			if in {
				up = append(up, line)
			}
		}
		var err error
		if f.statements, err = split(strings.Join(up, "")); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, f)
	}
	return inOrder(out)
}

func readFlyway(fsys fs.FS, _ map[string][]byte) ([]foreign, error) {
	files, err := (&sqltool.FlywayDir{FS: fsys}).Files()
	if err != nil {
		return nil, err
	}
	sqltool.SetRepeatableVersion(files)
	var out []foreign
	for _, f := range files {
		statements, err := split(string(f.Bytes()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		out = append(out, foreign{f.Version(), f.Desc(), statements, noTxDirective.Match(f.Bytes())})
	}
	return inOrder(out)
}

var liquibaseAlone = regexp.MustCompile(`(?m)^--\s*changeset\b.*\brunInTransaction:false\b`)

func readLiquibase(_ fs.FS, content map[string][]byte) ([]foreign, error) {
	var out []foreign
	for _, file := range slices.Sorted(maps.Keys(content)) {
		statements, err := split(string(content[file]))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		version, description := versioned(file)
		noTx := noTxDirective.Match(content[file]) || liquibaseAlone.Match(content[file])
		out = append(out, foreign{version, description, statements, noTx})
	}
	return inOrder(out)
}

// split returns the statements of a text.
func split(text string) ([]string, error) {
	found, err := scanner().Scan(text)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(found))
	for _, s := range found {
		out = append(out, s.Text)
	}
	return out, nil
}

// plainDigits is how many digits a version has whose author did not write any zeros before it.
const plainDigits = 8

var plainNumber = regexp.MustCompile(`^(0|[1-9][0-9]{0,6})$`)

// inOrder orders by version. These tools compare numbers and Atlas texts, so numbers without leading zeros are given
// some: 2 comes before 10. It is done to each by itself, so that no file added later changes an earlier one's version.
func inOrder(files []foreign) ([]foreign, error) {
	for i, f := range files {
		if f.version == "" {
			return nil, fmt.Errorf("the file %q has no version", f.description)
		}
		parts := strings.Split(f.version, ".")
		for j, part := range parts {
			if plainNumber.MatchString(part) {
				parts[j] = strings.Repeat("0", plainDigits-len(part)) + part
			}
		}
		files[i].version = strings.Join(parts, ".")
	}
	slices.SortFunc(files, func(a, b foreign) int { return cmp.Compare(a.version, b.version) })
	return files, nil
}
