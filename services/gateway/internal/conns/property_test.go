package conns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// call is one call of a tenant: it comes, waits no longer than it wants to, holds the connection and lets it go.
type call struct {
	At, Patience, Hold int // milliseconds
	Tenant, Cluster    byte
	Version            int32
	Breaks             bool // while it holds it
	BreaksIdle         bool // after it let go
}

// drain is one Drain.
type drain struct {
	At     int
	Tenant byte
}

// plan is all that happens in one run.
type plan struct {
	Budget, PerTenant, Latency, Refusals int
	Calls                                []call
	Drains                               []drain
}

const planned = 300 // milliseconds in which calls come

// Times so short that each of them often decides.
const (
	maxWait     = 150 * time.Millisecond
	idleTimeout = 80 * time.Millisecond
	checkAfter  = 20 * time.Millisecond
)

func plans() *rapid.Generator[plan] {
	at := rapid.IntRange(0, planned)
	calls := rapid.Custom(func(t *rapid.T) call {
		return call{
			At: at.Draw(t, "at"), Patience: rapid.IntRange(0, 250).Draw(t, "patience"), Hold: rapid.IntRange(0, 60).Draw(t, "hold"),
			Tenant: rapid.ByteRange(1, 4).Draw(t, "tenant"), Cluster: rapid.ByteRange('a', 'b').Draw(t, "cluster"),
			Version: rapid.Int32Range(1, 2).Draw(t, "version"),
			Breaks:  rapid.IntRange(0, 5).Draw(t, "breaks") == 0, BreaksIdle: rapid.IntRange(0, 5).Draw(t, "breaks idle") == 0,
		}
	})
	drains := rapid.Custom(func(t *rapid.T) drain {
		return drain{At: at.Draw(t, "at"), Tenant: rapid.ByteRange(1, 4).Draw(t, "tenant")}
	})
	return rapid.Custom(func(t *rapid.T) plan {
		return plan{
			Budget: rapid.IntRange(1, 5).Draw(t, "budget"), PerTenant: rapid.IntRange(1, 4).Draw(t, "per tenant"),
			Latency: rapid.IntRange(0, 20).Draw(t, "latency"), Refusals: rapid.IntRange(2, 10).Draw(t, "refusals"),
			Calls:  rapid.SliceOfN(calls, 1, 40).Draw(t, "calls"),
			Drains: rapid.SliceOfN(drains, 0, 4).Draw(t, "drains"),
		}
	})
}

// TestWhateverHappensBudgetsHoldAndNoWaiterIsLost is the package's promise, under calls, cancellations, failures and
// drains that cross each other in every way: no tenant gets another's connection or one twice, neither the budget nor
// the cap is passed, nobody waits while there is something to be had, and each call ends as it should.
func TestWhateverHappensBudgetsHoldAndNoWaiterIsLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		// Drawn beforehand, as rapid cannot reach into a bubble.
		plan := plans().Draw(rt, "plan")
		var problems []string
		synctest.Test(t, func(*testing.T) { problems = run(plan) })
		if len(problems) > 0 {
			rt.Fatalf("%d problems, such as: %s", len(problems), problems[0])
		}
	})
}

func run(plan plan) []string {
	s := newServers(plan.Budget)
	s.latency = time.Duration(plan.Latency) * time.Millisecond
	s.refuse = func() bool { return s.dials%plan.Refusals == 0 }
	p := New(Config{
		PerTenant: plan.PerTenant, MaxWait: maxWait, IdleTimeout: idleTimeout, ConnectTimeout: 15 * time.Millisecond,
		dial: s.dial, checkAfter: checkAfter,
	})
	var all sync.WaitGroup
	for _, c := range plan.Calls {
		all.Go(func() { c.run(p, s, plan.Budget) })
	}
	for _, d := range plan.Drains {
		all.Go(func() {
			time.Sleep(time.Duration(d.At) * time.Millisecond)
			p.Drain(uuid.UUID{15: d.Tenant})
		})
	}
	all.Go(func() {
		for range planned + 100 {
			time.Sleep(time.Millisecond)
			synctest.Wait()
			p.inspect(s)
		}
	})
	all.Wait()
	for name, stats := range p.Stats() {
		if stats.Waiting != 0 {
			s.problem("at the end, in %s: %+v", name, stats)
		}
	}
	if err := p.Close(context.Background()); err != nil {
		s.problem("Close: %v", err)
	}
	if len(p.clusters) > 0 || p.open != 0 || s.open["a"]+s.open["b"] != 0 {
		s.problem("after Close: %d clusters, %d open, of which the servers see %v", len(p.clusters), p.open, s.open)
	}
	return s.problems
}

func (c call) run(p *Pools, s *servers, budget int) {
	target := targetOf(c.Tenant, budget)
	target.Cluster, target.PasswordVersion = string(c.Cluster), c.Version
	time.Sleep(time.Duration(c.At) * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Patience)*time.Millisecond)
	defer cancel()
	start := time.Now()
	conn, err := take(ctx, p, target)
	waited := time.Since(start)
	if err != nil {
		expected := errors.Is(err, errDial) ||
			fault.HasReason(err, fault.DatabaseUnavailable) && s.latency >= p.cfg.ConnectTimeout ||
			fault.HasReason(err, fault.ConnectionsExhausted) && waited == maxWait ||
			errors.Is(err, ctx.Err()) && waited >= time.Duration(c.Patience)*time.Millisecond
		if !expected {
			s.report(fmt.Sprintf("%+v ended after %s with %v", c, waited, err))
		}
		return
	}
	time.Sleep(time.Duration(c.Hold) * time.Millisecond)
	l := linkOf(conn)
	if c.Breaks {
		l.breakDown()
	}
	give(conn)
	if c.BreaksIdle {
		l.breakDown()
	}
}

func (s *servers) report(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem("%s", problem)
}

// inspect looks at a moment in which everybody waits for something.
func (p *Pools) inspect(s *servers) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clusters {
		used, idle, waiting := 0, 0, 0
		for _, t := range c.tenants {
			used, idle, waiting = used+t.used, idle+len(t.idle), waiting+t.waiters.Len()
			if t.used+len(t.idle) > p.cfg.PerTenant {
				s.report(fmt.Sprintf("%d used and %d idle, cap %d", t.used, len(t.idle), p.cfg.PerTenant))
			}
			if t.waiters.Len() > 0 && t.used < p.cfg.PerTenant && (c.open < c.budget || c.idle.Len() > 0) {
				s.report(fmt.Sprintf("%d wait in vain, with %d of %d open, %d idle", t.waiters.Len(), c.open, c.budget, c.idle.Len()))
			}
		}
		if idle != c.idle.Len() || waiting != c.waiting || c.open < used+idle || c.open > c.budget {
			s.report(fmt.Sprintf("%d used, %d idle, %d waiting, but %+v", used, idle, waiting, *c))
		}
	}
}
