package conns

import (
	"context"
	"time"
)

// Release gives the connection back. A clean one is there for the tenant's next call when Release returns; a dirty one is
// cleaned in the background, for which the next call waits rather than have another one dialled, and closed if that fails.
// It may be called more than once.
func (c *Conn) Release() {
	s := c.server.Swap(nil)
	if s == nil {
		return
	}
	dirty := s.link.dirty()
	in := s.tenant.cluster
	in.mu.Lock()
	defer in.mu.Unlock()
	s.since, s.suspect = time.Now(), false
	if dirty && !in.closed && s.epoch == s.tenant.epoch {
		in.clean(s)
		return
	}
	in.putBack(s)
}

// clean cleans a connection in the background. There are no more of these than connections, and each has a deadline.
func (c *cluster) clean(s *server) {
	c.expect(s.tenant, 1)
	c.pools.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		err := s.link.clean(ctx)
		// It may have failed because of what its holder left it in the middle of, or because the server is gone.
		dead := err != nil && s.link.check() != nil
		c.mu.Lock()
		defer c.mu.Unlock()
		c.expect(s.tenant, -1)
		if err == nil {
			s.since = time.Now()
			c.putBack(s)
			return
		}
		c.buryUsed(s)
		if dead {
			c.suspectOthers()
		}
		c.dispatch()
	})
}

// expect changes how many connections of a tenant are about to be idle.
func (c *cluster) expect(t *tenantConns, more int) {
	t.cleaning += more
	if t.waiters.Len() > 0 {
		c.reorder(t)
	}
}

// suspectOthers has the idle connections checked, as one was found dead: a server that was restarted left none alive. Who
// takes one before it is its turn checks it itself.
func (c *cluster) suspectOthers() {
	for s := c.idle.first; s != nil; s = s.next {
		s.suspect = true
	}
	if c.idle.n == 0 || c.sweeping {
		return
	}
	c.sweeping = true
	c.pools.background.Go(c.sweep)
}

// sweep checks the connections that are suspect, one after the other. Each is used while that lasts.
func (c *cluster) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.takeSuspect(); s != nil; s = c.takeSuspect() {
		c.mu.Unlock()
		err := s.link.check()
		c.mu.Lock()
		c.expect(s.tenant, -1)
		if err == nil {
			s.suspect = false
			c.putBack(s)
			continue
		}
		c.buryUsed(s)
		c.dispatch()
	}
	c.sweeping = false
}

func (c *cluster) takeSuspect() *server {
	for s := c.idle.first; s != nil; s = s.next {
		if s.suspect {
			c.unidle(s)
			c.use(s.tenant)
			c.expect(s.tenant, 1)
			return s
		}
	}
	return nil
}
