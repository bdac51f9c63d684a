//go:build unix && !linux

package pgserver

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes keep a terminal's ^C from stopping the database before the services that use it. Only Linux can tie a
// program's life to its owner's; elsewhere the next Start ends what a killed owner left.
func attributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as}
}

// commandLine returns the arguments of a live process. ps separates them by spaces, which is why Start passes the
// directory as an argument that is looked for whole.
func commandLine(pid int) ([]string, error) {
	out, err := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil, err
	}
	line := strings.TrimSpace(string(out))
	program, rest, _ := strings.Cut(line, " -D ")
	dir, _, _ := strings.Cut(rest, " -c ")
	return []string{program, "-D", dir}, nil
}
