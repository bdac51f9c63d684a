package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

const (
	// flushEvery is how long a result waits at most to be written with others. A copy that dies in between loses only that
	// it was told: the tenant is looked at again, and has nothing left to do.
	flushEvery = 50 * time.Millisecond
	// flushSize is how many results are written at once at most.
	flushSize = 100
)

// pass migrates selected tenants that have no result, clusters side by side: all of them, or as many as its limit says.
type pass struct {
	*Runner
	rollout *Rollout
	release *release.Release
	limit   int // 0 means no limit

	telling sync.Mutex // one flush at a time
	mu      sync.Mutex
	halted  bool
	reason  string // why it stopped itself
	failed  int
	total   int
	running int
	ended   []ended              // yet to be told
	again   []*registryv1.Tenant // to be tried once more
}

// ended is a tenant that was worked on.
type ended struct {
	tenant *registryv1.Tenant
	result *provisionerv1.TenantResult
	// version is what the registry has to be told; empty for nothing.
	version string
	// mark says that its database is wholly at the release, and has to be marked so.
	mark bool
}

// run returns how many tenants it found. errHalted says that an operator stopped it.
func (p *pass) run(ctx context.Context) (found int, err error) {
	now, err := p.store.Get(ctx, p.rollout.ID)
	if err != nil {
		return 0, err
	}
	p.failed, p.total = int(now.GetFailed()), int(now.GetTotal())
	p.judge()
	stop, stopped := context.WithCancel(ctx)
	var side sync.WaitGroup
	side.Go(func() { p.listen(stop) })
	side.Go(func() { p.write(stop) })
	found, err = p.all(ctx)
	for try := 0; err == nil && try < later && !p.stopping(); try++ {
		// Only what was told shows which tenants have another database by now.
		if err = p.flush(ctx); err != nil {
			break
		}
		again := p.taken()
		if len(again) == 0 {
			break
		}
		err = p.these(ctx, again, try == later-1)
	}
	stopped()
	side.Wait()
	// What ended is written also when the rest was interrupted.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(err, p.flush(clean))
	if err == nil && p.halted {
		err = errHalted
	}
	return found, err
}

// stopped is why the pass stopped itself; empty when it did not.
func (p *pass) stopped() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

func (p *pass) stopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.halted || p.reason != ""
}

// judge stops the pass when its failure budget is used up. The caller holds the lock, or is alone.
func (p *pass) judge() {
	b := p.rollout.GetFailureBudget()
	allowed := float64(p.total) * b.GetPercent() / 100
	switch {
	case b.GetCount() > 0 && p.failed > int(b.GetCount()):
		p.reason = fmt.Sprintf("the failure budget is used up: %d of %d tenants failed, and %d may", p.failed, p.total, b.GetCount())
	case b.GetPercent() > 0 && float64(p.failed) > allowed:
		p.reason = fmt.Sprintf("the failure budget is used up: %d of %d tenants failed, and %g%% may", p.failed, p.total, b.GetPercent())
	}
}

// listen notices that an operator paused or cancelled the rollout.
func (p *pass) listen(ctx context.Context) {
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if runs, err := p.store.runs(ctx, p.rollout.ID); err == nil && !runs {
			p.mu.Lock()
			p.halted = true
			p.mu.Unlock()
		}
	}
}

// taken takes the tenants that are to be tried once more.
func (p *pass) taken() []*registryv1.Tenant {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := p.again
	p.again = nil
	return again
}

// write tells what ended as it comes, some at a time.
func (p *pass) write(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := p.flush(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("what a rollout did cannot be told; that is tried again", zap.Stringer("rollout", p.rollout.ID), zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// flush tells what ended: the registry first, so that a result is kept only of what it knows.
func (p *pass) flush(ctx context.Context) error {
	p.telling.Lock()
	defer p.telling.Unlock()
	for {
		p.mu.Lock()
		some := slices.Clone(p.ended[:min(len(p.ended), flushSize)])
		running := p.running
		p.mu.Unlock()
		others, err := p.migrator.recordAll(ctx, some)
		if err != nil {
			return err
		}
		var results []*provisionerv1.TenantResult
		var marked []*registryv1.Tenant
		var again []*registryv1.Tenant
		for _, e := range some {
			if t, other := others[e.tenant.GetCompanyId()]; other {
				again = append(again, t)
				continue
			}
			results = append(results, e.result)
			if e.mark {
				marked = append(marked, e.tenant)
			}
		}
		if err := p.store.record(ctx, p.rollout.ID, results, running); err != nil {
			return err
		}
		if err := p.migrator.mark(ctx, marked, p.release); err != nil {
			p.log.Info("databases could not be marked; the next rollout looks into them", zap.Error(err))
		}
		p.mu.Lock()
		p.ended = p.ended[len(some):]
		p.again = append(p.again, again...)
		left := len(p.ended)
		p.mu.Unlock()
		if left == 0 {
			return nil
		}
	}
}

// all migrates tenants in order of company, with a queue and workers for each cluster.
func (p *pass) all(ctx context.Context) (found int, err error) {
	group, working := errgroup.WithContext(ctx)
	queues := map[string]chan *registryv1.Tenant{}
	group.Go(func() error {
		defer func() {
			for _, q := range queues {
				close(q)
			}
		}()
		err := p.each(working, p.rollout.GetSelector(), func(some []*registryv1.Tenant) error {
			left, err := p.store.without(working, p.rollout.ID, ids(some))
			if err != nil {
				return err
			}
			var marked map[string]bool
			if !p.rollout.Verify {
				marked = p.migrator.marked(working, some, p.release)
			}
			for _, t := range some {
				if !left[t.GetCompanyId()] {
					continue
				}
				if p.limit > 0 && found == p.limit || p.stopping() {
					return errEnough
				}
				found++
				if marked[t.GetCompanyId()] {
					p.keep(ended{tenant: t, result: outcome(t, nil, 0, nil)})
					continue
				}
				q := queues[t.GetCluster()]
				if q == nil {
					q = make(chan *registryv1.Tenant, queued)
					queues[t.GetCluster()] = q
					p.workers(working, group, q, false)
				}
				select {
				case q <- t:
				case <-working.Done():
					return working.Err()
				}
			}
			return nil
		}, nil)
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
	err = group.Wait()
	return found, err
}

// errEnough ends a listing early.
var errEnough = errors.New("enough")

// these migrates some tenants again; with last, whatever happens is their result.
func (p *pass) these(ctx context.Context, some []*registryv1.Tenant, last bool) error {
	group, working := errgroup.WithContext(ctx)
	q := make(chan *registryv1.Tenant, len(some))
	for _, t := range some {
		q <- t
	}
	close(q)
	p.workers(working, group, q, last)
	return group.Wait()
}

func (p *pass) workers(ctx context.Context, group *errgroup.Group, q <-chan *registryv1.Tenant, last bool) {
	for range p.rollout.GetConcurrency() {
		group.Go(func() error {
			for t := range q {
				if p.stopping() {
					continue // What was queued is left for the next pass.
				}
				if err := p.one(ctx, t, last); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// one migrates a tenant and keeps the result. An error means that the work was interrupted, and the tenant has none.
func (p *pass) one(ctx context.Context, t *registryv1.Tenant, last bool) (err error) {
	p.mu.Lock()
	p.running++
	p.mu.Unlock()
	begun := time.Now()
	var results []schema.SetResult
	opts := Options{Options: schema.Options{LockTimeout: p.rollout.LockTimeout, StatementTimeout: p.rollout.StatementTimeout}}
	if p.rollout.GetPause() {
		opts.PauseFor = "rollout/" + p.rollout.ID.String() // Whichever copy works on it.
	}
	for try := 1; ; try++ {
		results, err = p.migrator.bring(ctx, t, p.release, opts)
		if fault.HasReason(err, fault.DatabaseChanged) {
			// It was restored meanwhile, perhaps to an older schema.
			if now, err := p.tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: t.GetCompanyId()}); err == nil {
				t = now.GetTenant()
			}
		} else if err == nil || !away(err) {
			break
		}
		if try == patience || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	result := outcome(t, results, time.Since(begun), err)
	e := ended{tenant: t, result: result, mark: err == nil}
	if !p.rollout.GetPause() {
		e.version = news(t, results) // Also when a later file or set failed.
	}
	if err != nil && ctx.Err() == nil && p.gone(ctx, t) {
		result.State, result.Error = provisionerv1.TenantResultState_TENANT_RESULT_STATE_SKIPPED, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !last && (fault.HasReason(err, fault.LockTimeout) || fault.HasReason(err, fault.MaintenanceHeld)) {
		p.again = append(p.again, t)
		return nil
	}
	p.ended = append(p.ended, e)
	if result.GetState() == provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED {
		p.log.Warn("a tenant failed", zap.Stringer("rollout", p.rollout.ID), zap.String("company", t.GetCompanyId()), zap.Error(err))
		p.failed++
		p.judge()
	}
	return nil
}

// keep keeps what ended until it is told.
func (p *pass) keep(e ended) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = append(p.ended, e)
}

// gone tells whether a tenant has no database to migrate any more.
func (p *pass) gone(ctx context.Context, t *registryv1.Tenant) bool {
	now, err := p.tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: t.GetCompanyId()})
	return fault.HasReason(err, fault.CompanyNotFound) || err == nil && !migratable(now.GetTenant())
}

func ids(tenants []*registryv1.Tenant) []string {
	out := make([]string, len(tenants))
	for i, t := range tenants {
		out[i] = t.GetCompanyId()
	}
	return out
}
