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
	cloneFile     = "clone.sql"
)

// LoadTree reads a product's sets: core, plugins/NAME for each plugin, seed.sql and clone.sql; all but the first may be
// missing. Its errors are those of Load.
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
	if t.Seed, err = optional(fsys, seedFile); err != nil {
		return nil, err
	}
	if t.Clone, err = optional(fsys, cloneFile); err != nil {
		return nil, err
	}
	return t, nil
}

// optional reads a file that may be missing.
func optional(fsys fs.FS, name string) (string, error) {
	text, err := fs.ReadFile(fsys, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("migrate: %w", err)
	}
	return string(text), nil
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
// which it knows by names and annotations, and turns the latter into Atlas's. An Atlas directory must agree with its
// atlas.sum, as Parse says; those of other tools may have one, and must agree with it then.
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
	format := formatOf(content)
	if format == nil {
		return Parse(name, content)
	}
	if sum, ok := content[SumFile]; ok {
		if err := format.verify(fsys, content, sum); err != nil {
			return nil, checksumFault(name, err)
		}
		delete(content, SumFile)
	}
	return convertSet(name, fsys, content, format.read)
}

// formatOf tells whose format a directory has; nil for Atlas's own. What is written in the files says more than their
// names, and both more than an atlas.sum: `atlas migrate hash` writes one for any format.
func formatOf(content map[string][]byte) *format {
	for _, f := range formats {
		for file, data := range content {
			if file != SumFile && f.is(file, string(data)) {
				return &f
			}
		}
	}
	return nil
}

// verify compares a foreign directory with the sum that Atlas made of it: of all files, or, as its newer versions do, of
// those that are applied.
func (f *format) verify(fsys fs.FS, content map[string][]byte, text []byte) error {
	var want migrate.HashFile
	if err := want.UnmarshalText(text); err != nil {
		return err
	}
	dir := &migrate.MemDir{}
	defer func() { _ = dir.Close() }() // It holds nothing but memory.
	for file, data := range content {
		if file == SumFile {
			continue
		}
		if err := dir.WriteFile(file, data); err != nil {
			return err
		}
	}
	got, err := dir.Checksum()
	if err == nil && got.Sum() != want.Sum() && f.checksum != nil {
		got, err = f.checksum(fsys)
	}
	if err == nil && got.Sum() != want.Sum() {
		err = migrate.ErrChecksumMismatch
	}
	return err
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
	statements           []statement
	noTx                 bool
}

// delimiter ends statements in files that were converted: nothing that a statement holds looks like it.
const delimiter = "-- end of statement"

// own are statements that open or end a transaction: golang-migrate leaves that to its files, and the engine does it
// itself. alone are those that PostgreSQL runs in no transaction; the other tools run files that hold only such
// statements without one, or are told to by a directive of their own.
var (
	own   = regexp.MustCompile(`(?i)^(BEGIN|START TRANSACTION|COMMIT|END)( WORK| TRANSACTION)?( ;)?$`)
	alone = regexp.MustCompile(`(?i)^((CREATE|DROP) (UNIQUE )?INDEX CONCURRENTLY|REINDEX\b.*\bCONCURRENTLY|VACUUM|ALTER SYSTEM|(CREATE|DROP) DATABASE)\b`)
	// noTxDirective is Atlas's own, wherever in a foreign file it stands.
	noTxDirective = regexp.MustCompile(`(?m)^--\s*atlas:txmode\s+none\s*$`)
)

// atlas is the migration as an Atlas file.
func (f foreign) atlas() []byte {
	var b strings.Builder
	noTx := f.noTx
	for _, s := range f.statements {
		noTx = noTx || alone.MatchString(s.tokens)
	}
	b.WriteString("-- atlas:delimiter " + delimiter + "\n") // Atlas looks for it in the first line only.
	if noTx {
		b.WriteString("-- atlas:txmode none\n")
	}
	b.WriteString("\n")
	for _, s := range f.statements {
		if noTx || !own.MatchString(s.tokens) {
			b.WriteString(strings.TrimSpace(s.text) + "\n" + delimiter + "\n")
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
