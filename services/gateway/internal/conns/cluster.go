package conns

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// cluster is the connections to one cluster. Its lock protects it and all that hangs on it; nobody waits while holding it.
type cluster struct {
	pools *Pools
	name  string

	mu     sync.Mutex
	closed bool
	budget int  // the latest Target's
	leased bool // share counts, too
	share  int

	open    int // used, idle, or being closed
	used    int // in use, being dialled, being cleaned or checked, or broken and being closed
	closing int // those of open that are being closed and make room
	dialing int
	waiting int
	tenants map[uuid.UUID]*tenantConns
	idle    servers // of all tenants
	warm    turns   // of tenants that have an idle connection, and wait because they may not hold another
	cold    turns   // of tenants that need a connection dialled
	turn    uint64  // counts turns

	failure    error // of the last dial, if the server could not be reached
	failures   int   // how often in a row
	backingOff bool  // after such a failure
	sweeping   bool  // idle connections are being checked

	displaced recent // connections that made room for others

	granted, timeouts, dials, dialFailures uint64
}

// tenantConns is the connections of one tenant.
type tenantConns struct {
	id       uuid.UUID
	cluster  *cluster
	used     int        // as cluster's
	cleaning int        // those of used that are about to be idle, if nothing is wrong with them
	idle     []*server  // the least recently used first
	waiters  *list.List // of *waiter, the first come first
	epoch    uint64     // counts drains
	turn     uint64     // when it was last served, or came
	queue    *turns     // where it waits, and
	index    int        // at which place
}

// server is one server connection.
type server struct {
	link    link
	tenant  *tenantConns
	target  Target
	schema  string    // that its holders knew
	epoch   uint64    // the tenant's when it was asked for
	since   time.Time // when it was last known to be alive, or used
	suspect bool      // another connection of the cluster was found dead since then

	prev, next *server // in cluster.idle
}

// alive is whether a connection that was just taken works, as far as can be told without asking the server.
func (s *server) alive(checkAfter time.Duration) bool {
	if !s.suspect && time.Since(s.since) < checkAfter {
		return true
	}
	return s.link.check() == nil
}

// servers is a list of idle connections, the least recently used first.
type servers struct {
	first, last *server
	n           int
}

// add puts a connection where its age belongs, which is nearly always the end.
func (l *servers) add(s *server) {
	after := l.last
	for after != nil && after.since.After(s.since) {
		after = after.prev
	}
	s.prev = after
	if after == nil {
		s.next, l.first = l.first, s
	} else {
		s.next, after.next = after.next, s
	}
	if s.next == nil {
		l.last = s
	} else {
		s.next.prev = s
	}
	l.n++
}

func (l *servers) remove(s *server) {
	if s.prev == nil {
		l.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		l.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
	l.n--
}

// newest is the tenant's idle connection to a place that was used last; nil when there is none.
func (t *tenantConns) newest(place Target) *server {
	for _, s := range slices.Backward(t.idle) {
		if s.target == place {
			return s
		}
	}
	return nil
}

func stopping() error {
	return fault.New(codes.Unavailable, fault.Unavailable, "the gateway is stopping").RetryIn(retryAfter)
}

// limit is how many connections there may be.
func (c *cluster) limit() int {
	if c.leased {
		return min(c.share, c.budget)
	}
	return c.budget
}

// takeIdle is the short way of a call: it returns an idle connection of its tenant, which counts as used from then on, or
// nil when there is none that it may have. Who waits is not passed over: that would have got the connection, if it could do
// anything with it.
func (c *cluster) takeIdle(target *Target) *server {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.budget != target.Budget {
		c.budget = target.Budget
		c.dispatch()
	}
	t := c.tenants[target.DatabaseID]
	if t == nil || len(t.idle) == 0 || !c.mayHold(t) {
		return nil
	}
	s := t.newest(target.place())
	if s != nil {
		c.unidle(s)
		c.use(t)
		c.granted++
	}
	return s
}

// trim closes idle connections that a smaller limit has no place for.
func (c *cluster) trim() {
	for c.open-c.closing > c.limit() && c.idle.n > 0 {
		c.bury(c.idle.first)
	}
}

// putBack takes a connection that is clean, or was not used, from its holder.
func (c *cluster) putBack(s *server) {
	if c.closed || s.epoch != s.tenant.epoch {
		c.buryUsed(s)
		return
	}
	c.unuse(s.tenant)
	c.makeIdle(s)
	// Where somebody of another tenant is next, and there is no room, this closes the least recently used one: most
	// likely this one, as there would hardly be another while somebody waits.
	if c.waiting > 0 || c.open > c.limit() {
		c.dispatch()
	}
}

func (c *cluster) makeIdle(s *server) {
	t := s.tenant
	t.idle = append(t.idle, s)
	c.idle.add(s)
	if t.waiters.Len() > 0 {
		c.reorder(t)
	}
}

func (c *cluster) unidle(s *server) {
	t := s.tenant
	i := len(t.idle) - 1
	for t.idle[i] != s {
		i--
	}
	t.idle = slices.Delete(t.idle, i, i+1)
	c.idle.remove(s)
	if t.waiters.Len() > 0 {
		c.reorder(t)
	}
}

func (c *cluster) use(t *tenantConns) {
	t.used++
	c.used++
	c.takeTurn(t)
}

func (c *cluster) unuse(t *tenantConns) {
	t.used--
	c.used--
	c.takeTurn(t)
}

// bury closes an idle connection.
func (c *cluster) bury(s *server) {
	c.unidle(s)
	c.closing++
	c.pools.background.Go(func() {
		s.link.close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closing--
		c.free(s.tenant)
	})
}

// buryUsed closes a connection that its last user left broken, or that nobody wants again. Until that is done it counts as
// the tenant's.
func (c *cluster) buryUsed(s *server) {
	c.closing++
	c.pools.background.Go(func() {
		s.link.close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closing--
		c.unuse(s.tenant)
		c.free(s.tenant)
	})
}

// free gives a place in the budget to whoever is next.
func (c *cluster) free(t *tenantConns) {
	c.open--
	c.dispatch()
	c.forget(t)
	if c.pools.open.Add(-1) == 0 && c.pools.shut.Load() {
		c.pools.allGone()
	}
}

// forget drops what holds nothing, so that tenants that come and go leave nothing behind.
func (c *cluster) forget(t *tenantConns) {
	if t.used == 0 && len(t.idle) == 0 && t.waiters.Len() == 0 && c.tenants[t.id] == t {
		delete(c.tenants, t.id)
	}
}
