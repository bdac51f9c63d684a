package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minVersion is the oldest major version of PostgreSQL that Tenantry runs on.
const minVersion = 15

// Programs are the programs of one PostgreSQL installation.
type Programs struct {
	// Dir holds them; psql, pg_dump and the like are usually there too.
	Dir string
	// Initdb and Postgres are absolute paths.
	Initdb, Postgres string
	// Version is the major version, such as 15.
	Version int
}

// FindPrograms looks for PostgreSQL's initdb and postgres in TENANTRY_PG_BIN, on PATH, and where Debian, Fedora and
// Homebrew put them, the newest first. Where TENANTRY_PG_BIN is set nothing else is tried: whoever names a directory
// wants that one, or to hear what is wrong with it.
func FindPrograms() (Programs, error) {
	return findPrograms(os.Getenv, []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/usr/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
	})
}

func findPrograms(getenv func(string) string, patterns []string) (Programs, error) {
	if dir := getenv("TENANTRY_PG_BIN"); dir != "" {
		programs, err := programsIn(dir)
		if err != nil {
			return Programs{}, fmt.Errorf("TENANTRY_PG_BIN: got %s, want a directory with PostgreSQL's initdb and postgres, version %d or newer: %w",
				dir, minVersion, err)
		}
		return programs, nil
	}

	var problems []string
	try := func(dir string) (Programs, bool) {
		programs, err := programsIn(dir)
		// A directory without the programs is no news; programs that won't do are.
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, fmt.Sprintf("%s: %v", dir, err))
		}
		return programs, err == nil
	}
	for _, dir := range filepath.SplitList(getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue
		}
		if programs, ok := try(dir); ok {
			return programs, nil
		}
	}
	for _, pattern := range patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return Programs{}, fmt.Errorf("look for PostgreSQL in %s: %w", pattern, err)
		}
		slices.SortFunc(dirs, func(a, b string) int { return versionInPath(b) - versionInPath(a) })
		for _, dir := range dirs {
			if programs, ok := try(dir); ok {
				return programs, nil
			}
		}
	}

	found := ""
	if len(problems) > 0 {
		found = " (found, but of no use: " + strings.Join(problems, "; ") + ")"
	}
	return Programs{}, fmt.Errorf("PostgreSQL %d or newer was not found: TENANTRY_PG_BIN is not set, and there is no initdb and postgres on PATH or in %s%s; run `make deps`",
		minVersion, strings.Join(patterns, ", "), found)
}

// programsIn returns the programs in dir, or an error that is os.ErrNotExist where there are none.
func programsIn(dir string) (Programs, error) {
	postgres, err := program(dir, "postgres")
	if err != nil {
		return Programs{}, err
	}
	// Links on PATH may lead to one installation of several, so initdb is taken from where postgres really is.
	initdb, err := program(filepath.Dir(postgres), "initdb")
	if err != nil {
		return Programs{}, err
	}
	version, err := programVersion(postgres)
	if err != nil {
		return Programs{}, err
	}
	if version < minVersion {
		return Programs{}, fmt.Errorf("version: got %d, want %d or newer", version, minVersion)
	}
	return Programs{Dir: filepath.Dir(postgres), Initdb: initdb, Postgres: postgres, Version: version}, nil
}

func program(dir, name string) (string, error) {
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s: not a program", path)
	}
	return path, nil
}

func programVersion(postgres string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, postgres, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", postgres, err)
	}
	// "postgres (PostgreSQL) 15.13 (Debian 15.13-1)", "17beta1", "18devel"
	match := regexp.MustCompile(`\(PostgreSQL\) (\d+)`).FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("%s --version: got %q, want PostgreSQL's version", postgres, strings.TrimSpace(string(out)))
	}
	return strconv.Atoi(string(match[1]))
}

// versionInPath returns the last number in a directory's name such as /usr/lib/postgresql/15/bin, so that 15 sorts after 9.6.
func versionInPath(dir string) int {
	numbers := regexp.MustCompile(`\d+`).FindAllString(filepath.Base(filepath.Dir(dir)), -1)
	if len(numbers) == 0 {
		return 0
	}
	// 9.6 and its kin count by their first number, like all later ones.
	n, err := strconv.Atoi(numbers[0])
	if err != nil {
		return 0
	}
	return n
}
