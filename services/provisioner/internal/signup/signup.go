// Package signup makes companies: it reserves one in the registry, clones and seeds its database, and opens it. Each step
// may be repeated, and the work is recorded before it starts, so whoever comes next finishes or undoes what a copy that
// died left behind. Only what a recorded attempt made is ever dropped. No password is kept.
package signup

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/jobs"
	"github.com/tenantry/tenantry/services/provisioner/internal/pool"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/template"
)

const (
	// takeOver is how many signups that were left are worked on at once, for at most so long each.
	takeOver    = 8
	takeOverFor = 10 * time.Minute
)

// Runner works on signups. Run it; it stops working when Run's context ends.
type Runner struct {
	tenants   registryv1.TenantServiceClient
	clusters  *cluster.Set
	templates *template.Builder
	releases  *release.Store
	spares    *pool.Pool
	copier    Copier
	jobs      *jobs.Queue
	attempts  attempts
	log       *zap.Logger

	mu      sync.Mutex
	work    sync.WaitGroup
	ctx     context.Context // of all work; ends when Run ends
	stop    context.CancelFunc
	stopped bool
	busy    map[string]chan struct{} // requests that are worked on here, each closed at its end
}

// Copier fills the database of an id with a copy of a tenant's; what was there under the id goes.
type Copier interface {
	Copy(ctx context.Context, from *registryv1.Tenant, cluster string, id uuid.UUID) error
}

// Config is what a runner works with.
type Config struct {
	DB        *pgxpool.Pool
	Tenants   registryv1.TenantServiceClient
	Clusters  *cluster.Set
	Templates *template.Builder
	Releases  *release.Store
	Spares    *pool.Pool
	Copier    Copier
	Jobs      *jobs.Queue
	// Holder names this run of this copy: one that died and came back is another, and its leases run out like anyone's.
	Holder string
	Log    *zap.Logger
}

// NewRunner returns a runner, and registers its job with the queue.
func NewRunner(cfg Config) *Runner {
	r := &Runner{
		tenants: cfg.Tenants, clusters: cfg.Clusters, templates: cfg.Templates, releases: cfg.Releases, spares: cfg.Spares, copier: cfg.Copier, jobs: cfg.Jobs, log: cfg.Log,
		busy: map[string]chan struct{}{}, attempts: attempts{pool: cfg.DB, holder: cfg.Holder},
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	jobs.Handle(cfg.Jobs, takeOver, takeOverFor, func(_ context.Context, f finish) error { return r.resume(f.RequestID) })
	return r
}

// finish is the job of finishing a signup that was left.
type finish struct {
	RequestID string `json:"request_id"`
}

// Kind implements jobs.Args.
func (finish) Kind() string { return "finish_signup" }

// Run looks for signups that nobody works on, and asks for them to be finished, until the context ends; then it stops all
// work and waits for it.
func (r *Runner) Run(ctx context.Context) {
	defer r.work.Wait()
	defer func() {
		r.mu.Lock()
		r.stopped = true
		r.mu.Unlock()
		r.stop()
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		orphans, err := r.attempts.orphans(ctx, 10*takeOver)
		for _, id := range orphans {
			if err == nil {
				err = r.jobs.Insert(ctx, finish{id}, askAgain)
			}
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("signups that were left cannot be looked after", zap.Error(err))
		}
	}
}

// resume works on a signup that was left, unless somebody else does.
func (r *Runner) resume(requestID string) error {
	done, ok := r.claim(requestID)
	if !ok {
		return nil
	}
	defer done()
	a, ok, err := r.attempts.takeOver(r.ctx, requestID)
	if err != nil || !ok {
		return err
	}
	r.log.Info("taking a signup over", zap.String("request_id", requestID))
	if _, err := r.attempt(a, nil); err != nil && r.ctx.Err() == nil {
		r.log.Warn("a signup that was left came to nothing", zap.String("request_id", requestID), zap.Error(err))
	}
	return nil
}

// claim reserves a request for one goroutine of this copy. ok is false while another has it, or when the runner stops.
func (r *Runner) claim(requestID string) (done func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.busy[requestID]; taken || r.stopped {
		return nil, false
	}
	ended := make(chan struct{})
	r.busy[requestID] = ended
	r.work.Add(1)
	return func() {
		defer r.work.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.busy, requestID)
		close(ended)
	}, true
}

// Signup signs a company up, or goes on with the same request's earlier attempt, and returns its tenant. The work goes on
// when the context ends before it: UNAVAILABLE `SIGNUP_IN_PROGRESS`. Other errors are those of ReserveTenant, and of what
// could not be made; then nothing is left. copyOf is the company whose database the new one's is a copy of, or nil.
func (r *Runner) Signup(ctx context.Context, q *registryv1.ReserveTenantRequest, copyOf *uuid.UUID) (*registryv1.Tenant, error) {
	done, a, err := r.begin(ctx, q.GetRequestId(), copyOf)
	if err != nil {
		return nil, err
	}
	type outcome struct {
		tenant *registryv1.Tenant
		err    error
	}
	out := make(chan outcome, 1)
	q.CompanyId, q.DatabaseId = a.company.String(), a.database.String()
	r.work.Go(func() {
		defer done()
		t, err := r.attempt(a, q)
		out <- outcome{t, err}
	})
	select {
	case o := <-out:
		return o.tenant, o.err
	case <-ctx.Done():
		return nil, inProgress().Because(ctx.Err())
	}
}

func inProgress() *fault.Error {
	return fault.New(codes.Unavailable, fault.SignupInProgress, "the signup is under way: repeat the same request to learn how it ended").RetryIn(time.Second)
}

// begin waits until nobody else works on the request, and records it.
func (r *Runner) begin(ctx context.Context, requestID string, copyOf *uuid.UUID) (done func(), a attempt, err error) {
	for {
		done, ok := r.claim(requestID)
		if ok {
			a, ok, err := r.attempts.begin(ctx, requestID, copyOf)
			if err == nil && ok {
				return done, a, nil
			}
			done()
			if err != nil {
				return nil, a, pg.Unavailable(err)
			}
		}
		r.mu.Lock()
		ended, stopped := r.busy[requestID], r.stopped
		r.mu.Unlock()
		if stopped {
			return nil, a, inProgress()
		}
		select {
		case <-ended: // Nil, which is never ready, when it is another copy that has it.
		case <-time.After(askEvery):
		case <-ctx.Done():
			return nil, a, inProgress().Because(ctx.Err())
		}
	}
}
