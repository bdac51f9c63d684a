package pgtest

import (
	"os"
	"syscall"
)

const (
	// memory is where Linux keeps files in memory, and tmpfsMagic how such a file system is told, see statfs(2).
	memory     = "/dev/shm"
	tmpfsMagic = 0x01021994
	// plenty is how much has to be free there, in bytes: all tests at once take some 3 GB.
	plenty = 8 << 30
)

// Root is the directory in which tests make theirs. Copying databases is most of what they do, and in memory that takes a
// tenth of the system's time, so it is memory where there is plenty, and else the system's directory for temporary files.
// TMPDIR is followed where it is set. What is in it may not be executable.
func Root() string {
	var s syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(memory, &s) != nil || s.Type != tmpfsMagic || s.Bavail*uint64(s.Bsize) < plenty {
		return os.TempDir()
	}
	return memory
}
