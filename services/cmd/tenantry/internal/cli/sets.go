package cli

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Where the sets are in a working tree of this repository.
const (
	centralDir     = "services/registry/migrations"
	provisionerDir = "services/provisioner/migrations/own"
	tenantsDir     = "services/provisioner/migrations"
)

// migrationSet is one migration directory.
type migrationSet struct {
	// name is `central`, `provisioner`, `core` or `plugins/NAME`.
	name string
	dir  string
}

// setFlags say where tenants' sets are.
type setFlags struct {
	Migrations string `name:"migrations" type:"path" placeholder:"DIR" env:"TENANTRY_MIGRATIONS" help:"Directory of tenants' sets, core and plugins/NAME. Default: services/provisioner/migrations of this working tree."`
}

// set finds a set by its name.
func (f setFlags) set(name string) (migrationSet, error) {
	switch name {
	case "central":
		dir, err := inTree(centralDir)
		return migrationSet{name, dir}, err
	case "provisioner":
		dir, err := inTree(provisionerDir)
		return migrationSet{name, dir}, err
	}
	plugin, isPlugin := strings.CutPrefix(strings.Replace(name, "plugin/", "plugins/", 1), "plugins/")
	if name != "core" && (!isPlugin || !pluginName.MatchString(plugin)) {
		return migrationSet{}, usagef("", "set: got %q, want central, provisioner, core or plugins/NAME", name)
	}
	if isPlugin {
		name = "plugins/" + plugin
	}
	tenants, err := f.tenants()
	return migrationSet{name, filepath.Join(tenants, filepath.FromSlash(name))}, err
}

var pluginName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// sets are the set of a name, or for the empty name every set that there is.
func (f setFlags) sets(name string) ([]migrationSet, error) {
	if name != "" {
		set, err := f.set(name)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(set.dir); err != nil {
			return nil, usagef("`tenantry migration new` begins a set.", "set %s: %v", name, err)
		}
		return []migrationSet{set}, nil
	}
	names := []string{"core"}
	tenants, err := f.tenants()
	if err != nil {
		return nil, err
	}
	if f.Migrations == "" {
		names = []string{"central", "provisioner", "core"}
	}
	plugins, err := os.ReadDir(filepath.Join(tenants, "plugins"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, usagef("", "%v", err)
	}
	for _, p := range plugins {
		if p.IsDir() {
			names = append(names, "plugins/"+p.Name())
		}
	}
	var sets []migrationSet
	for _, name := range names {
		set, err := f.set(name)
		if err != nil {
			return nil, err
		}
		sets = append(sets, set)
	}
	return sets, nil
}

func (f setFlags) tenants() (string, error) {
	if f.Migrations != "" {
		return f.Migrations, nil
	}
	return inTree(tenantsDir)
}

// inTree finds a directory of this repository's working tree from anywhere in it.
func inTree(dir string) (string, error) {
	path, err := findAbove(filepath.FromSlash(dir))
	if err == nil && path == "" {
		err = usagef("Run it in Tenantry's working tree, or name the directory of tenants' sets with --migrations.",
			"there is no %s here or in a directory above", dir)
	}
	return path, err
}
