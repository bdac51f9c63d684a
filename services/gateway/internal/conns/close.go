package conns

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Drain closes the connections of a database: idle ones now, those in use when they are released. Calls that come later
// get new ones.
func (p *Pools) Drain(databaseID uuid.UUID) {
	// A database that moved may have connections to two clusters.
	for _, c := range *p.clusters.Load() {
		c.drain(databaseID)
	}
}

func (c *cluster) drain(databaseID uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tenants[databaseID]
	if t == nil {
		return
	}
	t.epoch++
	for len(t.idle) > 0 {
		c.bury(t.idle[0])
	}
	c.dispatch()
}

// Close gives out no more connections, closes the idle ones, and waits until those in use were released and closed, or
// the context ends; what is released later is closed, too. It may be called again, to wait longer.
func (p *Pools) Close(ctx context.Context) error {
	p.closeOnce()
	select {
	case <-p.gone:
		p.background.Wait()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Pools) closeOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.stop)
	for _, c := range *p.clusters.Load() {
		c.close()
	}
	p.shut.Store(true)
	if p.open.Load() == 0 {
		p.allGone()
	}
}

func (p *Pools) allGone() { p.goneOnce.Do(func() { close(p.gone) }) }

func (c *cluster) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, t := range c.tenants {
		for t.waiters.Len() > 0 {
			w := t.first()
			c.leave(w)
			w.granted <- grant{err: stopping()}
		}
		c.forget(t)
	}
	for c.idle.n > 0 {
		c.bury(c.idle.first)
	}
}

// reap closes connections that were idle for too long, until Close.
func (p *Pools) reap() {
	tick := time.NewTicker(max(p.cfg.IdleTimeout/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			for _, c := range *p.clusters.Load() {
				c.reap()
			}
		}
	}
}

func (c *cluster) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.idle.n > 0 && time.Since(c.idle.first.since) >= c.pools.cfg.IdleTimeout {
		c.bury(c.idle.first)
	}
	c.dispatch()
}
