package cli

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	atlas "ariga.io/atlas/sql/migrate"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
)

// migrationCmd is `tenantry migration`.
type migrationCmd struct {
	New  migrationNewCmd  `cmd:"" help:"Begin a migration file."`
	Hash migrationHashCmd `cmd:"" help:"Write atlas.sum, which seals a set's files."`
	Lint migrationLintCmd `cmd:"" help:"Check sets: that they apply, and what is dangerous in them."`
}

const setsHelp = `Sets: central (the registry's database), provisioner (its own), core (every tenant), plugins/NAME (tenants that have the plugin).`

// migrationNewCmd is `tenantry migration new`.
type migrationNewCmd struct {
	setFlags
	Set  string `arg:"" help:"Set to add to: central, provisioner, core or plugins/NAME."`
	Name string `arg:"" help:"What it does, such as add_meter_owner."`
}

// Help is the long help.
func (migrationNewCmd) Help() string {
	return setsHelp + ` A file that was released is never edited: add another. When the file is written, run "tenantry migration hash SET".

Example:

    tenantry migration new core add_meter_owner
    tenantry migration new plugins/spark-meter add_tariff --migrations ./migrations`
}

// Run makes the file.
func (c *migrationNewCmd) Run(a *app) error {
	name := strings.Trim(notWord.ReplaceAllString(strings.ToLower(c.Name), "_"), "_")
	if name == "" {
		return usagef("", "name: got %q, want letters and digits", c.Name)
	}
	set, err := c.set(c.Set)
	if err != nil {
		return err
	}
	dir, err := openSet(set)
	if err != nil {
		return err
	}
	version, err := nextVersion(dir, time.Now())
	if err != nil {
		return err
	}
	file := version + "_" + name + ".sql"
	if err := dir.WriteFile(file, []byte("-- "+strings.ReplaceAll(name, "_", " ")+"\n")); err != nil {
		return err
	}
	if err := seal(dir); err != nil {
		return err
	}
	path := filepath.Join(set.dir, file)
	if a.json {
		return a.printJSON(map[string]string{"set": set.name, "version": version, "file": path})
	}
	return a.printf("%s\n", path)
}

var notWord = regexp.MustCompile(`[^a-z0-9]+`)

// openSet opens a set's directory, made where it is missing, to add a file to it. The files in it must be as they were
// sealed: sealing a new one would hide that another was changed.
func openSet(set migrationSet) (*atlas.LocalDir, error) {
	if err := os.MkdirAll(set.dir, 0o755); err != nil {
		return nil, usagef("", "%v", err)
	}
	dir, err := openAtlas(set)
	if err != nil {
		return nil, err
	}
	files, err := dir.Files()
	if err != nil {
		return nil, usagef("", "set %s: %v", set.name, err)
	}
	if len(files) == 0 {
		return dir, nil
	}
	if err := atlas.Validate(dir); err != nil {
		return nil, usagef("Restore the files; or, if the change was never released, run `tenantry migration hash "+set.name+"` first.",
			"set %s: the files are not what atlas.sum says: %v", set.name, err)
	}
	return dir, nil
}

// openAtlas opens a directory in Atlas's format. One of another tool is refused: with an atlas.sum in it, it would from
// then on be read as Atlas's, down migrations and all.
func openAtlas(set migrationSet) (*atlas.LocalDir, error) {
	if foreign, err := isForeign(set); err != nil || foreign {
		return nil, cmp.Or(err, usagef("Add files with the tool whose format it is. It needs no atlas.sum: a release stores the Atlas form.",
			"set %s: %s is not in Atlas's format", set.name, set.dir))
	}
	dir, err := atlas.NewLocalDir(set.dir)
	if err != nil {
		return nil, usagef("", "%v", err)
	}
	return dir, nil
}

// isForeign tells whether a directory is in another tool's format: what reads as migrations without being sealed.
func isForeign(set migrationSet) (bool, error) {
	if _, err := os.Stat(filepath.Join(set.dir, migrate.SumFile)); err == nil {
		return false, nil
	}
	loaded, err := migrate.Load(os.DirFS(set.dir), set.name)
	if fault.HasReason(err, fault.ChecksumMismatch) {
		return false, nil // Atlas's files, not sealed yet.
	}
	if err != nil {
		return false, usagef("", "%v", err)
	}
	return len(loaded.Files()) > 0, nil
}

// nextVersion is the time, or one more than the newest version where that is later: files apply in order of version.
func nextVersion(dir atlas.Dir, now time.Time) (string, error) {
	const layout = "20060102150405"
	version := now.UTC().Format(layout)
	files, err := dir.Files()
	if err != nil || len(files) == 0 {
		return version, err
	}
	last := files[len(files)-1].Version()
	if last < version {
		return version, nil
	}
	newest, err := time.Parse(layout, last)
	if err != nil {
		return "", usagef("Name the file by hand, so that it sorts after that, then run `tenantry migration hash`.",
			"the newest version is %s, which is no time of the form %s and sorts after now", last, layout)
	}
	return newest.Add(time.Second).Format(layout), nil
}

// seal writes atlas.sum.
func seal(dir atlas.Dir) error {
	sum, err := dir.Checksum()
	if err != nil {
		return err
	}
	return atlas.WriteSumFile(dir, sum)
}

// migrationHashCmd is `tenantry migration hash`.
type migrationHashCmd struct {
	setFlags
	Set string `arg:"" optional:"" help:"Set to seal. Default: every set."`
}

// Help is the long help.
func (migrationHashCmd) Help() string {
	return setsHelp + ` Nothing is applied from a set whose files are not what its atlas.sum says.

Example:

    tenantry migration hash core`
}

// Run writes the sums.
func (c *migrationHashCmd) Run(a *app) error {
	sets, err := c.sets(c.Set)
	if err != nil {
		return err
	}
	for _, set := range sets {
		if foreign, err := isForeign(set); err == nil && foreign && c.Set == "" {
			continue // It has no seal, and needs none.
		}
		if err := c.hash(a, set); err != nil {
			return err
		}
	}
	return nil
}

func (c *migrationHashCmd) hash(a *app, set migrationSet) error {
	dir, err := openAtlas(set)
	if err != nil {
		return err
	}
	// What Atlas says of a directory before and after is whether sealing it changed anything.
	changed := atlas.Validate(dir) != nil
	if changed {
		if err := seal(dir); err != nil {
			return err
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"set": set.name, "dir": set.dir, "changed": changed})
	}
	done := "sealed already"
	if changed {
		done = "sealed"
	}
	return a.printf("%s  %s\n", set.name, done)
}
