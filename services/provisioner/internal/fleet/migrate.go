// Package fleet migrates tenants: one, or all of them as a rollout that outlives the copy that began it. It goes on past
// tenants that fail, and keeps a result for each.
package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

// Options say how a tenant is migrated.
type Options struct {
	schema.Options
	// PauseFor has the tenant's calls held meanwhile, in this holder's name; empty means that they are not.
	PauseFor string
}

// Migrator migrates one tenant.
type Migrator struct {
	clusters *cluster.Set
	tenants  registryv1.TenantServiceClient
}

// NewMigrator returns a migrator.
func NewMigrator(clusters *cluster.Set, tenants registryv1.TenantServiceClient) *Migrator {
	return &Migrator{clusters, tenants}
}

// Migrate brings a tenant's database to a release, marks it, and tells the registry its version. Results are
// schema.Bring's: the core set's is the first, when there is one.
func (m *Migrator) Migrate(ctx context.Context, t *registryv1.Tenant, r *release.Release, opts Options) (results []schema.SetResult, err error) {
	results, err = m.bring(ctx, t, r, opts)
	if opts.DryRun {
		return results, err
	}
	if opts.PauseFor == "" {
		// Also when a later file or set failed, what was applied is told.
		err = errors.Join(err, m.record(ctx, t, news(t, results)))
	}
	if err == nil && opts.ToVersion == "" {
		err = m.mark(ctx, []*registryv1.Tenant{t}, r)
	}
	return results, err
}

// bring is Migrate without the mark, and without telling the registry unless the tenant is paused.
func (m *Migrator) bring(ctx context.Context, t *registryv1.Tenant, r *release.Release, opts Options) (results []schema.SetResult, err error) {
	database, err := databaseOf(t)
	if err != nil {
		return nil, err
	}
	conn, err := m.clusters.Connect(ctx, t.GetCluster(), database)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if opts.PauseFor != "" && !opts.DryRun {
		return m.paused(ctx, conn, t, r, opts)
	}
	return schema.Bring(ctx, conn, r, t.GetPlugins(), opts.Options)
}

// databaseOf is the name of a tenant's database.
func databaseOf(t *registryv1.Tenant) (string, error) {
	id, err := uuid.Parse(t.GetDatabaseId())
	return tenant.DatabaseName(id), err
}

// news is the version of a tenant's core set that the registry has yet to be told; empty for none.
func news(t *registryv1.Tenant, results []schema.SetResult) string {
	if len(results) == 0 || results[0].To == t.GetSchemaVersion() {
		return ""
	}
	return results[0].To
}

// recordAll tells the registry the versions of tenants that were worked on. It returns, as they now are and by company,
// those that have another database by now, perhaps one with an older schema.
func (m *Migrator) recordAll(ctx context.Context, some []ended) (others map[string]*registryv1.Tenant, err error) {
	q := &registryv1.RecordSchemaVersionsRequest{}
	for _, e := range some {
		if e.version != "" {
			q.Versions = append(q.Versions, &registryv1.RecordSchemaVersionRequest{CompanyId: e.tenant.GetCompanyId(), DatabaseId: e.tenant.GetDatabaseId(), SchemaVersion: e.version})
		}
	}
	if len(q.GetVersions()) == 0 {
		return nil, nil //nolint:nilnil // None have.
	}
	out, err := m.tenants.RecordSchemaVersions(ctx, q)
	if err != nil {
		return nil, err
	}
	others = map[string]*registryv1.Tenant{}
	for _, company := range out.GetNotRecorded() {
		now, err := m.tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: company})
		switch {
		case fault.HasReason(err, fault.CompanyNotFound):
		case err != nil:
			return nil, err
		case migratable(now.GetTenant()):
			others[company] = now.GetTenant()
		}
	}
	return others, nil
}

// mark marks tenants' databases as being at a release.
func (m *Migrator) mark(ctx context.Context, tenants []*registryv1.Tenant, r *release.Release) error {
	marks := map[string]map[string]string{} // by cluster and database
	for _, t := range tenants {
		database, err := databaseOf(t)
		if err != nil {
			return err
		}
		if marks[t.GetCluster()] == nil {
			marks[t.GetCluster()] = map[string]string{}
		}
		marks[t.GetCluster()][database] = schema.Mark(r, t.GetPlugins())
	}
	var errs []error
	for cluster, of := range marks {
		errs = append(errs, m.clusters.SetComments(ctx, cluster, of))
	}
	return errors.Join(errs...)
}

// marked tells which of some tenants have nothing to be done: their databases bear the mark of the release, and the
// registry knows their version. What cannot be asked is looked at.
func (m *Migrator) marked(ctx context.Context, some []*registryv1.Tenant, r *release.Release) (companies map[string]bool) {
	companies = map[string]bool{}
	databases := map[string][]string{} // by cluster
	named := map[string]*registryv1.Tenant{}
	for _, t := range some {
		name, err := databaseOf(t)
		if err != nil || t.GetSchemaVersion() != r.CoreVersion {
			continue
		}
		databases[t.GetCluster()], named[name] = append(databases[t.GetCluster()], name), t
	}
	for cluster, names := range databases {
		comments, err := m.clusters.Comments(ctx, cluster, names)
		if err != nil {
			continue // Looking at each of them says why.
		}
		for name, comment := range comments {
			companies[named[name].GetCompanyId()] = comment == schema.Mark(r, named[name].GetPlugins())
		}
	}
	return companies
}

// outcome is the result of a rollout's migration of a tenant.
func outcome(t *registryv1.Tenant, results []schema.SetResult, took time.Duration, err error) *provisionerv1.TenantResult {
	out := &provisionerv1.TenantResult{
		CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), Cluster: t.GetCluster(), Duration: durationpb.New(took), EndTime: timestamppb.Now(),
		State: provisionerv1.TenantResultState_TENANT_RESULT_STATE_SUCCEEDED, FromVersion: t.GetSchemaVersion(), ToVersion: t.GetSchemaVersion(),
	}
	for i, r := range results {
		out.Files += int32(len(r.Applied))
		if i == 0 {
			out.FromVersion, out.ToVersion = r.From, r.To
		}
	}
	if err != nil {
		out.State, out.Error = provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED, MigrationError(err)
	}
	return out
}

// MigrationError is an error as the contract has it; nil of nil.
func MigrationError(err error) *provisionerv1.MigrationError {
	if err == nil {
		return nil
	}
	f := fault.From(err)
	return &provisionerv1.MigrationError{Reason: f.Reason, Message: f.Text, Set: f.Metadata["set"], File: f.Metadata["file"],
		Statement: f.Metadata["statement"], Sqlstate: f.Metadata["sqlstate"]}
}
