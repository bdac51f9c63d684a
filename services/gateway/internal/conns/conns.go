// Package conns keeps the server connections of all tenants, under one limit per cluster.
//
// A connection belongs to one tenant for life: it is logged in to that tenant's database as that tenant's role, and no
// other tenant is ever handed it. Nothing that one call set is seen by the next: a connection that its last holder left
// dirty is cleaned before it is given out again, in the background. The limit counts every connection that the server may
// see: idle ones, those in use, those being dialled, those being cleaned and those being closed. The least recently used
// idle one makes room for whoever needs a new one.
//
// The limit is the cluster's budget or, where gateways share it, what the registry leased to this one (SetShare).
//
// Who waits is served by tenants, not by calls: next is a call of the tenant that holds least, and among those that hold
// as much, of the one whose turn was longest ago. So a tenant that holds nothing goes before any that holds something, and
// behind no more than one call of each other tenant that holds nothing, however many calls wait: nobody's flood delays
// another's single call by more than the turn that is running, and nobody starves. Holding is what is weighed, rather than
// turns, as it is what costs the server: of two tenants that always want more, each has half of the connections, and not
// the one with the slow statements nearly all. Besides, one connection in eight is a reserve that only tenants that hold
// nothing may take: so a first call mostly does not wait at all, even during a flood.
//
// Who finds an idle connection of its tenant takes it, under the cluster's lock, and costs no more than that. Who does not
// needs one dialled. A server is dialled a few at a time, in the order above; one that refuses for a reason that passes is
// left alone for a moment, and then tried by one caller while the others wait.
//
// It is not for running statements (package sqlapi), nor for deciding who may (package session): it is given a Target
// that somebody has looked up for an authenticated caller.
package conns

import (
	"context"
	"crypto/x509"
	"maps"
	"sync"
	"sync/atomic"
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
	// Budget is how many connections all gateways together may have to the cluster. The latest Target tells.
	Budget int
	// DatabaseID names the database and the role.
	DatabaseID uuid.UUID
	// PasswordVersion is that of the role's password.
	PasswordVersion int32
	// SchemaVersion is that of the database's schema. A connection that was last used at another one renews its prepared
	// statements before it is used again.
	SchemaVersion string
}

// place is the target without what may change while a connection lives.
func (t Target) place() Target {
	t.Budget, t.SchemaVersion = 0, ""
	return t
}

// Config is what Pools needs; only MasterKey has no default.
type Config struct {
	// MasterKey is what the roles' passwords are derived from.
	MasterKey credential.MasterKey
	// RootCAs are whom VerifyFull believes; nil means the system's.
	RootCAs *x509.CertPool
	// Leased means that the budgets are shared with other gateways: a cluster has no connections until SetShare gives it some.
	Leased bool
	// PerTenant is the most connections that one tenant has to a cluster; 16 by default.
	PerTenant int
	// DialsPerCluster is how many connections are made to a cluster at a time; 8 by default.
	DialsPerCluster int
	// IdleTimeout is how long an unused connection is kept; 5 minutes by default.
	IdleTimeout time.Duration
	// MaxWait is how long Acquire waits for its turn; 5 seconds by default.
	MaxWait time.Duration
	// ConnectTimeout is how long making a connection may take; 5 seconds by default.
	ConnectTimeout time.Duration
	// StatementTimeout is PostgreSQL's own limit to a statement, of which a tenant's SQL may set another for itself; 1 minute
	// by default. It is for what a gateway that dies leaves running.
	StatementTimeout time.Duration
	// IdleInTransactionTimeout is how long PostgreSQL lets a transaction lie still, with the same purpose; 1 minute by default.
	IdleInTransactionTimeout time.Duration
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
	orInt := func(v *int, byDefault int) {
		if *v <= 0 {
			*v = byDefault
		}
	}
	orDuration := func(v *time.Duration, byDefault time.Duration) {
		if *v <= 0 {
			*v = byDefault
		}
	}
	orInt(&c.PerTenant, 16)
	orInt(&c.DialsPerCluster, 8)
	orDuration(&c.IdleTimeout, 5*time.Minute)
	orDuration(&c.MaxWait, 5*time.Second)
	orDuration(&c.ConnectTimeout, 5*time.Second)
	orDuration(&c.StatementTimeout, time.Minute)
	orDuration(&c.IdleInTransactionTimeout, time.Minute)
	orDuration(&c.checkAfter, defaultCheckAfter)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.dial == nil {
		c.dial = newDialer(c).dial
	}
	return c
}

// link is what Pools needs of a server connection.
type link interface {
	// dirty is whether the last holder left something that clean has to undo, or the connection is broken. It asks nobody.
	dirty() bool
	// clean makes it as new. It fails for a connection that is busy or broken, which must then be closed.
	clean(ctx context.Context) error
	// renew says that statements prepared before must not be used again. It asks nobody, either.
	renew()
	// check looks, without asking the server, whether it is still there.
	check() error
	// close returns when nothing of it is left.
	close()
}

// Pools is all connections. Make it with New, and Close it.
type Pools struct {
	cfg  Config
	stop chan struct{}
	// background is the reaper, and what cleans, checks and closes connections.
	background sync.WaitGroup
	// clusters is never changed but replaced: clusters are few, and looked up by every call.
	clusters atomic.Pointer[map[string]*cluster]

	mu     sync.Mutex // for those who replace clusters
	closed bool       // no more connections are given out

	open     atomic.Int64  // in all clusters
	shut     atomic.Bool   // nothing opens any more
	gone     chan struct{} // closed with the last connection after that
	goneOnce sync.Once
}

// New makes Pools, and starts what closes idle connections.
func New(cfg Config) *Pools {
	p := &Pools{cfg: cfg.withDefaults(), stop: make(chan struct{}), gone: make(chan struct{})}
	p.clusters.Store(&map[string]*cluster{})
	p.background.Go(p.reap)
	return p
}

// cluster returns the cluster with a name, which is made when it is new.
func (p *Pools) cluster(name string) *cluster {
	if c, ok := (*p.clusters.Load())[name]; ok {
		return c
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.clusters.Load()
	if c, ok := old[name]; ok {
		return c
	}
	c := &cluster{pools: p, name: name, leased: p.cfg.Leased, closed: p.closed, tenants: map[uuid.UUID]*tenantConns{}}
	all := maps.Clone(old)
	all[name] = c
	p.clusters.Store(&all)
	return c
}

// Acquire gives out a clean connection of the target's tenant, to be given back with Release. It fails with
// RESOURCE_EXHAUSTED CONNECTIONS_EXHAUSTED when none could be had within MaxWait, UNAVAILABLE DATABASE_UNAVAILABLE when
// the server does not let the tenant in, or cannot be reached within MaxWait, both with the time to try again; and as ctx
// does.
func (p *Pools) Acquire(ctx context.Context, target Target) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := p.cluster(target.Cluster)
	s := c.takeIdle(&target)
	if s == nil {
		return p.wait(ctx, c, target, nil)
	}
	if !s.alive(p.cfg.checkAfter) {
		return p.wait(ctx, c, target, s)
	}
	return p.handOut(s, &target), nil
}

// handOut gives a connection to its holder.
func (p *Pools) handOut(s *server, target *Target) *Conn {
	if s.schema != target.SchemaVersion {
		s.link.renew()
		s.schema = target.SchemaVersion
	}
	return newConn(p, s)
}

// wait is Acquire for who found no connection, or a dead one.
func (p *Pools) wait(ctx context.Context, c *cluster, target Target, dead *server) (*Conn, error) {
	w, err := c.enqueue(target, dead)
	if err != nil {
		return nil, err
	}
	patience := time.NewTimer(p.cfg.MaxWait)
	defer patience.Stop()
	for {
		g, err := c.await(ctx, patience.C, w)
		switch {
		case err != nil:
			return nil, err
		case g.idle == nil:
			s, again, err := c.connect(ctx, w, g)
			if err != nil {
				return nil, err
			}
			if !again {
				return p.handOut(s, &target), nil
			}
		case g.idle.alive(p.cfg.checkAfter):
			return p.handOut(g.idle, &target), nil
		default:
			c.requeue(w, g.idle)
		}
	}
}

// await waits for a grant. Whatever ends the waiting, w is in no queue afterwards.
func (c *cluster) await(ctx context.Context, patience <-chan time.Time, w *waiter) (grant, error) {
	select {
	case g := <-w.granted:
		return g, g.err
	default:
	}
	select {
	case g := <-w.granted:
		return g, g.err
	case <-ctx.Done():
		return c.giveUp(ctx, w, ctx.Err())
	case <-patience:
		return c.giveUp(ctx, w, nil)
	}
}

// giveUp ends the waiting with err, or nil for who waited too long, unless w was served at the same moment and still wants
// what it got.
func (c *cluster) giveUp(ctx context.Context, w *waiter, err error) (grant, error) {
	left, failure := c.dequeue(w, err == nil)
	switch {
	case left && err != nil:
		return grant{}, err
	case left && failure != nil:
		return grant{}, unreachable(failure)
	case left:
		return grant{}, fault.New(codes.ResourceExhausted, fault.ConnectionsExhausted,
			"no database connection became free within %s", c.pools.cfg.MaxWait).RetryIn(retryAfter)
	}
	g := <-w.granted
	if g.err != nil || ctx.Err() == nil {
		return g, g.err
	}
	c.returnGrant(w, g)
	return grant{}, ctx.Err()
}
