package migrate

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"ariga.io/atlas/sql/migrate"
	"ariga.io/atlas/sql/sqltool"
)

// reader reads a directory of a foreign format, in the order in which its tool applies the files.
type reader func(fsys fs.FS, content map[string][]byte) ([]foreign, error)

// format is one of another tool's.
type format struct {
	is   func(file, text string) bool
	read reader
	// checksum is Atlas's of the files that are applied; nil where those are all.
	checksum func(fsys fs.FS) (migrate.HashFile, error)
}

// formats are told apart by https://pressly.github.io/goose/documentation/annotations/,
// https://github.com/amacneil/dbmate#creating-migrations,
// https://docs.liquibase.com/concepts/changelogs/sql-format.html,
// https://github.com/golang-migrate/migrate/blob/master/MIGRATIONS.md (*.up.sql) and Flyway's file names.
var formats = []format{
	{is: annotated(`(?m)^--\s*\+goose\s+Up\b`), read: readGoose},
	{is: annotated(`(?m)^--\s*migrate:up\b`), read: readDBMate},
	{is: annotated(`(?m)^--\s*liquibase formatted sql\b`), read: readLiquibase},
	{is: func(file, _ string) bool { return strings.HasSuffix(file, ".up.sql") }, read: readGolangMigrate, checksum: func(fsys fs.FS) (migrate.HashFile, error) {
		return (&sqltool.GolangMigrateDir{FS: fsys}).Checksum()
	}},
	{is: func(file, _ string) bool { return flywayName.MatchString(file) }, read: readFlyway, checksum: func(fsys fs.FS) (migrate.HashFile, error) {
		return (&sqltool.FlywayDir{FS: fsys}).Checksum()
	}},
}

func annotated(pattern string) func(file, text string) bool {
	annotation := regexp.MustCompile(pattern)
	return func(_, text string) bool { return annotation.MatchString(text) }
}

var flywayName = regexp.MustCompile(`^[VBR][0-9._]*__.*\.sql$`)

func readGolangMigrate(fsys fs.FS, _ map[string][]byte) ([]foreign, error) {
	files, err := (&sqltool.GolangMigrateDir{FS: fsys}).Files()
	if err != nil {
		return nil, err
	}
	var out []foreign
	for _, f := range files {
		statements, err := split(string(f.Bytes()), "")
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
func gooseUp(text string) (statements []statement, noTx bool, err error) {
	var part []string
	up, seen, block := false, false, false
	flush := func() error {
		text := strings.Join(part, "\n")
		part = nil
		delimiter := ""
		if block {
			delimiter = wholeText
		}
		more, err := split(text, delimiter)
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
			up, seen = true, true
		case annotation == "DOWN" && !block:
			err, up = flush(), false
			if err != nil {
				return nil, false, err
			}
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
	switch {
	case block:
		return nil, false, errors.New("got StatementBegin without StatementEnd")
	case !seen:
		return nil, false, errors.New("got no line `-- +goose Up`, as the directory's other files have")
	}
	return statements, noTx, flush()
}

// wholeText is a delimiter that no text holds.
const wholeText = "\x00"

var dbmateAnnotation = regexp.MustCompile(`^--\s*migrate:(up|down)\b(.*)$`)

func readDBMate(_ fs.FS, content map[string][]byte) ([]foreign, error) {
	var out []foreign
	for _, file := range slices.Sorted(maps.Keys(content)) {
		version, description := versioned(file)
		f := foreign{version: version, description: description, noTx: noTxDirective.Match(content[file])}
		var up []string
		in, seen := false, false
		for line := range strings.Lines(string(content[file])) {
			if m := dbmateAnnotation.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
				in = m[1] == "up"
				seen = seen || in
				f.noTx = f.noTx || in && strings.Contains(strings.ReplaceAll(m[2], " ", ""), "transaction:false")
				continue
			}
			if in {
				up = append(up, line)
			}
		}
		if !seen {
			return nil, fmt.Errorf("%s: got no line `-- migrate:up`, as the directory's other files have", file)
		}
		var err error
		if f.statements, err = split(strings.Join(up, ""), ""); err != nil {
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
	var out []foreign
	for _, f := range files {
		if f.Version() == "" {
			return nil, fmt.Errorf("%s: got a repeatable migration: what was applied must not change, so give each change a file with a version", f.Name())
		}
		statements, err := split(string(f.Bytes()), "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		out = append(out, foreign{strings.ReplaceAll(f.Version(), "_", "."), f.Desc(), statements, noTxDirective.Match(f.Bytes())})
	}
	return inOrder(out)
}

var liquibaseAlone = regexp.MustCompile(`(?m)^--\s*changeset\b.*\brunInTransaction:false\b`)

func readLiquibase(_ fs.FS, content map[string][]byte) ([]foreign, error) {
	var out []foreign
	for _, file := range slices.Sorted(maps.Keys(content)) {
		statements, err := split(string(content[file]), "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		version, description := versioned(file)
		noTx := noTxDirective.Match(content[file]) || liquibaseAlone.Match(content[file])
		out = append(out, foreign{version, description, statements, noTx})
	}
	return inOrder(out)
}

// numberDigits is how many digits the numbers of a version get at least.
const numberDigits = 8

var number = regexp.MustCompile(`^[0-9]+$`)

// inOrder orders by version. These tools compare numbers and Atlas texts, so short numbers are given zeros: 2 comes
// before 10, and 099 before 1000. It is done to each by itself, so that no file added later changes an earlier one's
// version. The p between the numbers of 1.10 is behind all that ends a version in a file's name.
func inOrder(files []foreign) ([]foreign, error) {
	for i, f := range files {
		if f.version == "" {
			return nil, fmt.Errorf("the file %q has no version", f.description)
		}
		parts := strings.Split(f.version, ".")
		for j, part := range parts {
			if number.MatchString(part) {
				parts[j] = strings.Repeat("0", max(0, numberDigits-len(part))) + part
			}
		}
		files[i].version = strings.Join(parts, "p")
	}
	slices.SortFunc(files, func(a, b foreign) int { return cmp.Compare(a.version, b.version) })
	return files, nil
}
