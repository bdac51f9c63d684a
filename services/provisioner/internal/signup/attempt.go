package signup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
)

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

// tries is how often a step that may succeed later is tried within one attempt.
const tries = 6

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
	var leave func()
	err := r.persist(ctx, func() (err error) {
		version, leave, err = r.build(ctx, a, reserved)
		return pg.Unavailable(err)
	})
	if err != nil {
		return nil, err
	}
	defer leave()
	err = r.persist(ctx, func() error {
		out, err := r.tenants.ActivateTenant(ctx, &registryv1.ActivateTenantRequest{CompanyId: t.GetCompanyId(), SchemaVersion: version, DatabaseId: a.database.String()})
		if err == nil {
			t = out.GetTenant()
		}
		return err
	})
	return t, err
}

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
