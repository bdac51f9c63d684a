package conns

import (
	"sync/atomic"

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
