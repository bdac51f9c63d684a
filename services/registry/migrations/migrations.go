// Package migrations holds the central database's migrations, an Atlas directory.
package migrations

import (
	"embed"
	"io/fs"
)

//go:embed *.sql atlas.sum
var files embed.FS

// FS is the directory.
func FS() fs.FS { return files }
