package migrate

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"ariga.io/atlas/sql/migrate"
)

// Names within a tree.
const (
	CoreName = "core"
	// PluginsPrefix comes before a plugin's name in its set's name.
	PluginsPrefix = "plugins/"
	seedFile      = "seed.sql"
)

// LoadTree reads a product's sets: core, plugins/NAME for each plugin, and seed.sql; the latter two may be missing. Its
// errors are those of Load.
func LoadTree(fsys fs.FS) (*Tree, error) {
	t := &Tree{Plugins: map[string]*Set{}}
	var err error
	if t.Core, err = loadSub(fsys, CoreName); err != nil {
		return nil, err
	}
	plugins, err := fs.ReadDir(fsys, "plugins")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	for _, p := range plugins {
		if !p.IsDir() {
			continue
		}
		if t.Plugins[p.Name()], err = loadSub(fsys, PluginsPrefix+p.Name()); err != nil {
			return nil, err
		}
	}
	seed, err := fs.ReadFile(fsys, seedFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	t.Seed = string(seed)
	return t, nil
}

func loadSub(fsys fs.FS, name string) (*Set, error) {
	info, err := fs.Stat(fsys, name)
	if err == nil && !info.IsDir() {
		err = errors.New("want a directory")
	}
	if err != nil {
		return nil, invalid(name, "", err)
	}
	sub, err := fs.Sub(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	return Load(sub, name)
}

// Load reads a migration directory in Atlas's format or in that of golang-migrate, goose, dbmate, Flyway or Liquibase,
// which it knows by names and first lines, and turns the latter into Atlas's. An Atlas directory must agree with its
// atlas.sum, as Parse says; tools with other formats have none.
func Load(fsys fs.FS, name string) (*Set, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("migrate: set %s: %w", name, err)
	}
	content := map[string][]byte{}
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".sql") && e.Name() != SumFile {
			continue
		}
		if content[e.Name()], err = fs.ReadFile(fsys, e.Name()); err != nil {
			return nil, fmt.Errorf("migrate: set %s: %w", name, err)
		}
	}
	convert := formatOf(content)
	if convert == nil {
		return Parse(name, content)
	}
	return convertSet(name, fsys, content, convert)
}

// formatOf tells how to read a directory's files; nil for Atlas's own format.
func formatOf(content map[string][]byte) reader {
	for file, data := range content {
		switch text := string(data); {
		case file == SumFile:
			return nil // Whatever it looks like, Atlas wrote its hashes.
		case strings.HasSuffix(file, ".up.sql"):
			return readGolangMigrate
		case goosePragma.MatchString(text):
			return readGoose
		case dbmatePragma.MatchString(text):
			return readDBMate
		case liquibasePragma.MatchString(text):
			return readLiquibase
		case flywayName.MatchString(file):
			return readFlyway
		}
	}
	return nil
}

// convertSet turns a foreign directory into Atlas's form, with an atlas.sum, and parses that.
func convertSet(name string, fsys fs.FS, content map[string][]byte, read reader) (*Set, error) {
	files, err := read(fsys, content)
	if err != nil {
		return nil, invalid(name, "", err)
	}
	dir := &migrate.MemDir{}
	defer func() { _ = dir.Close() }() // It holds nothing but memory.
	atlas := map[string][]byte{}
	for _, f := range files {
		file := f.version + ".sql"
		if f.description != "" {
			file = f.version + "_" + f.description + ".sql"
		}
		if _, twice := atlas[file]; twice {
			return nil, invalid(name, file, errors.New("two files have this version"))
		}
		atlas[file] = f.atlas()
		if err := dir.WriteFile(file, atlas[file]); err != nil {
			return nil, invalid(name, file, err)
		}
	}
	sums, err := dir.Checksum()
	if err != nil {
		return nil, invalid(name, "", err)
	}
	if atlas[SumFile], err = sums.MarshalText(); err != nil {
		return nil, invalid(name, SumFile, err)
	}
	return Parse(name, atlas)
}

// foreign is one migration of a foreign format.
type foreign struct {
	version, description string
	statements           []string
	noTx                 bool
}

// delimiter ends statements in files that were converted: nothing that a statement holds looks like it.
const delimiter = "-- end of statement"

// own are statements that open or end a transaction: golang-migrate leaves that to its files, and the engine does it
// itself. alone are those that PostgreSQL runs in no transaction; the other tools run files that hold only such
// statements without one, or are told to by a directive of their own.
var (
	own   = regexp.MustCompile(`(?i)^\s*(BEGIN|START\s+TRANSACTION|COMMIT|END)(\s+(WORK|TRANSACTION))?\s*;?\s*$`)
	alone = regexp.MustCompile(`(?is)^\s*((CREATE|DROP)\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY|REINDEX\b.*\bCONCURRENTLY|VACUUM)\b`)
	// noTxDirective is Atlas's own, wherever in a foreign file it stands.
	noTxDirective = regexp.MustCompile(`(?m)^--\s*atlas:txmode\s+none\s*$`)
)

// atlas is the migration as an Atlas file.
func (f foreign) atlas() []byte {
	var b strings.Builder
	noTx := f.noTx
	for _, s := range f.statements {
		noTx = noTx || alone.MatchString(s)
	}
	if noTx {
		b.WriteString("-- atlas:txmode none\n")
	}
	b.WriteString("-- atlas:delimiter " + delimiter + "\n\n")
	for _, s := range f.statements {
		if !own.MatchString(s) {
			b.WriteString(strings.TrimSpace(s) + "\n" + delimiter + "\n")
		}
	}
	return []byte(b.String())
}

// versioned splits `VERSION_description.sql`.
func versioned(file string) (version, description string) {
	base := strings.TrimSuffix(path.Base(file), ".sql")
	version, description, _ = strings.Cut(base, "_")
	return version, description
}
