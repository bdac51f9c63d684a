package pgserver

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// tailBytes is how much of a program's output is kept: some tens of lines.
const tailBytes = 4 << 10

// logTail passes a program's output on and keeps the end of it, for the error that says why the program ended.
type logTail struct {
	next io.Writer

	mu  sync.Mutex
	end []byte
}

// Write never fails: a log that cannot be written must not stop the server that writes it.
func (t *logTail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if over := len(t.end) - tailBytes; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
	}
	if t.next != nil {
		_, _ = t.next.Write(p)
	}
	return len(p), nil
}

// String returns the kept output from its first whole line on.
func (t *logTail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := t.end
	if len(end) == tailBytes {
		if i := bytes.IndexByte(end, '\n'); i >= 0 {
			end = end[i+1:]
		}
	}
	return strings.TrimSpace(string(end))
}
