package conns

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Conn is a connection in use. It is its holder's alone until Release.
type Conn struct {
	pools  *Pools
	server atomic.Pointer[server]
}

func newConn(p *Pools, s *server) *Conn {
	c := &Conn{pools: p}
	c.server.Store(s)
	return c
}

// PgConn is the connection itself; nil after Release. Whoever cancels the context of one of its calls has PostgreSQL
// cancel the statement; the connection stays usable if PostgreSQL says within a second that it did.
func (c *Conn) PgConn() *pgconn.PgConn {
	s := c.server.Load()
	if s == nil {
		return nil
	}
	if l, ok := s.link.(*pgLink); ok {
		return l.conn
	}
	return nil
}

// Release cleans the connection and gives it back; one that cannot be cleaned is closed. It may be called more than
// once. Cleaning takes a message to the server and back, and has its own deadline, as the caller's may be over: when
// Release returns, the tenant's next call finds the connection.
func (c *Conn) Release() {
	s := c.server.Swap(nil)
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	c.pools.takeBack(s, s.link.clean(ctx) == nil)
}

func (p *Pools) takeBack(s *server, clean bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !clean || !p.usable(s) {
		p.closeUsed(s)
		return
	}
	s.since = time.Now()
	p.unuse(s.tenant)
	p.makeIdle(s)
	// Where somebody of another tenant is next, and there is no room, this closes the least recently used one: most
	// likely this one, as there would hardly be another while somebody waits.
	p.dispatch(s.tenant.cluster)
}
