package fleet

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

const (
	// lookEvery is how often is looked for a rollout that nobody works on.
	lookEvery = 200 * time.Millisecond
	// canaries is how many tenants at most are migrated one by one, until one succeeds.
	canaries = 3
	// queued is how many tenants of a cluster are read ahead of those that are migrated.
	queued = 64
	// patience is how often a tenant is tried whose database or registry is away, a second apart.
	patience = 20
)

// Runner works on rollouts.
type Runner struct {
	store    *Store
	releases *release.Store
	migrator *Migrator
	tenants  registryv1.TenantServiceClient
	log      *zap.Logger
}

// NewRunner returns a runner.
func NewRunner(store *Store, releases *release.Store, migrator *Migrator, tenants registryv1.TenantServiceClient, log *zap.Logger) *Runner {
	return &Runner{store, releases, migrator, tenants, log}
}

// Run takes on rollouts that nobody works on, one after the other, until the context ends; one that it was at is left to
// whoever looks next.
func (r *Runner) Run(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		rollout, err := r.store.claim(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Warn("rollouts cannot be read", zap.Error(err))
			}
			continue
		}
		if rollout != nil {
			r.work(ctx, rollout)
		}
	}
}

// work works on one rollout that this copy holds.
func (r *Runner) work(ctx context.Context, rollout *Rollout) {
	log := r.log.With(zap.Stringer("rollout", rollout.ID), zap.String("to", rollout.GetToVersion()))
	log.Info("rolling out")
	held, lose := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		lease.Keep(held, lose, func(ctx context.Context) (bool, error) { return r.store.renew(ctx, rollout.ID) })
	})
	err := r.roll(held, rollout)
	if err == nil {
		err = r.store.end(held, rollout.ID)
	}
	lose()
	renewal.Wait()
	if err == nil {
		log.Info("rolled out")
		return
	}
	log.Warn("a rollout was interrupted and will go on", zap.Error(err))
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), lease.Life)
	defer cancel()
	if err := r.store.release(clean, rollout.ID); err != nil {
		log.Warn("a rollout could not be released; its lease will run out", zap.Error(err))
	}
}

// roll migrates the selected tenants, a canary first, until a look at all of them finds none without a result.
func (r *Runner) roll(ctx context.Context, rollout *Rollout) error {
	rel, err := r.releases.Get(ctx, rollout.GetRelease())
	if err != nil {
		return err
	}
	if err := r.count(ctx, rollout); err != nil {
		return err
	}
	if all(rollout.GetSelector()) {
		if err := r.canary(ctx, rollout, rel); err != nil {
			return err
		}
	}
	for {
		found, err := r.pass(ctx, rollout, rel)
		if err != nil || found == 0 {
			return err
		}
	}
}

// all tells whether a selector means every tenant, and so whether the release becomes the current one.
func all(s *provisionerv1.Selector) bool { return len(s.GetCompanies()) == 0 && s.GetCluster() == "" }

// count tells how many tenants there are to do, so that whoever watches sees how far it is.
func (r *Runner) count(ctx context.Context, rollout *Rollout) error {
	total := 0
	if err := r.each(ctx, rollout.GetSelector(), func([]*registryv1.Tenant) error { return nil }, &total); err != nil {
		return err
	}
	return r.store.setTotal(ctx, rollout.ID, total)
}

// errEnough ends a listing early.
var errEnough = errors.New("enough")

// canary migrates single tenants until one succeeds; then new tenants are born on the release. So they are when there
// are none, or when the first few fail by themselves, as they have not shown that the release is bad.
func (r *Runner) canary(ctx context.Context, rollout *Rollout, rel *release.Release) error {
	tried := 0
	err := r.each(ctx, rollout.GetSelector(), func(some []*registryv1.Tenant) error {
		left, err := r.store.without(ctx, rollout.ID, ids(some))
		if err != nil {
			return err
		}
		for _, t := range some {
			if !left[t.GetCompanyId()] {
				continue
			}
			ok, err := r.one(ctx, rollout, rel, t)
			if tried++; err != nil || ok || tried == canaries {
				return errors.Join(err, errEnough)
			}
		}
		return nil
	}, nil)
	if err != nil && !errors.Is(err, errEnough) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	now, err := r.store.Get(ctx, rollout.ID)
	if err != nil || now.GetSucceeded() == 0 && now.GetFailed() > 0 {
		return err
	}
	return r.releases.Promote(ctx, rel.Hash)
}

// pass migrates every selected tenant that has no result, and returns how many it found. Clusters work side by side.
func (r *Runner) pass(ctx context.Context, rollout *Rollout, rel *release.Release) (found int, err error) {
	group, working := errgroup.WithContext(ctx)
	queues := map[string]chan *registryv1.Tenant{}
	group.Go(func() error {
		defer func() {
			for _, q := range queues {
				close(q)
			}
		}()
		return r.each(working, rollout.GetSelector(), func(some []*registryv1.Tenant) error {
			left, err := r.store.without(working, rollout.ID, ids(some))
			if err != nil {
				return err
			}
			for _, t := range some {
				if !left[t.GetCompanyId()] {
					continue
				}
				found++
				q := queues[t.GetCluster()]
				if q == nil {
					q = make(chan *registryv1.Tenant, queued)
					queues[t.GetCluster()] = q
					for range rollout.GetConcurrency() {
						group.Go(func() error {
							for t := range q {
								if _, err := r.one(working, rollout, rel, t); err != nil {
									return err
								}
							}
							return nil
						})
					}
				}
				select {
				case q <- t:
				case <-working.Done():
					return working.Err()
				}
			}
			return nil
		}, nil)
	})
	err = group.Wait()
	if err == nil && found > 0 {
		// Those who signed up meanwhile were born on the release, or are found by the next look.
		var now *Rollout
		if now, err = r.store.Get(ctx, rollout.ID); err == nil && now.GetSucceeded() > 0 && all(rollout.GetSelector()) {
			err = r.releases.Promote(ctx, rel.Hash)
		}
	}
	return found, err
}

// one migrates a tenant and records the result; ok says that it succeeded. An error means that the work was interrupted,
// and the tenant has no result.
func (r *Runner) one(ctx context.Context, rollout *Rollout, rel *release.Release, t *registryv1.Tenant) (ok bool, err error) {
	if err := r.store.begun(ctx, rollout.ID); err != nil {
		return false, err
	}
	begun := time.Now()
	var results []schema.SetResult
	for try := 1; ; try++ {
		results, err = r.migrator.Migrate(ctx, t, rel, schema.Options{LockTimeout: rollout.LockTimeout, StatementTimeout: rollout.StatementTimeout})
		if err == nil || try == patience || ctx.Err() != nil || !away(err) {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	result := outcome(t, results, time.Since(begun), err)
	if err != nil {
		r.log.Warn("a tenant failed", zap.Stringer("rollout", rollout.ID), zap.String("company", t.GetCompanyId()), zap.Error(err))
	}
	return err == nil, r.store.record(ctx, rollout.ID, result)
}

// away tells whether something could not be reached, and not that a migration failed.
func away(err error) bool {
	return fault.HasReason(err, fault.DatabaseUnavailable) || fault.HasReason(err, fault.Unavailable) || pg.IsUnavailable(err)
}

func ids(tenants []*registryv1.Tenant) []string {
	out := make([]string, len(tenants))
	for i, t := range tenants {
		out[i] = t.GetCompanyId()
	}
	return out
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
			if t := out.GetTenant(); migratable(t) && (s.GetCluster() == "" || s.GetCluster() == t.GetCluster()) {
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
		if err := f(some.GetTenants()); err != nil {
			return err
		}
		*after = some.GetTenants()[len(some.GetTenants())-1].GetCompanyId()
	}
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
