package signup

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

// build gives the company a database as the current release has it and returns the core set's version. leave closes the
// connection to it: the end of a session keeps a processor busy that the caller may wait for, so it comes last.
func (r *Runner) build(ctx context.Context, a *attempt, reserved *registryv1.Reservation) (version string, leave func(), err error) {
	current, err := r.releases.Current(ctx)
	if err != nil {
		return "", nil, err
	}
	conn, has, err := r.database(ctx, a, reserved.GetTenant(), current)
	if err != nil {
		return "", nil, err
	}
	leave = func() { r.close(ctx, conn) }
	for {
		if version, err = r.bring(ctx, conn, current, reserved, has, a.copyOf != nil); err != nil {
			leave()
			return "", nil, err
		}
		// Nobody is born on a release that was passed meanwhile.
		now, err := r.releases.Current(ctx)
		if err != nil {
			leave()
			return "", nil, err
		}
		if now.Hash == current.Hash {
			return version, leave, nil
		}
		current, has = now, content{}
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

// content is what is known to be in a database already of the release that it is to be at.
type content struct {
	schema bool // the core set
	seed   bool // what the seed holds for every company
}

// database makes the attempt's database, or takes a spare, and connects to it. The connection may be dead; then the next
// attempt has another.
func (r *Runner) database(ctx context.Context, a *attempt, t *registryv1.Tenant, current *release.Release) (conn *pgx.Conn, has content, err error) {
	fresh := a.source == undecided && a.copyOf == nil
	if fresh {
		s, ok, err := r.spares.Take(ctx, t.GetCluster(), current.Hash, a.requestID, r.attempts.holder)
		if err != nil {
			return nil, has, err
		}
		if ok {
			a.source, a.database = spare, s.ID
			same := s.Release == current.Hash
			conn, has = s.Conn, content{schema: same, seed: same}
		}
	}
	if a.source != spare {
		if err := r.clone(ctx, a, t, current); err != nil {
			return nil, has, err
		}
		// What a clone that was begun earlier was made of is not known.
		has = content{schema: fresh, seed: fresh && current.Seed.InTemplate}
	}
	if conn != nil && !conn.IsClosed() {
		return conn, has, nil
	}
	conn, err = r.clusters.Connect(ctx, t.GetCluster(), tenant.DatabaseName(a.database))
	return conn, has, err
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
	return r.clusters.Open(ctx, t.GetCluster(), a.database, t.GetPasswordVersion())
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
func (r *Runner) bring(ctx context.Context, conn *pgx.Conn, to *release.Release, reserved *registryv1.Reservation, has content, copied bool) (version string, err error) {
	plugins := reserved.GetTenant().GetPlugins()
	version = to.CoreVersion
	if !has.schema || len(plugins) > 0 {
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
	if !has.seed {
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
