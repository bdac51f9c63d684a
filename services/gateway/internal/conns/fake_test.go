package conns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantry/tenantry/services/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var (
	errDead = errors.New("dead")
	// errPasses is of a server that cannot be reached for now, errFinal of one that does not want the tenant.
	errPasses = errors.New("connection refused")
	errFinal  = error(&pgconn.PgError{Code: "28P01"})
)

// fakeServers stands for the clusters: it makes connections, and notes whatever must not be.
type fakeServers struct {
	mu       sync.Mutex
	budget   int
	open     map[string]int
	dials    int
	dialing  map[string]int
	cleans   int
	problems []string
	latency  time.Duration
	maxDials int
	refuse   func() error
}

func newServers(budget int) *fakeServers {
	return &fakeServers{budget: budget, open: map[string]int{}, dialing: map[string]int{}, latency: time.Millisecond,
		maxDials: 8, refuse: func() error { return nil }}
}

func (s *fakeServers) problem(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

func (s *fakeServers) dial(ctx context.Context, target Target) (link, error) {
	s.mu.Lock()
	s.dials++
	s.open[target.Cluster]++
	if n := s.open[target.Cluster]; n > s.budget {
		s.problem("%d connections to %s, budget %d", n, target.Cluster, s.budget)
	}
	s.dialing[target.Cluster]++
	if n := s.dialing[target.Cluster]; n > s.maxDials {
		s.problem("%d dials to %s at a time", n, target.Cluster)
	}
	refused := s.refuse()
	s.mu.Unlock()
	var err error
	select {
	case <-time.After(s.latency):
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		err = refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialing[target.Cluster]--
	if err != nil {
		s.open[target.Cluster]--
		return nil, err
	}
	return &fakeLink{servers: s, target: target}, nil
}

// set changes how the servers behave while something is under way.
func (s *fakeServers) set(maxDials int, refuse func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maxDials, s.refuse = maxDials, refuse
}

func (s *fakeServers) count(cluster string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[cluster]
}

func (s *fakeServers) dialled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// fakeLink is a connection of fakeServers.
type fakeLink struct {
	servers *fakeServers
	target  Target

	// servers.mu protects these.
	held, soiled, broken, closed bool
	schema                       string // that its statements were prepared at; empty when there are none
	renewals                     int
}

func (l *fakeLink) clean(context.Context) error {
	time.Sleep(time.Millisecond)
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	if l.broken {
		return errDead
	}
	l.soiled = false
	l.servers.cleans++
	return nil
}

func (l *fakeLink) dirty() bool {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	return l.soiled || l.broken
}

func (l *fakeLink) renew() {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	l.renewals++
	l.schema = ""
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

func (l *fakeLink) isClosed() bool {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	return l.closed
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
	if l.held || l.soiled || l.closed {
		l.servers.problem("given out while held (%t), dirty (%t), closed (%t)", l.held, l.soiled, l.closed)
	}
	if l.schema != "" && l.schema != want.SchemaVersion {
		l.servers.problem("given out with statements of schema %q at %q", l.schema, want.SchemaVersion)
	}
	l.held, l.schema = true, want.SchemaVersion
}

// soil is what a call does that changes its session.
func (l *fakeLink) soil() {
	l.servers.mu.Lock()
	defer l.servers.mu.Unlock()
	l.soiled = true
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
