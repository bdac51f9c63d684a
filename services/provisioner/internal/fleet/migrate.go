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

// Migrate brings a tenant's database to a release and tells the registry its version. Results are schema.Bring's: the
// core set's is the first, when there is one.
func (m *Migrator) Migrate(ctx context.Context, t *registryv1.Tenant, r *release.Release, opts Options) (results []schema.SetResult, err error) {
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	conn, err := m.clusters.Connect(ctx, t.GetCluster(), tenant.DatabaseName(database))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if opts.PauseFor != "" && !opts.DryRun {
		return m.paused(ctx, conn, t, r, opts)
	}
	results, err = schema.Bring(ctx, conn, r, t.GetPlugins(), opts.Options)
	if opts.DryRun {
		return results, err
	}
	// Also when a later file or set failed, what was applied is told.
	return results, errors.Join(err, m.record(ctx, t, news(t, results)))
}

// news is the version of a tenant's core set that the registry has yet to be told; empty for none.
func news(t *registryv1.Tenant, results []schema.SetResult) string {
	if len(results) == 0 || results[0].To == t.GetSchemaVersion() {
		return ""
	}
	return results[0].To
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
