//go:build !linux

package e2e

import "syscall"

// diesWithParent is for Linux alone: elsewhere a killed test binary leaves its processes.
func diesWithParent() *syscall.SysProcAttr { return nil }
