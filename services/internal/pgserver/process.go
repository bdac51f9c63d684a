package pgserver

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// outputGrace is how long a program's output may stay open after its end, held by a child of its own.
const outputGrace = 10 * time.Second

// process is a running program. done is closed when it has ended and, so far as they end within outputGrace, when the
// children that share its output have too; err then says how it ended.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// start runs cmd on an OS thread of its own that lasts until the program has ended. Linux ends a program by its parent
// death signal when the *thread* that started it goes, and the Go runtime ends threads as it sees fit.
func start(cmd *exec.Cmd) (*process, error) {
	cmd.WaitDelay = outputGrace
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// endsWithin waits for the program's end, at most d or until hurry is closed.
func (p *process) endsWithin(d time.Duration, hurry <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
	case <-hurry:
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
