// Package conns keeps the server connections of all tenants, under one budget per cluster.
//
// A connection belongs to one tenant for life: it is logged in to that tenant's database as that tenant's role, and no
// other tenant is ever handed it. Between two calls of a tenant it is cleaned, so that nothing that one call set is
// seen by the next. The budget counts every connection that the server may see: idle ones, those in use, those being
// dialled, and those that are being closed. The least recently used idle one makes room for whoever needs a new one.
//
// Who waits is served in the order of arrival, except that a tenant that holds fewer connections goes before one that
// holds more: so no number of waiting calls of a noisy tenant keeps another from its first connection.
//
// It is not for running statements (package sqlapi), nor for deciding who may (package session): it is given a Target
// that somebody has looked up for an authenticated caller.
package conns

import (
	"context"
	"crypto/x509"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// TLSMode is how connections to a cluster are protected.
type TLSMode int

// The modes of libpq that decide one thing each: the ones between promise what they do not hold.
const (
	// Disable is for servers on the same machine or network.
	Disable TLSMode = iota
	// Require encrypts, and believes whoever answers.
	Require
	// VerifyFull checks that the server's certificate is good and bears its host's name.
	VerifyFull
)

// Target is where one tenant lives.
type Target struct {
	// Cluster is the name that the budget goes by.
	Cluster string
	// Host is a name, an address, or the directory of a Unix socket.
	Host string
	// Port is the server's.
	Port int
	// TLS is how to talk to it.
	TLS TLSMode
	// Budget is how many connections this process may have to the cluster. The latest Target tells.
	Budget int
	// DatabaseID names the database and the role.
	DatabaseID uuid.UUID
	// PasswordVersion is that of the role's password.
	PasswordVersion int32
}

// place is the target without what may change while a connection lives.
func (t Target) place() Target {
	t.Budget = 0
	return t
}

// Config is what Pools needs; only MasterKey has no default.
type Config struct {
	// MasterKey is what the roles' passwords are derived from.
	MasterKey credential.MasterKey
	// RootCAs are whom VerifyFull believes; nil means the system's.
	RootCAs *x509.CertPool
	// PerTenant is the most connections that one tenant has to a cluster; 16 by default.
	PerTenant int
	// IdleTimeout is how long an unused connection is kept; 5 minutes by default.
	IdleTimeout time.Duration
	// MaxWait is how long Acquire waits for its turn; 5 seconds by default.
	MaxWait time.Duration
	// ConnectTimeout is how long making a connection may take; 5 seconds by default.
	ConnectTimeout time.Duration
	// Logger tells of connections that could not be made; nil means silence.
	Logger *zap.Logger

	// dial makes a connection; tests have another.
	dial func(ctx context.Context, target Target) (link, error)
	// checkAfter is how long a connection may lie idle and still be trusted to be alive; tests have less.
	checkAfter time.Duration
}

const (
	// defaultCheckAfter is short enough to find most of what a restarted server left behind.
	defaultCheckAfter = 10 * time.Second
	// cleanTimeout is how long the server may take to clean a connection before that costs more than a new one.
	cleanTimeout = 2 * time.Second
	// retryAfter is when callers are told to try again.
	retryAfter = time.Second
)

func (c Config) withDefaults() Config {
	if c.PerTenant <= 0 {
		c.PerTenant = 16
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 5 * time.Minute
	}
	if c.MaxWait <= 0 {
		c.MaxWait = 5 * time.Second
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	if c.checkAfter == 0 {
		c.checkAfter = defaultCheckAfter
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.dial == nil {
		c.dial = dialer{masterKey: c.MasterKey, rootCAs: c.RootCAs, timeout: c.ConnectTimeout}.dial
	}
	return c
}

// link is what Pools needs of a server connection.
type link interface {
	// clean makes it as new. It fails for a connection that is busy or broken, which must then be closed.
	clean(ctx context.Context) error
	// check looks, without asking the server, whether it is still there.
	check() error
	// close returns when nothing of it is left.
	close()
}

// Pools is all connections. Make it with New, and Close it.
type Pools struct {
	cfg  Config
	stop chan struct{}
	// background is the reaper and the closing of connections.
	background sync.WaitGroup

	mu       sync.Mutex
	clusters map[string]*cluster
	arrivals uint64        // how many have ever waited
	open     int           // in all clusters
	closed   bool          // no more connections are given out
	gone     chan struct{} // closed with the last connection after that
}

// New makes Pools, and starts what closes idle connections.
func New(cfg Config) *Pools {
	p := &Pools{
		cfg:      cfg.withDefaults(),
		stop:     make(chan struct{}),
		gone:     make(chan struct{}),
		clusters: map[string]*cluster{},
	}
	p.background.Go(p.reap)
	return p
}

// Acquire gives out a clean connection of the target's tenant, to be given back with Release. It fails with
// RESOURCE_EXHAUSTED CONNECTIONS_EXHAUSTED when none could be had within MaxWait, UNAVAILABLE DATABASE_UNAVAILABLE when
// the server cannot be reached or does not let the tenant in, both with the time to try again; and as ctx does.
func (p *Pools) Acquire(ctx context.Context, target Target) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w, err := p.enqueue(target)
	if err != nil {
		return nil, err
	}
	patience := time.NewTimer(p.cfg.MaxWait)
	defer patience.Stop()
	for {
		g, err := p.await(ctx, patience.C, w)
		if err != nil {
			return nil, err
		}
		if g.idle == nil {
			return p.connect(ctx, w, g)
		}
		if time.Since(g.idle.since) < p.cfg.checkAfter || g.idle.link.check() == nil {
			return newConn(p, g.idle), nil
		}
		p.discardAndRequeue(w, g.idle)
	}
}

// await waits for a grant. Whatever ends the waiting, w is in no queue afterwards.
func (p *Pools) await(ctx context.Context, patience <-chan time.Time, w *waiter) (grant, error) {
	select {
	case g := <-w.granted:
		return g, g.err
	default:
	}
	var err error
	select {
	case g := <-w.granted:
		return g, g.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-patience:
		err = fault.New(codes.ResourceExhausted, fault.ConnectionsExhausted,
			"no database connection became free within %s", p.cfg.MaxWait).RetryIn(retryAfter)
	}
	return p.giveUp(ctx, w, err)
}

// giveUp ends the waiting with err, unless w was served at the same moment and still wants what it got.
func (p *Pools) giveUp(ctx context.Context, w *waiter, err error) (grant, error) {
	if p.dequeue(w) {
		return grant{}, err
	}
	g := <-w.granted
	if g.err != nil || ctx.Err() == nil {
		return g, g.err
	}
	p.returnGrant(w, g)
	return grant{}, err
}

// connect makes the connection for which w was granted a place in the budget.
func (p *Pools) connect(ctx context.Context, w *waiter, g grant) (*Conn, error) {
	if g.victim != nil {
		g.victim.link.close()
	}
	dialling, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	defer cancel()
	made, err := p.cfg.dial(dialling, w.target)
	if err == nil {
		return newConn(p, &server{link: made, tenant: w.tenant, target: w.target.place(), epoch: g.epoch}), nil
	}
	p.mu.Lock()
	p.unuse(w.tenant)
	p.free(w.tenant)
	p.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	p.cfg.Logger.Warn("could not connect to a tenant's database", zap.String("cluster", w.target.Cluster),
		zap.Stringer("database_id", w.target.DatabaseID), zap.Error(err))
	return nil, fault.New(codes.Unavailable, fault.DatabaseUnavailable,
		"the company's database cannot be reached").RetryIn(retryAfter).Because(err)
}

// Stats is the state of one cluster's connections.
type Stats struct {
	// Budget is how many there may be.
	Budget int
	// Open is how many there are: idle, in use, being made or being closed.
	Open int
	// Idle is how many of them nobody uses.
	Idle int
	// Waiting is how many calls want one and have none.
	Waiting int
}

// Stats returns the state of each cluster that has connections or somebody waiting for one.
func (p *Pools) Stats() map[string]Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]Stats, len(p.clusters))
	for name, c := range p.clusters {
		all[name] = Stats{Budget: c.budget, Open: c.open, Idle: c.idle.Len(), Waiting: c.waiting}
	}
	return all
}
