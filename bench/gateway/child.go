package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process of this run. It ends with it.
type child struct {
	cmd   *exec.Cmd
	ended chan error
	log   string
}

// stopWithin is how long a process may take to end, or to begin to answer.
const stopWithin = 20 * time.Second

// spawn starts a process that writes into a log. Stop it.
func spawn(log, program string, env []string, args ...string) (*child, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()   // The process has its own.
	cmd := exec.Command(program, args...) //nolint:noctx // stop ends it
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	c := &child{cmd: cmd, ended: make(chan error, 1), log: log}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.ended <- cmd.Wait() }()
	return c, nil
}

// pid is the process's.
func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends the process and returns how it ended.
func (c *child) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-c.ended:
		c.ended <- err
		if err != nil {
			err = fmt.Errorf("%s ended: %w\n%s", c.cmd.Path, err, c.said())
		}
		return err
	case <-time.After(stopWithin):
		return errors.Join(fmt.Errorf("%s does not stop", c.cmd.Path), c.cmd.Process.Kill(), <-c.ended)
	}
}

// await returns once ready says nil, and an error with the log when the process ends before, or takes too long.
func (c *child) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	for {
		last := ready(ctx)
		if last == nil {
			return nil
		}
		select {
		case err := <-c.ended:
			c.ended <- err
			return fmt.Errorf("%s ended: %w\n%s", c.cmd.Path, err, c.said())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not answer: %w\n%s", c.cmd.Path, last, c.said()), c.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// said is the end of its log.
func (c *child) said() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	const most = 4000
	return string(text[max(0, len(text)-most):])
}

// memory is a figure of the process's status, such as VmRSS or VmHWM, in bytes.
func (c *child) memory(name string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("the process's status tells no %s", name)
}

// resetPeak makes VmHWM begin anew.
func (c *child) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.pid()), []byte("5"), 0)
}

// listens says nil when somebody accepts connections at an address.
func listens(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// freeAddress is an address of the loopback that nobody listens at.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// freeAddresses are some.
func freeAddresses(ctx context.Context, to ...*string) error {
	for _, a := range to {
		var err error
		if *a, err = freeAddress(ctx); err != nil {
			return err
		}
	}
	return nil
}
