// Package migrations is the tenant schema that comes with Tenantry: the core set that every tenant has, a set for each
// plugin that has tables, and the seed of a new tenant's database.
//
// It is data and where to find it. Applying it is the provisioner's, and its own database's migrations, which lie beside,
// are embedded where they are used.
package migrations

import (
	"embed"
	"io/fs"
)

// Nothing in the sets begins with a dot or an underscore, so plain patterns, which leave such files of editors and
// file managers out, take all that Atlas counts.
//
//go:embed core plugins seed.sql clone.sql
var files embed.FS

// FS returns a tree of the shape that --migrations takes, too: core and plugins/NAME, each an Atlas migration directory
// with its atlas.sum, and seed.sql and clone.sql, statements with the named parameters that the former's head tells.
func FS() fs.FS { return files }
