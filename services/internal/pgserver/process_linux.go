package pgserver

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// attributes make a program end with its owner: SIGQUIT is PostgreSQL's immediate shutdown, in which the postmaster
// takes its children along. Its own process group keeps a terminal's ^C from stopping the database before the services
// that use it.
func attributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as, Pdeathsig: syscall.SIGQUIT}
}

// commandLine returns the arguments of a live process, none for a zombie. /proc/PID/cmdline, unlike exe or cwd, may be
// read for another user's process even by a root without CAP_SYS_PTRACE, as in containers.
func commandLine(pid int) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil, err
	}
	var args []string
	for arg := range bytes.SplitSeq(bytes.TrimRight(raw, "\x00"), []byte{0}) {
		args = append(args, string(arg))
	}
	return args, nil
}
