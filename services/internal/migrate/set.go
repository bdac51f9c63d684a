// Package migrate applies Atlas migration directories to a PostgreSQL database, in process, as the Atlas CLI would: it
// reads and writes the CLI's own table atlas_schema_revisions, takes the CLI's own lock, and either can go on where the
// other stopped. A process per database costs more than the work itself; a fleet of them is what this package is for.
//
// What it adds to the CLI: files that were applied are compared with the set by hash, a failing statement is named with
// its SQLSTATE, a lock that cannot be had is tried again, and a database that is up to date costs one round trip.
//
// It does not plan, lint or inspect: that stays with the CLI, see package atlascli.
package migrate

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ariga.io/atlas/sql/migrate"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// File is one migration of a set.
type File struct {
	// Name is the file's, such as `20261101000001_people.sql`.
	Name string
	// Version is the name's beginning, by which files are ordered.
	Version string
	// Description is the rest of the name.
	Description string

	content    []byte
	hash       string // of this file and all before it, as in atlas.sum
	statements []string
	sums       []string // partial hashes: of the statements up to each one
	builds     map[int]index
	noTx       bool
	checkpoint bool
}

// Set is a migration directory, whole and verified, in Atlas's form. It never changes.
type Set struct {
	name  string
	files []File
	sum   []byte // atlas.sum
	hash  string
}

// SumFile is the name of the file with the hashes in an Atlas directory.
const SumFile = migrate.HashFileName

// Name is the set's name, such as `core` or `plugins/calin-meter`.
func (s *Set) Name() string { return s.name }

// Hash identifies the set's content: the first line of its atlas.sum without `h1:`.
func (s *Set) Hash() string { return s.hash }

// Files are the migrations in order.
func (s *Set) Files() []File { return slices.Clone(s.files) }

// Latest is the newest version; empty for a set without files.
func (s *Set) Latest() string {
	if len(s.files) == 0 {
		return ""
	}
	return s.files[len(s.files)-1].Version
}

// Has tells whether the set has a version.
func (s *Set) Has(version string) bool {
	return slices.ContainsFunc(s.files, func(f File) bool { return f.Version == version })
}

// Content is the set as files of an Atlas directory, atlas.sum among them, by name.
func (s *Set) Content() map[string][]byte {
	out := make(map[string][]byte, len(s.files)+1)
	for _, f := range s.files {
		out[f.Name] = slices.Clone(f.content)
	}
	out[SumFile] = slices.Clone(s.sum)
	return out
}

// WriteTo writes the set's files into a directory, for the Atlas CLI.
func (s *Set) WriteTo(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("migrate: write set %s: %w", s.name, err)
	}
	for name, data := range s.Content() {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("migrate: write set %s: %w", s.name, err)
		}
	}
	return nil
}

// FirstChange names the first of the older set's files that the newer one has not, or has with another content; empty
// when it only adds files behind them. Files that were released must not change.
func FirstChange(older, newer *Set) string {
	for i, f := range older.files {
		if i >= len(newer.files) || newer.files[i].hash != f.hash {
			return f.Name
		}
	}
	return ""
}

// Statements are the file's statements, in order.
func (f File) Statements() []string { return slices.Clone(f.statements) }

// NoTransaction tells whether the file is applied without a transaction around it.
func (f File) NoTransaction() bool { return f.noTx }

// index is one that a statement builds while its table is in use.
type index struct{ name, table string }

// Parse makes a set of an Atlas directory's files, which must agree with the atlas.sum among them: FAILED_PRECONDITION
// `CHECKSUM_MISMATCH` otherwise, and INVALID_ARGUMENT `MIGRATION_INVALID` for a file that cannot be read as migrations.
func Parse(name string, content map[string][]byte) (*Set, error) {
	dir := &migrate.MemDir{}
	defer func() { _ = dir.Close() }() // It holds nothing but memory.
	for _, file := range slices.Sorted(maps.Keys(content)) {
		if err := dir.WriteFile(file, content[file]); err != nil {
			return nil, fmt.Errorf("migrate: set %s: %w", name, err)
		}
	}
	if err := migrate.Validate(dir); err != nil {
		return nil, checksumFault(name, err)
	}
	files, err := dir.Files()
	if err != nil {
		return nil, invalid(name, "", err)
	}
	sums, err := migrate.NewHashFile(files)
	if err != nil {
		return nil, invalid(name, "", err)
	}
	s := &Set{name: name, hash: sums.Sum()}
	if s.sum, err = sums.MarshalText(); err != nil {
		return nil, invalid(name, SumFile, err)
	}
	for _, f := range files {
		parsed, err := parseFile(f, sums)
		if err != nil {
			return nil, invalid(name, f.Name(), err)
		}
		if last := s.Latest(); last != "" && last >= parsed.Version {
			return nil, invalid(name, f.Name(), fmt.Errorf("got version %s after %s, want a later one", parsed.Version, last))
		}
		s.files = append(s.files, parsed)
	}
	return s, nil
}

func parseFile(f migrate.File, sums migrate.HashFile) (File, error) {
	local, ok := f.(*migrate.LocalFile)
	if !ok {
		return File{}, fmt.Errorf("got a %T", f)
	}
	hash, err := sums.SumByName(f.Name())
	if err != nil {
		return File{}, err
	}
	out := File{Name: f.Name(), Version: f.Version(), Description: f.Desc(), content: f.Bytes(), hash: hash}
	if out.Version == "" {
		return File{}, errors.New("got a name without a version, want VERSION_DESCRIPTION.sql")
	}
	switch modes := local.Directive("txmode"); {
	case len(modes) == 0, len(modes) == 1 && modes[0] == "file":
	case len(modes) == 1 && modes[0] == "none":
		out.noTx = true
	default:
		return File{}, fmt.Errorf("got atlas:txmode %s, want file or none, once", strings.Join(modes, ", "))
	}
	if c, ok := f.(migrate.CheckpointFile); ok {
		out.checkpoint = c.IsCheckpoint()
	}
	statements, err := split(delimited(string(f.Bytes())))
	if err != nil {
		return File{}, err
	}
	h := sha256.New()
	for i, stmt := range statements {
		switch {
		case fromClient.MatchString(stmt.tokens):
			return File{}, fmt.Errorf("got %q, which has no client to exchange rows with: use INSERT", shorten(stmt.text))
		case !out.noTx && control.MatchString(stmt.tokens):
			return File{}, fmt.Errorf("got %q in a file that is one transaction: leave it out, or begin the file with -- atlas:txmode none", shorten(stmt.text))
		}
		if m := building.FindStringSubmatch(stmt.tokens); m != nil {
			if out.builds == nil {
				out.builds = map[int]index{}
			}
			out.builds[i] = index{m[1], strings.ReplaceAll(m[2], " ", "")}
		}
		out.statements = append(out.statements, stmt.text)
		h.Write([]byte(stmt.text))
		out.sums = append(out.sums, "h1:"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	return out, nil
}

// delimited returns a file's text and its delimiter, which Atlas takes from the first line only.
func delimited(text string) (sql, delimiter string) {
	line, rest, _ := strings.Cut(text, "\n")
	delimiter, ok := strings.CutPrefix(strings.TrimRight(line, "\r"), "-- atlas:delimiter ")
	if !ok {
		return text, ""
	}
	return rest, strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t").Replace(strings.TrimLeft(delimiter, " "))
}

func shorten(text string) string {
	if r := []rune(text); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return text
}

// checksumFault tells in which file a directory and its atlas.sum differ.
func checksumFault(set string, err error) error {
	text := "its atlas.sum and its files do not agree"
	f := fault.New(codes.FailedPrecondition, fault.ChecksumMismatch, "set %s: %s", set, text)
	var mismatch *migrate.ChecksumError
	switch {
	case errors.As(err, &mismatch):
		f = fault.New(codes.FailedPrecondition, fault.ChecksumMismatch, "set %s: file %s was %s since atlas.sum was written",
			set, mismatch.File, mismatch.Reason).With("file", mismatch.File)
	case errors.Is(err, migrate.ErrChecksumNotFound):
		f = fault.New(codes.FailedPrecondition, fault.ChecksumMismatch,
			"set %s has no atlas.sum: `tenantry migration hash` writes it", set)
	}
	return f.With("set", set).Because(err)
}

func invalid(set, file string, err error) error {
	f := fault.New(codes.InvalidArgument, fault.MigrationInvalid, "set %s: %s: %v", set, file, err).With("set", set).Because(err)
	if file != "" {
		f = f.With("file", file)
	}
	return f
}

// Tree is all that a product's tenants are made of.
type Tree struct {
	// Core is the set that every tenant has.
	Core *Set
	// Plugins are the sets of those tenants that have the plugin, by its name.
	Plugins map[string]*Set
	// Seed is SQL with named parameters that is run once for a new tenant; empty for none.
	Seed string
	// Clone is SQL with the same parameters that is run instead for one whose database is a copy of another's.
	Clone string
}

// Hash identifies the tree's content.
func (t *Tree) Hash() string {
	h := sha256.New()
	fmt.Fprintf(h, "core %s\n", t.Core.Hash())
	for _, name := range slices.Sorted(maps.Keys(t.Plugins)) {
		fmt.Fprintf(h, "plugins/%s %s\n", name, t.Plugins[name].Hash())
	}
	fmt.Fprintf(h, "seed %s", t.Seed)
	if t.Clone != "" {
		fmt.Fprintf(h, "\x00clone %s", t.Clone)
	}
	return hex.EncodeToString(h.Sum(nil))
}
