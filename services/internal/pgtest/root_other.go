//go:build unix && !linux

package pgtest

import "os"

// Root is the directory in which tests make theirs.
func Root() string { return os.TempDir() }
