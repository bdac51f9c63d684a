package conns

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Drain closes the connections of a database: idle ones now, those in use when they are released. Calls that come later
// get new ones.
func (p *Pools) Drain(databaseID uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A database that moved may have connections to two clusters.
	for _, c := range p.clusters {
		t := c.tenants[databaseID]
		if t == nil {
			continue
		}
		t.epoch++
		for len(t.idle) > 0 {
			s := t.idle[0]
			p.unidle(s)
			p.closeIdle(s)
		}
	}
}

// Close gives out no more connections, closes the idle ones, and waits until those in use were released and closed, or
// the context ends; what is released later is closed, too. It may be called again, to wait longer.
func (p *Pools) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
		for _, c := range p.clusters {
			p.shut(c)
		}
		if p.open == 0 {
			close(p.gone)
		}
	}
	p.mu.Unlock()
	select {
	case <-p.gone:
		p.background.Wait()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Pools) shut(c *cluster) {
	for len(c.queue) > 0 {
		w := c.queue[0].first()
		p.leave(w)
		p.forget(w.tenant)
		w.granted <- grant{err: stopping()}
	}
	for c.idle.Len() > 0 {
		s := c.idle.Front().Value.(*server)
		p.unidle(s)
		p.closeIdle(s)
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
			p.reapOnce()
		}
	}
}

func (p *Pools) reapOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clusters {
		for front := c.idle.Front(); front != nil; front = c.idle.Front() {
			s := front.Value.(*server)
			if time.Since(s.since) < p.cfg.IdleTimeout {
				break
			}
			p.unidle(s)
			p.closeIdle(s)
		}
	}
}
