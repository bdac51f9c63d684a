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
	Schema             string
	Soils              bool // the session
	Breaks             bool // while it holds it
	BreaksIdle         bool // after it let go
}

// drain is one Drain.
type drain struct {
	At     int
	Tenant byte
}

// share is one SetShare.
type share struct {
	At, Share int
	Cluster   byte
}

// plan is all that happens in one run.
type plan struct {
	Budget, PerTenant, Latency, Refusals, Dials int
	Calls                                       []call
	Drains                                      []drain
	Shares                                      []share
}

const planned = 300 // milliseconds in which calls come

// Times so short that each of them often decides.
const (
	maxWait     = 150 * time.Millisecond
	idleTimeout = 80 * time.Millisecond
	checkAfter  = 20 * time.Millisecond
	// connectTimeout is less than the slowest server's latency.
	connectTimeout = 15 * time.Millisecond
)

func plans() *rapid.Generator[plan] {
	at := rapid.IntRange(0, planned)
	calls := rapid.Custom(func(t *rapid.T) call {
		return call{
			At: at.Draw(t, "at"), Patience: rapid.IntRange(0, 250).Draw(t, "patience"), Hold: rapid.IntRange(0, 60).Draw(t, "hold"),
			Tenant: rapid.ByteRange(1, 4).Draw(t, "tenant"), Cluster: rapid.ByteRange('a', 'b').Draw(t, "cluster"),
			Version: int32(1 + rapid.IntRange(0, 6).Draw(t, "version")/6), Schema: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "schema"),
			Soils:  rapid.Bool().Draw(t, "soils"),
			Breaks: rapid.IntRange(0, 5).Draw(t, "breaks") == 0, BreaksIdle: rapid.IntRange(0, 5).Draw(t, "breaks idle") == 0,
		}
	})
	drains := rapid.Custom(func(t *rapid.T) drain {
		return drain{At: at.Draw(t, "at"), Tenant: rapid.ByteRange(1, 4).Draw(t, "tenant")}
	})
	shares := rapid.Custom(func(t *rapid.T) share {
		return share{At: at.Draw(t, "at"), Share: rapid.IntRange(0, 10).Draw(t, "share"), Cluster: rapid.ByteRange('a', 'b').Draw(t, "cluster")}
	})
	return rapid.Custom(func(t *rapid.T) plan {
		return plan{
			Budget: rapid.IntRange(1, 10).Draw(t, "budget"), PerTenant: rapid.IntRange(1, 4).Draw(t, "per tenant"),
			Latency: rapid.IntRange(0, 20).Draw(t, "latency"), Refusals: rapid.IntRange(3, 10).Draw(t, "refusals"),
			Dials:  rapid.IntRange(1, 3).Draw(t, "dials"),
			Calls:  rapid.SliceOfN(calls, 1, 40).Draw(t, "calls"),
			Drains: rapid.SliceOfN(drains, 0, 4).Draw(t, "drains"),
			Shares: rapid.SliceOfN(shares, 0, 6).Draw(t, "shares"),
		}
	})
}

// TestWhateverHappensBudgetsHoldAndNoWaiterIsLost is the package's promise, under calls, cancellations, failures, drains and
// changes of schemas and shares that cross each other in every way: no tenant gets another's connection or one twice, or one
// that is dirty or knows an older schema; neither the share nor the cap is passed, nor a server dialled too often; nobody
// waits while there is something to be had; and each call ends as it should.
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
	s.latency, s.maxDials = time.Duration(plan.Latency)*time.Millisecond, plan.Dials
	s.refuse = func() error {
		switch s.dials % plan.Refusals {
		case 0:
			return errPasses
		case 1:
			return errFinal
		default:
			return nil
		}
	}
	p := New(Config{
		PerTenant: plan.PerTenant, DialsPerCluster: plan.Dials, MaxWait: maxWait, IdleTimeout: idleTimeout, ConnectTimeout: connectTimeout,
		dial: s.dial, checkAfter: checkAfter,
	})
	bounds := map[string]int{"a": plan.Budget, "b": plan.Budget}
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
	for _, c := range plan.Shares {
		all.Go(func() {
			time.Sleep(time.Duration(c.At) * time.Millisecond)
			p.SetShare(string(c.Cluster), c.Share)
			s.mu.Lock()
			defer s.mu.Unlock()
			bounds[string(c.Cluster)] = max(bounds[string(c.Cluster)], min(c.Share, plan.Budget))
		})
	}
	all.Go(func() {
		for range planned + 100 {
			time.Sleep(time.Millisecond)
			synctest.Wait()
			p.inspect(s, bounds, plan.Budget)
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
	for name, c := range *p.clusters.Load() {
		if c.open+c.used+c.closing+c.dialing+c.waiting+c.idle.n+len(c.tenants)+len(c.warm)+len(c.cold)+s.open[name] != 0 || p.open.Load() != 0 {
			s.problem("after Close: %d open, of which the servers see %v; %+v", p.open.Load(), s.open, c)
		}
	}
	return s.problems
}

func (c call) run(p *Pools, s *fakeServers, budget int) {
	target := targetOf(c.Tenant, budget)
	target.Cluster, target.PasswordVersion, target.SchemaVersion = string(c.Cluster), c.Version, c.Schema
	time.Sleep(time.Duration(c.At) * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Patience)*time.Millisecond)
	defer cancel()
	start := time.Now()
	conn, err := take(ctx, p, target)
	waited := time.Since(start)
	if err != nil {
		// What the waiting ends in the middle of is a dial, and the closing of the connection that makes room for it.
		late := waited >= maxWait && waited <= maxWait+connectTimeout+time.Millisecond
		expected := errors.Is(err, errFinal) ||
			fault.HasReason(err, fault.DatabaseUnavailable) && late ||
			fault.HasReason(err, fault.ConnectionsExhausted) && late ||
			errors.Is(err, ctx.Err()) && waited >= time.Duration(c.Patience)*time.Millisecond
		if !expected {
			s.report(fmt.Sprintf("%+v ended after %s with %v", c, waited, err))
		}
		return
	}
	time.Sleep(time.Duration(c.Hold) * time.Millisecond)
	l := linkOf(conn)
	if c.Soils {
		l.soil()
	}
	if c.Breaks {
		l.breakDown()
	}
	give(conn)
	if c.BreaksIdle {
		l.breakDown()
	}
}

func (s *fakeServers) report(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem("%s", problem)
}

// inspect looks at a moment in which everybody waits for something. bounds is how many connections there may be to each
// cluster: those that there were when its share shrank, until they are closed.
func (p *Pools) inspect(s *fakeServers, bounds map[string]int, budget int) {
	for name, c := range *p.clusters.Load() {
		c.mu.Lock()
		used, idle, waiting := 0, 0, 0
		for _, t := range c.tenants {
			used, idle, waiting = used+t.used, idle+len(t.idle), waiting+t.waiters.Len()
			if t.used+len(t.idle) > p.cfg.PerTenant {
				s.report(fmt.Sprintf("%d used and %d idle, cap %d", t.used, len(t.idle), p.cfg.PerTenant))
			}
			if t.waiters.Len() > t.cleaning && c.mayHold(t) && (len(t.idle) > 0 || c.hasRoom() && c.mayDial()) {
				s.report(fmt.Sprintf("%d wait in vain, with %d of %d open, %d idle", t.waiters.Len(), c.open, c.limit(), c.idle.n))
			}
		}
		if used != c.used || idle != c.idle.n || waiting != c.waiting || c.open < used+idle || s.count(name) > c.open {
			s.report(fmt.Sprintf("%d used, %d idle, %d waiting, servers see %v, but %+v", used, idle, waiting, s.open, c))
		}
		s.mu.Lock()
		// No call may have come that told of the budget.
		limit := budget
		if c.leased {
			limit = min(c.share, budget)
		}
		if bound := max(bounds[name], limit); c.open > bound {
			s.problem("%d open, and there may be %d", c.open, bound)
		}
		bounds[name] = max(limit, c.open)
		s.mu.Unlock()
		c.mu.Unlock()
	}
}
