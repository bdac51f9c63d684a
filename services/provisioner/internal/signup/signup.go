// Package signup makes companies: it reserves one in the registry, clones and seeds its database, and opens it. Each step
// may be repeated, and the work is recorded before it starts, so whoever comes next finishes or undoes what a copy that
// died left behind. Only what a recorded attempt made is ever dropped. No password is kept.
package signup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/jobs"
	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
	"github.com/tenantry/tenantry/services/provisioner/internal/pool"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
	"github.com/tenantry/tenantry/services/provisioner/internal/template"
)

const (
	// tries is how often a step that may succeed later is tried within one attempt.
	tries = 6
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

// attempt works on a signup that this copy holds, to its end: an open company, or nothing. q is nil for one that was
// left by somebody, who may have reserved it or not.
func (r *Runner) attempt(a attempt, q *registryv1.ReserveTenantRequest) (*registryv1.Tenant, error) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	var renewal sync.WaitGroup
	renewal.Go(func() {
		lose := func() {
			r.log.Warn("lost a signup to another copy", zap.String("request_id", a.requestID))
			cancel()
		}
		lease.Keep(ctx, lose, func(ctx context.Context) (bool, error) { return r.attempts.renew(ctx, a.requestID) })
	})
	defer renewal.Wait()
	defer cancel()

	reserved, err := r.reserve(ctx, a, q)
	if err == nil {
		var t *registryv1.Tenant
		if t, err = r.finish(ctx, &a, reserved); err == nil {
			r.after(a, t)
			return t, nil
		}
	} else if !fault.Retryable(err) && ctx.Err() == nil {
		// Refused: nothing was reserved.
		r.end(a)
		return nil, err
	}
	if ctx.Err() == nil && reserved != nil && !fault.Retryable(err) {
		return r.undo(ctx, a, reserved, err)
	}
	// It may yet succeed: whoever looks next goes on.
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), lease.Life)
	defer done()
	if released := r.attempts.release(clean, a.requestID); released != nil {
		r.log.Warn("a signup could not be released; its lease will run out", zap.String("request_id", a.requestID), zap.Error(released))
	}
	return nil, inProgress().Because(err)
}

// after does what the caller need not wait for: it forgets the attempt, and asks for another spare.
func (r *Runner) after(a attempt, t *registryv1.Tenant) {
	r.work.Go(func() {
		r.end(a)
		r.spares.Kick(r.ctx, t.GetCluster())
	})
}

// end forgets the attempt.
func (r *Runner) end(a attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), lease.Life)
	defer cancel()
	if err := r.attempts.end(ctx, a.requestID); err != nil {
		// The answer stands; the attempt will be found and ended by whoever looks next.
		r.log.Warn("a finished signup could not be forgotten", zap.String("request_id", a.requestID), zap.Error(err))
	}
}

// reserve reserves the company, or reads what was reserved.
func (r *Runner) reserve(ctx context.Context, a attempt, q *registryv1.ReserveTenantRequest) (reserved *registryv1.Reservation, err error) {
	err = r.persist(ctx, func() error {
		if q == nil {
			out, err := r.tenants.GetReservation(ctx, &registryv1.GetReservationRequest{RequestId: a.requestID})
			reserved = out.GetReservation()
			return err
		}
		out, err := r.tenants.ReserveTenant(ctx, q)
		reserved = out.GetReservation()
		return err
	})
	return reserved, err
}

// persist repeats what may succeed a little later.
func (r *Runner) persist(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if err == nil || try == tries || !fault.Retryable(err) {
			return err
		}
		select {
		case <-time.After(time.Duration(try*try) * 20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// finish makes the database of a reserved company and opens it. A company that has come further is left as it is.
func (r *Runner) finish(ctx context.Context, a *attempt, reserved *registryv1.Reservation) (*registryv1.Tenant, error) {
	t := reserved.GetTenant()
	switch t.GetState() {
	case registryv1.CompanyState_COMPANY_STATE_PROVISIONING:
	case registryv1.CompanyState_COMPANY_STATE_FAILED:
		return nil, fault.New(codes.FailedPrecondition, fault.CompanyStateInvalid, "the signup was given up")
	default:
		return t, nil
	}
	var version string
	err := r.persist(ctx, func() (err error) {
		version, err = r.build(ctx, a, reserved)
		return pg.Unavailable(err)
	})
	if err != nil {
		return nil, err
	}
	err = r.persist(ctx, func() error {
		out, err := r.tenants.ActivateTenant(ctx, &registryv1.ActivateTenantRequest{CompanyId: t.GetCompanyId(), SchemaVersion: version, DatabaseId: a.database.String()})
		if err == nil {
			t = out.GetTenant()
		}
		return err
	})
	return t, err
}

// build gives the company a database as the current release has it and returns the core set's version.
func (r *Runner) build(ctx context.Context, a *attempt, reserved *registryv1.Reservation) (version string, err error) {
	current, err := r.releases.Current(ctx)
	if err != nil {
		return "", err
	}
	conn, whole, err := r.database(ctx, a, reserved.GetTenant(), current)
	if err != nil {
		return "", err
	}
	defer func() { r.close(ctx, conn) }()
	for {
		if version, err = r.bring(ctx, conn, current, reserved, whole, a.copyOf != nil); err != nil {
			return "", err
		}
		// Nobody is born on a release that was passed meanwhile.
		now, err := r.releases.Current(ctx)
		if err != nil || now.Hash == current.Hash {
			return version, err
		}
		current, whole = now, false
	}
}

// close closes a connection; the caller need not wait for it.
func (r *Runner) close(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	r.work.Go(func() {
		defer cancel()
		_ = conn.Close(ctx) // What was done on it is committed.
	})
}

// database makes the attempt's database, or takes a spare, and connects to it. whole says that it has all that the
// release has for every company.
func (r *Runner) database(ctx context.Context, a *attempt, t *registryv1.Tenant, current *release.Release) (conn *pgx.Conn, whole bool, err error) {
	if a.source == undecided && a.copyOf == nil {
		s, ok, err := r.spares.Take(ctx, t.GetCluster(), current.Hash, a.requestID, r.attempts.holder)
		if err != nil {
			return nil, false, err
		}
		if ok {
			a.source, a.database = spare, s.ID
			conn, whole = s.Conn, s.Release == current.Hash
		}
	}
	if a.source != spare {
		if err := r.clone(ctx, a, t, current); err != nil {
			return nil, false, err
		}
	}
	if conn != nil && conn.Ping(ctx) == nil {
		return conn, whole, nil
	}
	conn, err = r.clusters.Connect(ctx, t.GetCluster(), tenant.DatabaseName(a.database))
	return conn, whole, err
}

// copy makes the attempt's database a copy of another tenant's.
func (r *Runner) copy(ctx context.Context, a *attempt, t *registryv1.Tenant) error {
	out, err := r.tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: a.copyOf.String()})
	if err != nil {
		return err
	}
	if err := r.copier.Copy(ctx, out.GetTenant(), t.GetCluster(), a.database); err != nil {
		return err
	}
	if err := r.clusters.Role(ctx, t.GetCluster(), a.database, t.GetPasswordVersion()); err != nil {
		return err
	}
	return r.clusters.Open(ctx, t.GetCluster(), a.database)
}

// clone makes the attempt's database of the template, or of the tenant that it is a copy of.
func (r *Runner) clone(ctx context.Context, a *attempt, t *registryv1.Tenant, current *release.Release) error {
	if a.source == undecided {
		database, err := uuid.Parse(t.GetDatabaseId())
		if err != nil {
			return err
		}
		if err := r.attempts.clones(ctx, a.requestID, database); err != nil {
			return err
		}
		a.source, a.database = cloned, database
	}
	if a.copyOf != nil {
		return r.copy(ctx, a, t)
	}
	name, err := r.templates.Ensure(ctx, t.GetCluster(), current)
	if err != nil {
		return err
	}
	err = r.clusters.Create(ctx, t.GetCluster(), name, a.database, t.GetPasswordVersion())
	if pg.Code(err) == pgerrcode.InvalidCatalogName {
		r.templates.Forget(t.GetCluster(), current)
		return fault.New(codes.Unavailable, fault.Unavailable, "the template is gone").Because(err)
	}
	return err
}

// bring applies what the database lacks of the release and of the company's plugins, and seeds it.
func (r *Runner) bring(ctx context.Context, conn *pgx.Conn, to *release.Release, reserved *registryv1.Reservation, whole, copied bool) (version string, err error) {
	plugins := reserved.GetTenant().GetPlugins()
	version = to.CoreVersion
	if !whole || len(plugins) > 0 {
		results, err := schema.Bring(ctx, conn, to, plugins, schema.Options{})
		if err != nil {
			return "", err
		}
		version = results[0].To
	}
	fill := to.Seed
	if copied {
		fill = to.Clone
	}
	if !whole {
		if err := fill.Common(ctx, conn); err != nil {
			return "", err
		}
	}
	if version == "" {
		version = emptySet
	}
	return version, fill.Company(ctx, conn, reserved)
}

// emptySet is the version of a database whose core set has no file.
const emptySet = "0"

// undo gives a signup up: first in the registry, which says so if the company is open after all, then what was made.
func (r *Runner) undo(ctx context.Context, a attempt, reserved *registryv1.Reservation, cause error) (*registryv1.Tenant, error) {
	t := reserved.GetTenant()
	r.log.Warn("giving a signup up", zap.String("request_id", a.requestID), zap.String("company", t.GetCompanyId()), zap.Error(cause))
	err := r.persist(ctx, func() error {
		_, err := r.tenants.FailTenant(ctx, &registryv1.FailTenantRequest{CompanyId: t.GetCompanyId(), Reason: shorten(fault.From(cause).Text)})
		return err
	})
	if fault.HasReason(err, fault.CompanyStateInvalid) {
		out, err := r.tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: t.GetCompanyId()})
		if err != nil {
			return nil, err
		}
		r.end(a)
		return out.GetTenant(), nil
	}
	if err == nil {
		err = r.persist(ctx, func() error { return r.clusters.Drop(ctx, t.GetCluster(), a.database) })
		if fault.HasReason(err, fault.ClusterNotFound) {
			err = nil // Nothing could be made there either.
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w; and it could not be undone yet: %w", cause, err), r.attempts.release(ctx, a.requestID))
	}
	r.end(a)
	return nil, cause
}

// longestReason is how much of an error the registry keeps.
const longestReason = 1000

func shorten(s string) string {
	if s == "" {
		return "unknown"
	}
	return s[:min(len(s), longestReason)]
}
