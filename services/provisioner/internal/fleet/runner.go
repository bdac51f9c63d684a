package fleet

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/jobs"
	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
)

const (
	// lookEvery is how often is looked for a rollout that nobody works on, and askAgain how often a job is asked for.
	lookEvery = time.Second
	askAgain  = 5 * time.Second
	// longest is how long one job works on a rollout; then another goes on.
	longest = 24 * time.Hour
	// listenEvery is how often is looked whether an operator wants a rollout to stop.
	listenEvery = 200 * time.Millisecond
	// canaries is how many tenants at most are tried, until one succeeds.
	canaries = 3
	// queued is how many tenants of a cluster are read ahead of those that are migrated.
	queued = 64
	// patience is how often a tenant is tried whose database or registry is away, a second apart, and later how often one
	// whose tables were locked is tried again when the others are done.
	patience = 20
	later    = 3
)

// Runner works on rollouts.
type Runner struct {
	store    *Store
	releases *release.Store
	migrator *Migrator
	tenants  registryv1.TenantServiceClient
	log      *zap.Logger
}

// NewRunner returns a runner, and registers its job with the queue.
func NewRunner(store *Store, releases *release.Store, migrator *Migrator, tenants registryv1.TenantServiceClient, log *zap.Logger) *Runner {
	r := &Runner{store, releases, migrator, tenants, log}
	jobs.Handle(store.jobs, 1, longest, func(ctx context.Context, o rollOut) error {
		rollout, err := r.store.claim(ctx, o.RolloutID)
		if err != nil || rollout == nil {
			return err // Somebody else has it, or it is not to go on.
		}
		return r.work(ctx, rollout)
	})
	return r
}

// Run looks for rollouts that nobody works on, and asks for that, until the context ends.
func (r *Runner) Run(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		left, err := r.store.left(ctx)
		for _, id := range left {
			if err == nil {
				err = r.store.jobs.Insert(ctx, rollOut{id}, askAgain)
			}
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("rollouts that were left cannot be looked after", zap.Error(err))
		}
	}
}

// work works on one rollout that this copy holds, until it ends, is paused or cancelled, or the context ends.
func (r *Runner) work(ctx context.Context, rollout *Rollout) error {
	log := r.log.With(zap.Stringer("rollout", rollout.ID), zap.String("to", rollout.GetToVersion()))
	log.Info("rolling out")
	held, lose := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		lease.Keep(held, lose, func(ctx context.Context) (bool, error) { return r.store.renew(ctx, rollout.ID) })
	})
	reason, err := r.roll(held, rollout)
	if err == nil {
		err = r.store.end(held, rollout.ID, reason)
	}
	lose()
	renewal.Wait()
	if err == nil {
		log.Info("rolled out", zap.String("stopped", reason))
		return nil
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), lease.Life)
	defer cancel()
	if err := r.store.release(clean, rollout.ID); err != nil {
		log.Warn("a rollout could not be released; its lease will run out", zap.Error(err))
	}
	if errors.Is(err, errHalted) {
		log.Info("a rollout was halted by an operator")
		return nil
	}
	log.Warn("a rollout was interrupted and will go on", zap.Error(err))
	return nil
}

// errHalted says that the rollout is not to go on now.
var errHalted = errors.New("halted")

// roll migrates the selected tenants in waves, until a look at all of them finds none without a result. reason is why it
// stopped before that.
func (r *Runner) roll(ctx context.Context, rollout *Rollout) (reason string, err error) {
	rel, err := r.releases.Get(ctx, rollout.GetRelease())
	if err != nil {
		return "", err
	}
	total := 0
	if err := r.each(ctx, rollout.GetSelector(), func([]*registryv1.Tenant) error { return nil }, &total); err != nil {
		return "", err
	}
	done := int(rollout.GetSucceeded() + rollout.GetFailed() + rollout.GetSkipped())
	if err := r.store.setTotal(ctx, rollout.ID, max(total, done)); err != nil {
		return "", err
	}
	wave, size := int(rollout.GetWave()), int(rollout.GetWaveSize())
	left := size - (done - rollout.waveBase)
	if size == 0 {
		// It begins, or was taken up again behind its canary.
		size = waveSize(rollout, wave, total)
		left = size
		if err := r.store.beginWave(ctx, rollout.ID, wave, size); err != nil {
			return "", err
		}
	}
	for {
		found := 0
		if left > 0 || size == 0 {
			p := &pass{Runner: r, rollout: rollout, release: rel, limit: left}
			if found, err = p.run(ctx); err != nil {
				return p.stopped(), err
			}
			if reason := p.stopped(); reason != "" {
				return reason, nil
			}
		}
		now, err := r.store.Get(ctx, rollout.ID)
		if err != nil {
			return "", err
		}
		canaryFailed := wave == 0 && now.GetSucceeded() == 0 && now.GetFailed() > 0
		if canaryFailed && found > 0 && now.GetFailed() < canaries {
			left = 1 // Some tenants fail by themselves: that does not show that the release is bad.
			continue
		}
		if all(rollout.GetSelector()) && (now.GetSucceeded() > 0 || now.GetFailed() == 0) {
			if err := r.releases.Promote(ctx, rel.Hash); err != nil {
				return "", err
			}
		}
		if found == 0 && left != 0 || size == 0 && found == 0 {
			return "", nil
		}
		if wave == 0 {
			if err := r.soak(ctx, rollout); err != nil {
				return "", err
			}
		}
		if size > 0 {
			wave++
			size = waveSize(rollout, wave, int(now.GetTotal()))
			left = size
			if err := r.store.beginWave(ctx, rollout.ID, wave, size); err != nil {
				return "", err
			}
		}
	}
}

// waveSize is how many tenants a wave has; 0 means all the rest.
func waveSize(rollout *Rollout, wave, total int) int {
	size := int(rollout.GetCanarySize())
	for range wave {
		if size *= rollout.WaveGrowth; size >= total {
			return 0
		}
	}
	return size
}

// all tells whether a selector means every tenant, and so whether the release becomes the current one.
func all(s *provisionerv1.Selector) bool {
	return len(s.GetCompanies()) == 0 && s.GetCluster() == "" && s.GetBehindVersion() == ""
}

// soak waits after the canary.
func (r *Runner) soak(ctx context.Context, rollout *Rollout) error {
	if rollout.GetCanarySoak().AsDuration() == 0 {
		return nil
	}
	until, err := r.store.soak(ctx, rollout.ID, rollout.GetCanarySoak().AsDuration())
	for err == nil && time.Now().Before(until) {
		select {
		case <-time.After(min(listenEvery, time.Until(until))):
		case <-ctx.Done():
			return ctx.Err()
		}
		var runs bool
		if runs, err = r.store.runs(ctx, rollout.ID); err == nil && !runs {
			err = errHalted
		}
	}
	return err
}

// away tells whether something could not be reached, and not that a migration failed.
func away(err error) bool {
	return fault.HasReason(err, fault.DatabaseUnavailable) || fault.HasReason(err, fault.Unavailable) || pg.IsUnavailable(err)
}

// Each calls f with each selected tenant that has a database, in order of company unless the selector names companies.
func (r *Runner) Each(ctx context.Context, s *provisionerv1.Selector, f func(*registryv1.Tenant) error) error {
	return r.each(ctx, s, func(some []*registryv1.Tenant) error {
		for _, t := range some {
			if err := f(t); err != nil {
				return err
			}
		}
		return nil
	}, nil)
}

// each calls f with the selected tenants, some at a time, and counts them. A stream that breaks goes on where it was.
func (r *Runner) each(ctx context.Context, s *provisionerv1.Selector, f func([]*registryv1.Tenant) error, total *int) error {
	if total == nil {
		total = new(int)
	}
	if len(s.GetCompanies()) > 0 {
		for _, company := range s.GetCompanies() {
			out, err := r.tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: company})
			if fault.HasReason(err, fault.CompanyNotFound) {
				continue // It was there when the rollout was started, and is gone.
			}
			if err != nil {
				return err
			}
			if t := out.GetTenant(); migratable(t) && selected(s, t) {
				*total++
				if err := f([]*registryv1.Tenant{t}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	after := ""
	for try := 1; ; try++ {
		err := r.list(ctx, s.GetCluster(), &after, func(some []*registryv1.Tenant) error {
			try = 1
			some = slices.DeleteFunc(some, func(t *registryv1.Tenant) bool { return !selected(s, t) })
			*total += len(some)
			return f(some)
		})
		if err == nil || try == patience || !away(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (r *Runner) list(ctx context.Context, cluster string, after *string, f func([]*registryv1.Tenant) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.tenants.ListTenants(ctx, &registryv1.ListTenantsRequest{Cluster: cluster, After: *after})
	if err != nil {
		return err
	}
	for {
		some, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		last := some.GetTenants()[len(some.GetTenants())-1].GetCompanyId()
		if err := f(some.GetTenants()); err != nil {
			return err
		}
		*after = last
	}
}

// selected tells whether a tenant is one that a selector means, companies aside.
func selected(s *provisionerv1.Selector, t *registryv1.Tenant) bool {
	return (s.GetCluster() == "" || s.GetCluster() == t.GetCluster()) && (s.GetBehindVersion() == "" || t.GetSchemaVersion() < s.GetBehindVersion())
}

// migratable tells whether a tenant has a database that is migrated: suspended ones, too.
func migratable(t *registryv1.Tenant) bool {
	switch t.GetState() {
	case registryv1.CompanyState_COMPANY_STATE_ACTIVE, registryv1.CompanyState_COMPANY_STATE_SUSPENDED, registryv1.CompanyState_COMPANY_STATE_MAINTENANCE:
		return true
	default:
		return false
	}
}
