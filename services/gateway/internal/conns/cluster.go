package conns

import (
	"container/heap"
	"container/list"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// cluster is the connections to one cluster. Pools.mu protects it and all that hangs on it.
type cluster struct {
	name    string
	budget  int
	open    int // idle, in use, being dialled, being closed
	closing int // those of open that are being closed and make room
	waiting int
	tenants map[uuid.UUID]*tenantConns
	idle    *list.List // of *server, the least recently used first
	queue   queue      // of the tenants of which somebody waits
}

// tenantConns is the connections of one tenant.
type tenantConns struct {
	id      uuid.UUID
	cluster *cluster
	used    int        // not idle: in use, being dialled, or broken and being closed
	idle    []*server  // the least recently used first
	waiters *list.List // of *waiter, the first come first
	epoch   uint64     // counts drains
	index   int        // in the queue; -1 outside
}

// server is one server connection.
type server struct {
	link   link
	tenant *tenantConns
	target Target
	epoch  uint64 // the tenant's when it was asked for
	since  time.Time
	idle   *list.Element // in cluster.idle
}

// waiter is one call that wants a connection.
type waiter struct {
	tenant  *tenantConns
	target  Target
	arrival uint64
	granted chan grant // holds one
	element *list.Element
}

// grant is what a waiter gets: an idle connection, or else a place in the budget.
type grant struct {
	idle *server
	// victim is whose place it is. It must be closed first.
	victim *server
	epoch  uint64
	err    error
}

// queue is a heap of tenants: who holds least goes first, and among those whose call came first.
type queue []*tenantConns

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if q[i].used != q[j].used {
		return q[i].used < q[j].used
	}
	return q[i].first().arrival < q[j].first().arrival
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is heap.Interface's.
func (q *queue) Push(x any) {
	t := x.(*tenantConns)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop is heap.Interface's.
func (q *queue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	t.index = -1
	return t
}

func (t *tenantConns) first() *waiter { return t.waiters.Front().Value.(*waiter) }

// reorder puts the tenant where it now belongs in the queue, if it belongs there at all.
func (t *tenantConns) reorder() {
	q := &t.cluster.queue
	switch waits := t.waiters.Len() > 0; {
	case waits && t.index < 0:
		heap.Push(q, t)
	case waits:
		heap.Fix(q, t.index)
	case t.index >= 0:
		heap.Remove(q, t.index)
	}
}

// enqueue makes a waiter for the target, which may be served at once.
func (p *Pools) enqueue(target Target) (*waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, stopping()
	}
	c := p.clusters[target.Cluster]
	if c == nil {
		c = &cluster{name: target.Cluster, tenants: map[uuid.UUID]*tenantConns{}, idle: list.New()}
		p.clusters[target.Cluster] = c
	}
	c.budget = target.Budget
	t := c.tenants[target.DatabaseID]
	if t == nil {
		t = &tenantConns{id: target.DatabaseID, cluster: c, waiters: list.New(), index: -1}
		c.tenants[target.DatabaseID] = t
	}
	p.arrivals++
	w := &waiter{tenant: t, target: target, arrival: p.arrivals, granted: make(chan grant, 1)}
	w.element = t.waiters.PushBack(w)
	c.waiting++
	t.reorder()
	p.dispatch(c)
	return w, nil
}

func stopping() error {
	return fault.New(codes.Unavailable, fault.Unavailable, "the gateway is stopping").RetryIn(retryAfter)
}

// dequeue takes a waiter that gave up out of the queue; false means that it was served already.
func (p *Pools) dequeue(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.element == nil {
		return false
	}
	p.leave(w)
	p.forget(w.tenant)
	return true
}

func (p *Pools) leave(w *waiter) {
	w.tenant.waiters.Remove(w.element)
	w.element = nil
	w.tenant.cluster.waiting--
	w.tenant.reorder()
}

// dispatch serves waiters for as long as there is something to serve them with.
func (p *Pools) dispatch(c *cluster) {
	p.trim(c)
	for len(c.queue) > 0 {
		t := c.queue[0]
		// The first holds least, so when it is at its cap all are.
		if t.used >= p.cfg.PerTenant {
			return
		}
		w := t.first()
		g, ok := p.grant(c, w)
		if !ok {
			return
		}
		t.used++
		p.leave(w)
		w.granted <- g
	}
}

// trim closes idle connections that a smaller budget has no place for.
func (p *Pools) trim(c *cluster) {
	for c.open-c.closing > c.budget && c.idle.Len() > 0 {
		s := c.idle.Front().Value.(*server)
		p.unidle(s)
		p.closeIdle(s)
	}
}

// grant finds something for w, or reports false.
func (p *Pools) grant(c *cluster, w *waiter) (grant, bool) {
	g := grant{epoch: w.tenant.epoch}
	if n := len(w.tenant.idle); n > 0 {
		s := w.tenant.idle[n-1]
		p.unidle(s)
		// The tenant may have moved, or its password been changed.
		if s.target == w.target.place() {
			g.idle = s
		} else {
			g.victim = s
		}
		return g, true
	}
	switch {
	case c.open < c.budget:
		c.open++
		p.open++
	case c.open == c.budget && c.idle.Len() > 0:
		g.victim = c.idle.Front().Value.(*server)
		p.unidle(g.victim)
	default:
		return g, false
	}
	return g, true
}

// returnGrant gives back what came too late.
func (p *Pools) returnGrant(w *waiter, g grant) {
	if g.victim != nil {
		g.victim.link.close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unuse(w.tenant)
	switch {
	case g.idle == nil:
		p.free(w.tenant)
	case p.usable(g.idle):
		p.makeIdle(g.idle)
		p.dispatch(w.tenant.cluster)
	default:
		p.closeIdle(g.idle)
	}
}

// discardAndRequeue closes a connection that proved dead, and lets w wait where it stood.
func (p *Pools) discardAndRequeue(w *waiter, dead *server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unuse(w.tenant)
	p.closeIdle(dead)
	if p.closed {
		w.granted <- grant{err: stopping()}
		return
	}
	w.element = w.tenant.waiters.PushFront(w)
	w.tenant.cluster.waiting++
	w.tenant.reorder()
	p.dispatch(w.tenant.cluster)
}

func (p *Pools) usable(s *server) bool { return !p.closed && s.epoch == s.tenant.epoch }

func (p *Pools) makeIdle(s *server) {
	s.tenant.idle = append(s.tenant.idle, s)
	s.idle = s.tenant.cluster.idle.PushBack(s)
}

func (p *Pools) unidle(s *server) {
	i := slices.Index(s.tenant.idle, s)
	s.tenant.idle = slices.Delete(s.tenant.idle, i, i+1)
	s.tenant.cluster.idle.Remove(s.idle)
	s.idle = nil
	p.forget(s.tenant)
}

func (p *Pools) unuse(t *tenantConns) {
	t.used--
	if t.index >= 0 {
		t.reorder()
	}
}

// closeIdle closes a connection that nobody uses.
func (p *Pools) closeIdle(s *server) {
	c := s.tenant.cluster
	c.closing++
	p.background.Go(func() {
		s.link.close()
		p.mu.Lock()
		defer p.mu.Unlock()
		c.closing--
		p.free(s.tenant)
	})
}

// closeUsed closes a connection that its last user left broken. Until that is done it counts as the tenant's.
func (p *Pools) closeUsed(s *server) {
	c := s.tenant.cluster
	c.closing++
	p.background.Go(func() {
		s.link.close()
		p.mu.Lock()
		defer p.mu.Unlock()
		c.closing--
		p.unuse(s.tenant)
		p.free(s.tenant)
	})
}

// free gives a place in the budget to whoever is next.
func (p *Pools) free(t *tenantConns) {
	t.cluster.open--
	p.open--
	p.dispatch(t.cluster)
	p.forget(t)
	if p.closed && p.open == 0 {
		close(p.gone)
	}
}

// forget drops what holds nothing, so that tenants that come and go leave nothing behind.
func (p *Pools) forget(t *tenantConns) {
	c := t.cluster
	if t.used == 0 && len(t.idle) == 0 && t.waiters.Len() == 0 && c.tenants[t.id] == t {
		delete(c.tenants, t.id)
	}
	if len(c.tenants) == 0 && c.open == 0 && p.clusters[c.name] == c {
		delete(p.clusters, c.name)
	}
}
