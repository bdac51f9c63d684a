// Package own holds the migrations of the provisioner's own database, an Atlas directory.
package own

import (
	"embed"
	"io/fs"
)

//go:embed *.sql atlas.sum
var files embed.FS

// FS is the directory.
func FS() fs.FS { return files }
