// Package removal drops databases that are to go: those of deleted companies when their retention is over, what a restore
// put aside or could not finish, and spares that came to nothing. What is to go is recorded before it is made, or before
// it loses its company; and before a database is dropped the registry is asked whether it has become somebody's.
package removal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/jobs"
	"github.com/tenantry/tenantry/services/provisioner/internal/pool"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/template"
)

// Reason is why a database is to go.
type Reason string

const (
	// Deleted is that of a company which is deleted.
	Deleted Reason = "DELETED"
	// Replaced is one that a company had before it was restored.
	Replaced Reason = "REPLACED"
	// Restoring is one that is being filled; it goes if nobody finishes it.
	Restoring Reason = "RESTORING"
)

const (
	// sweepEvery is how often is looked for what is to go.
	sweepEvery = 10 * time.Second
	// sweepFor is how long one look takes at most.
	sweepFor = 10 * time.Minute
	// scratchLife is longer than any look at a release or at a tenant's drift takes.
	scratchLife = time.Hour
	// batch is how many databases one look drops at most.
	batch = 100
)

// Remover records what is to go, and drops it.
type Remover struct {
	db        *pgxpool.Pool
	tenants   registryv1.TenantServiceClient
	clusters  *cluster.Set
	templates *template.Builder
	releases  *release.Store
	log       *zap.Logger
}

// New returns a remover, and registers its job with the queue.
func New(db *pgxpool.Pool, tenants registryv1.TenantServiceClient, clusters *cluster.Set, templates *template.Builder, releases *release.Store, q *jobs.Queue, log *zap.Logger) *Remover {
	r := &Remover{db, tenants, clusters, templates, releases, log}
	jobs.Handle(q, 1, sweepFor, func(ctx context.Context, _ sweep) error { return r.sweep(ctx) })
	jobs.Every(q, sweepEvery, sweep{})
	return r
}

// sweep is the janitor's job.
type sweep struct{}

// Kind implements jobs.Args.
func (sweep) Kind() string { return "sweep" }

// Condemn records that a database is to go from a time on; a later call moves the time.
func (r *Remover) Condemn(ctx context.Context, database uuid.UUID, clusterName, company string, reason Reason, after time.Time) error {
	_, err := r.db.Exec(ctx, `INSERT INTO condemned (database_id, cluster, company_id, reason, drop_after) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (database_id) DO UPDATE SET company_id = excluded.company_id, reason = excluded.reason, drop_after = excluded.drop_after`,
		database, clusterName, company, reason, after)
	if err != nil {
		return fmt.Errorf("condemn database %s: %w", database, err)
	}
	return nil
}

// Pardon forgets that a database was to go.
func (r *Remover) Pardon(ctx context.Context, database uuid.UUID) error {
	_, err := r.db.Exec(ctx, "DELETE FROM condemned WHERE database_id = $1", database)
	if err != nil {
		return fmt.Errorf("pardon database %s: %w", database, err)
	}
	return nil
}

// doomed is a row that is due.
type doomed struct {
	database uuid.UUID
	cluster  string
	company  *uuid.UUID
	reason   Reason
}

// sweep drops what is due, goes on past what fails, and tidies templates and scratch databases.
func (r *Remover) sweep(ctx context.Context) error {
	var problems []error
	if _, err := pool.Condemn(ctx, r.db); err != nil {
		problems = append(problems, err)
	}
	rows, err := r.db.Query(ctx, "SELECT database_id, cluster, company_id, reason FROM condemned WHERE drop_after < now() ORDER BY drop_after LIMIT $1", batch)
	if err != nil {
		return err
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d doomed, err error) {
		return d, row.Scan(&d.database, &d.cluster, &d.company, &d.reason)
	})
	if err != nil {
		return err
	}
	for _, d := range due {
		if err := r.remove(ctx, d); err != nil {
			problems = append(problems, fmt.Errorf("database %s: %w", d.database, err))
		}
	}
	return errors.Join(append(problems, r.tidy(ctx))...)
}

// remove drops a database that is due, unless it is a company's.
func (r *Remover) remove(ctx context.Context, d doomed) error {
	if d.company != nil {
		keep, err := r.needed(ctx, d)
		if err != nil {
			return err
		}
		if keep {
			return r.Pardon(ctx, d.database)
		}
	}
	err := r.clusters.Drop(ctx, d.cluster, d.database)
	if fault.HasReason(err, fault.ClusterNotFound) {
		err = nil // The cluster went with all that it held.
	}
	if err != nil {
		return err
	}
	r.log.Info("dropped a database", zap.Stringer("database", d.database), zap.String("reason", string(d.reason)))
	return r.Pardon(ctx, d.database)
}

// needed tells whether a company has the database after all. One whose deletion was due is DELETED by this: from then on
// there is no way back.
func (r *Remover) needed(ctx context.Context, d doomed) (bool, error) {
	if d.reason == Deleted {
		_, err := r.tenants.EndDeletion(ctx, &registryv1.EndDeletionRequest{CompanyId: d.company.String()})
		switch {
		case err == nil, fault.HasReason(err, fault.CompanyNotFound):
			return false, nil
		case !fault.HasReason(err, fault.CompanyStateInvalid):
			return false, err
		}
	}
	out, err := r.tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: d.company.String()})
	if fault.HasReason(err, fault.CompanyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t := out.GetTenant()
	if t.GetState() == registryv1.CompanyState_COMPANY_STATE_DELETING && d.reason == Deleted {
		return false, errors.New("the registry's clock says that its time has not come yet")
	}
	return t.GetDatabaseId() == d.database.String() && t.GetState() != registryv1.CompanyState_COMPANY_STATE_DELETED, nil
}

// tidy drops templates that nobody clones any more, and scratch databases that were left.
func (r *Remover) tidy(ctx context.Context) error {
	rows, err := r.db.Query(ctx, `SELECT hash, NOT is_current AND created_at < now() - interval '10 minutes'
		AND NOT EXISTS (SELECT FROM rollouts r WHERE r.release = l.hash AND r.state IN ('RUNNING', 'PAUSED')) FROM releases l`)
	if err != nil {
		return err
	}
	var live, old []string
	var hash string
	var isOld bool
	if _, err := pgx.ForEachRow(rows, []any{&hash, &isOld}, func() error {
		if isOld {
			old = append(old, hash)
		} else {
			live = append(live, hash)
		}
		return nil
	}); err != nil {
		return err
	}
	var problems []error
	for _, name := range r.clusters.Names() {
		for _, hash := range old {
			problems = append(problems, r.templates.Drop(ctx, name, hash))
		}
		problems = append(problems, r.clusters.Scratch(name).DropOld(ctx, scratchLife))
	}
	return errors.Join(append(problems, r.templates.DropUnused(ctx, live))...)
}
