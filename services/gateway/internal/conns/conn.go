package conns

import (
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
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

// Session is what runs statements on the connection; nil after Release. Whoever cancels the context of one of its calls
// has PostgreSQL cancel the statement; the connection stays usable if PostgreSQL says within a second that it did.
func (c *Conn) Session() *pgsession.Session {
	s := c.server.Load()
	if s == nil {
		return nil
	}
	if l, ok := s.link.(*pgLink); ok {
		return l.session
	}
	return nil
}

// PgConn is the connection itself, for whoever speaks to it on his own; nil after Release. All is reset after him.
func (c *Conn) PgConn() *pgconn.PgConn {
	if s := c.Session(); s != nil {
		return s.Conn()
	}
	return nil
}
