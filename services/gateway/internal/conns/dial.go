package conns

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

const (
	// firstBackOff is how long a server that could not be reached is left alone at first; each further failure doubles it.
	firstBackOff = 25 * time.Millisecond
	// longestBackOff is short enough that who waits for a server that was restarted hardly notices.
	longestBackOff = 500 * time.Millisecond
)

// passing are the SQLSTATEs of a server that lets nobody in for now: too many connections, starting up, shutting down.
var passing = []string{"53300", "57P03", "57P01", "57P02"}

// passes is whether a dial that failed may succeed in a moment: the server could not be reached, or said so. Another answer
// is final, such as a wrong password (28P01), no such database (3D000) and no right to connect to it (42501).
func passes(err error) bool {
	var untrusted *tls.CertificateVerificationError
	code := pg.Code(err)
	return code == "" && !errors.As(err, &untrusted) || slices.Contains(passing, code)
}

func unreachable(cause error) error {
	return fault.New(codes.Unavailable, fault.DatabaseUnavailable, "the company's database cannot be reached").RetryIn(retryAfter).Because(cause)
}

// mayDial is whether one more connection may be made now.
func (c *cluster) mayDial() bool {
	limit := c.pools.cfg.DialsPerCluster
	// Who does not know that the server is there again finds out alone.
	if c.failures > 0 {
		limit = 1
	}
	return !c.backingOff && c.dialing < limit
}

// connect makes the connection for which w was granted a place in the budget. again means that the server could not be
// reached and w waits once more.
func (c *cluster) connect(ctx context.Context, w *waiter, g grant) (made *server, again bool, err error) {
	if g.victim != nil {
		g.victim.link.close()
	}
	cfg := &c.pools.cfg
	dialling, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	l, err := cfg.dial(dialling, w.target)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialing--
	if err == nil {
		c.reached()
		return &server{link: l, tenant: w.tenant, target: w.target.place(), schema: w.target.SchemaVersion, epoch: g.epoch}, false, nil
	}
	// After all that follows, as it serves others.
	defer c.free(w.tenant)
	c.unuse(w.tenant)
	if ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	c.dialFailures++
	cfg.Logger.Warn("could not connect to a tenant's database", zap.String("cluster", c.name),
		zap.Stringer("database_id", w.target.DatabaseID), zap.Error(err))
	if !passes(err) {
		c.reached()
		return nil, false, unreachable(err)
	}
	c.backOff(err)
	// Its tenant goes behind the others, whose databases may have no such trouble.
	w.failure = err
	c.waitAgain(w)
	return nil, true, nil
}

// reached notes that the server answers.
func (c *cluster) reached() {
	c.failure, c.failures = nil, 0
	c.dispatch()
}

// backOff leaves the server alone for a while. What was already under way when that began says nothing new.
func (c *cluster) backOff(err error) {
	c.failure = err
	if c.backingOff || c.closed {
		return
	}
	pause := longestBackOff
	if c.failures < 8 {
		pause = min(firstBackOff<<c.failures, longestBackOff)
	}
	c.failures++
	c.backingOff = true
	c.pools.background.Go(func() {
		// Gateways that share a server do not come back at the same moment.
		over := time.NewTimer(pause/2 + rand.N(pause/2))
		defer over.Stop()
		select {
		case <-over.C:
		case <-c.pools.stop:
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.backingOff = false
		c.dispatch()
	})
}
