package fleet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

const (
	// pauseLife is how long a tenant stays paused when this copy dies: less than gateways hold calls. pauseRenew is how often
	// the end is moved while it lives.
	pauseLife  = 10 * time.Second
	pauseRenew = 3 * time.Second
	// quietWithin is how long a tenant's running calls have to end, and idleWithin how long gateways have to close its
	// idle connections, by which it is seen that they know of the pause. lookAgain is how often is looked.
	quietWithin = 5 * time.Second
	idleWithin  = 500 * time.Millisecond
	lookAgain   = 5 * time.Millisecond
	// endWithin is how long the end of a pause is tried. After that it ends by itself.
	endWithin = pauseLife
)

// paused is Migrate of a tenant whose calls are held meanwhile. A tenant with nothing left to apply is not paused, nor one
// that nobody can call. ABORTED `LOCK_TIMEOUT` when its running calls do not end; FAILED_PRECONDITION `MAINTENANCE_HELD`.
func (m *Migrator) paused(ctx context.Context, conn *pgx.Conn, t *registryv1.Tenant, r *release.Release, opts Options) (results []schema.SetResult, err error) {
	dry := opts.Options
	dry.DryRun = true
	results, err = schema.Bring(ctx, conn, r, t.GetPlugins(), dry)
	if err != nil {
		return results, err
	}
	pause := due(results, opts.ToVersion)
	if pause {
		err = m.begin(ctx, t, opts.PauseFor)
		if pause = !fault.HasReason(err, fault.CompanyStateInvalid); pause && err != nil {
			return nil, err
		}
	}
	if !pause {
		results, err = schema.Bring(ctx, conn, r, t.GetPlugins(), opts.Options)
		return results, errors.Join(err, m.record(ctx, t, news(t, results)))
	}
	stop := m.keep(ctx, t, opts.PauseFor)
	results = nil
	if err = quiet(ctx, conn, t); err == nil {
		results, err = schema.Bring(ctx, conn, r, t.GetPlugins(), opts.Options)
	}
	stop()
	return results, errors.Join(err, m.end(ctx, t, opts.PauseFor, news(t, results)))
}

// due tells whether a dry run found something to apply, up to a version of the core set or, for an empty one, in all.
func due(results []schema.SetResult, toVersion string) bool {
	for _, set := range results {
		for _, f := range set.Pending {
			if toVersion == "" || f.Version <= toVersion {
				return true
			}
		}
	}
	return false
}

func (m *Migrator) begin(ctx context.Context, t *registryv1.Tenant, holder string) error {
	_, err := m.tenants.BeginMaintenance(ctx, &registryv1.BeginMaintenanceRequest{CompanyId: t.GetCompanyId(), Holder: holder, Duration: durationpb.New(pauseLife)})
	return err
}

// keep moves the end of a pause until stop is called.
func (m *Migrator) keep(ctx context.Context, t *registryv1.Tenant, holder string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		tick := time.NewTicker(pauseRenew)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// Where that fails calls go on early, and wait for locks as they do without a pause.
			_ = m.begin(ctx, t, holder)
		}
	})
	return func() {
		cancel()
		renewal.Wait()
	}
}

// end ends a pause with what version there is now, whatever became of the work; the registry ends it when it cannot be
// reached. Where another has the tenant by now only the version is told.
func (m *Migrator) end(ctx context.Context, t *registryv1.Tenant, holder, version string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	q := &registryv1.EndMaintenanceRequest{CompanyId: t.GetCompanyId(), Holder: holder, SchemaVersion: version}
	if version != "" {
		q.DatabaseId = t.GetDatabaseId()
	}
	for {
		_, err := m.tenants.EndMaintenance(ctx, q)
		switch {
		case fault.HasReason(err, fault.MaintenanceHeld):
			return m.record(ctx, t, version)
		case fault.HasReason(err, fault.DatabaseChanged):
			// Whatever its database, the pause ends.
			_, also := m.tenants.EndMaintenance(ctx, &registryv1.EndMaintenanceRequest{CompanyId: t.GetCompanyId(), Holder: holder})
			return errors.Join(err, also)
		case err == nil || !away(err):
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// record tells the registry a version, unless it is empty.
func (m *Migrator) record(ctx context.Context, t *registryv1.Tenant, version string) error {
	if version == "" {
		return nil
	}
	_, err := m.tenants.RecordSchemaVersion(context.WithoutCancel(ctx), &registryv1.RecordSchemaVersionRequest{
		CompanyId: t.GetCompanyId(), DatabaseId: t.GetDatabaseId(), SchemaVersion: version})
	return err
}

// quiet waits until nothing of a paused tenant's runs any more: its role has no connection, or, when some stay that no
// gateway closes, none that does anything.
func quiet(ctx context.Context, conn *pgx.Conn, t *registryv1.Tenant) error {
	begun := time.Now()
	for {
		var open, busy int
		// Roles bear the name of their database.
		err := conn.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE state IS DISTINCT FROM 'idle') FROM pg_stat_activity
			WHERE datname = current_database() AND usename = current_database()`).Scan(&open, &busy)
		switch {
		case err != nil:
			return err
		case open == 0, busy == 0 && time.Since(begun) > idleWithin:
			return nil
		case time.Since(begun) > quietWithin:
			return fault.New(codes.Aborted, fault.LockTimeout, "%d connections of company %s were still at work %s after its calls were paused", busy, t.GetSlug(), quietWithin).
				With("company_id", t.GetCompanyId()).RetryIn(time.Second)
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
