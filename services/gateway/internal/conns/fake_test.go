package conns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var (
	errDial = errors.New("no server there")
	errDead = errors.New("dead")
)

// servers stands for the clusters: it makes connections, and notes whatever must not be.
type servers struct {
	mu       sync.Mutex
	budget   int
	open     map[string]int
	dials    int
	problems []string
	latency  time.Duration
	refuse   func() bool
}

func newServers(budget int) *servers {
	return &servers{budget: budget, open: map[string]int{}, latency: time.Millisecond, refuse: func() bool { return false }}
}

func (s *servers) problem(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

func (s *servers) dial(ctx context.Context, target Target) (link, error) {
	s.mu.Lock()
	s.dials++
	s.open[target.Cluster]++
	if n := s.open[target.Cluster]; n > s.budget {
		s.problem("%d connections to %s, budget %d", n, target.Cluster, s.budget)
	}
	refuse := s.refuse()
	s.mu.Unlock()
	var err error
	select {
	case <-time.After(s.latency):
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil && refuse {
		err = errDial
	}
	if err != nil {
		s.mu.Lock()
		s.open[target.Cluster]--
		s.mu.Unlock()
		return nil, err
	}
	return &fakeLink{servers: s, target: target}, nil
}

func (s *servers) count(cluster string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[cluster]
}

func (s *servers) dialled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// fakeLink is a connection of servers.
type fakeLink struct {
	servers *servers
	target  Target

	held, dirty, broken, closed bool // servers.mu
}

func (l *fakeLink) clean(context.Context) error {
	time.Sleep(time.Millisecond)
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	if l.broken {
		return errDead
	}
	l.dirty = false
	return nil
}

func (l *fakeLink) check() error {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	if l.broken {
		return errDead
	}
	return nil
}

func (l *fakeLink) close() {
	time.Sleep(time.Millisecond)
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	if l.closed || l.held {
		l.servers.problem("closed twice (%t), or in use (%t)", l.closed, l.held)
	}
	l.closed = true
	l.servers.open[l.target.Cluster]--
}

func (l *fakeLink) breakDown() {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	l.broken = true
}

// take is the caller's look at what it was given.
func (l *fakeLink) take(want Target) {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	if l.target.place() != want.place() {
		l.servers.problem("%v was given a connection of %v", want, l.target)
	}
	if l.held || l.dirty || l.closed {
		l.servers.problem("given out while held (%t), dirty (%t), closed (%t)", l.held, l.dirty, l.closed)
	}
	l.held, l.dirty = true, true
}

func (l *fakeLink) let() {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	l.held = false
}

func linkOf(c *Conn) *fakeLink { return c.server.Load().link.(*fakeLink) }

// take acquires and looks.
func take(ctx context.Context, p *Pools, target Target) (*Conn, error) {
	c, err := p.Acquire(ctx, target)
	if err == nil {
		linkOf(c).take(target)
	}
	return c, err
}

func give(c *Conn) {
	linkOf(c).let()
	c.Release()
}

// targetOf is the n-th tenant of a cluster.
func targetOf(n byte, budget int) Target {
	return Target{Cluster: "a", Host: "h", Port: 1, Budget: budget, DatabaseID: uuid.UUID{15: n}}
}
