package conns

import (
	"container/heap"
	"container/list"
)

// reserved is the part of the limit that only tenants that hold nothing may take: one in so many.
const reserved = 8

// waiter is one call that wants a connection.
type waiter struct {
	tenant  *tenantConns
	target  Target
	turn    uint64     // the tenant's, when it was served
	failure error      // of the last dial for it
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

// turns is a heap of tenants of which somebody waits: who holds least goes first, and among those whose turn it was longest
// ago.
type turns []*tenantConns

func (q turns) Len() int { return len(q) }

func (q turns) Less(i, j int) bool { return q[i].before(q[j]) }

func (q turns) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is heap.Interface's.
func (q *turns) Push(x any) {
	t := x.(*tenantConns)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop is heap.Interface's.
func (q *turns) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return t
}

func (q turns) head() *tenantConns {
	if len(q) == 0 {
		return nil
	}
	return q[0]
}

func (t *tenantConns) before(other *tenantConns) bool {
	if t.used != other.used {
		return t.used < other.used
	}
	return t.turn < other.turn
}

func (t *tenantConns) first() *waiter { return t.waiters.Front().Value.(*waiter) }

// reorder puts the tenant where it now belongs: among those that can be served with a connection of their own, among those
// that need one dialled, or, when as many of its connections are about to be clean as it waits for, nowhere.
func (c *cluster) reorder(t *tenantConns) {
	var want *turns
	switch n := t.waiters.Len(); {
	case n == 0:
	case len(t.idle) > 0:
		want = &c.warm
	case n > t.cleaning:
		want = &c.cold
	}
	switch {
	case want != nil && want == t.queue:
		heap.Fix(want, t.index)
		return
	case t.queue != nil:
		heap.Remove(t.queue, t.index)
	}
	if t.queue = want; want != nil {
		heap.Push(want, t)
	}
}

// takeTurn puts the tenant behind all that hold as much.
func (c *cluster) takeTurn(t *tenantConns) {
	c.turn++
	t.turn = c.turn
	if t.waiters.Len() > 0 {
		c.reorder(t)
	}
}

// mayHold is whether the tenant may have one more connection, if there is one.
func (c *cluster) mayHold(t *tenantConns) bool {
	limit := c.limit()
	return t.used < c.pools.cfg.PerTenant && (t.used == 0 || c.used < limit-limit/reserved)
}

// next is whose turn it is, of those who can be served now; nil means nobody's.
func (c *cluster) next() *tenantConns {
	warm, cold := c.warm.head(), c.cold.head()
	// The first holds least, so what it may not nobody may.
	if warm != nil && !c.mayHold(warm) {
		warm = nil
	}
	if cold != nil && (!c.mayHold(cold) || !c.hasRoom() || !c.mayDial()) {
		cold = nil
	}
	if warm == nil || cold != nil && cold.before(warm) {
		return cold
	}
	return warm
}

// hasRoom is whether there is a place for a new connection, or an idle one that can be closed for it.
func (c *cluster) hasRoom() bool {
	limit := c.limit()
	return c.open < limit || c.open == limit && c.idle.n > 0
}

// dispatch serves waiters for as long as there is something to serve them with.
func (c *cluster) dispatch() {
	c.trim()
	for t := c.next(); t != nil; t = c.next() {
		w := t.first()
		g, ok := c.grant(t, w)
		if !ok {
			continue
		}
		w.turn = t.turn
		c.leave(w)
		c.use(t)
		c.granted++
		w.granted <- g
	}
}

// grant finds something for a waiter whose turn it is. It reports false when that changed whose turn it is.
func (c *cluster) grant(t *tenantConns, w *waiter) (grant, bool) {
	g := grant{epoch: t.epoch}
	switch {
	case len(t.idle) > 0:
		if g.idle = t.newest(w.target.place()); g.idle != nil {
			c.unidle(g.idle)
			return g, true
		}
		// The tenant has moved, or its password been changed.
		for len(t.idle) > 0 {
			c.bury(t.idle[0])
		}
		return g, false
	case c.open < c.limit():
		c.open++
		c.pools.open.Add(1)
	default:
		g.victim = c.idle.first
		c.unidle(g.victim)
		c.displace(g.victim)
		c.forget(g.victim.tenant)
	}
	c.dialing++
	c.dials++
	return g, true
}

// enqueue makes a waiter for the target, which may be served at once. dead is a connection that it had taken in vain, or nil.
func (c *cluster) enqueue(target Target, dead *server) (*waiter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if dead != nil {
		c.buryUsed(dead)
		c.suspectOthers()
	}
	if c.closed {
		return nil, stopping()
	}
	t := c.tenants[target.DatabaseID]
	if t == nil {
		t = &tenantConns{id: target.DatabaseID, cluster: c, waiters: list.New()}
		c.tenants[target.DatabaseID] = t
	}
	w := &waiter{tenant: t, target: target, granted: make(chan grant, 1)}
	w.element = t.waiters.PushBack(w)
	c.waiting++
	if t.waiters.Len() == 1 {
		c.takeTurn(t)
	} else {
		c.reorder(t)
	}
	c.dispatch()
	return w, nil
}

// requeue lets w wait where it stood, as the connection that it was granted is dead.
func (c *cluster) requeue(w *waiter, dead *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buryUsed(dead)
	c.suspectOthers()
	w.tenant.turn = min(w.tenant.turn, w.turn)
	c.waitAgain(w)
	c.dispatch()
}

// waitAgain is enqueue for a waiter that was served in vain: it is its tenant's first again.
func (c *cluster) waitAgain(w *waiter) {
	if c.closed {
		w.granted <- grant{err: stopping()}
		return
	}
	t := w.tenant
	w.element = t.waiters.PushFront(w)
	c.waiting++
	c.reorder(t)
}

// dequeue takes a waiter that gave up out of the queue; false means that it was served already. failure is why the server
// cannot be reached, if it waited for that.
func (c *cluster) dequeue(w *waiter, timeout bool) (left bool, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.element == nil {
		return false, nil
	}
	if timeout {
		c.timeouts++
	}
	c.leave(w)
	c.forget(w.tenant)
	if w.failure == nil {
		return true, c.failure
	}
	return true, w.failure
}

func (c *cluster) leave(w *waiter) {
	w.tenant.waiters.Remove(w.element)
	w.element = nil
	c.waiting--
	c.reorder(w.tenant)
}

// returnGrant gives back what came too late.
func (c *cluster) returnGrant(w *waiter, g grant) {
	if g.victim != nil {
		g.victim.link.close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.idle != nil {
		c.putBack(g.idle)
		return
	}
	c.dialing--
	c.unuse(w.tenant)
	c.free(w.tenant)
}
