package server

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/provisioner/internal/drift"
	"github.com/tenantry/tenantry/services/provisioner/internal/removal"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

// defaultRetention is how long a company that is deleted can be opened again.
const defaultRetention = 30 * 24 * time.Hour

func actor(ctx context.Context) string { return identity.FromContext(ctx).Actor() }

// inUse returns a company that has a database in use.
func (s *Server) inUse(ctx context.Context, company string) (*registryv1.Tenant, error) {
	t, err := s.tenant(ctx, company)
	if err != nil {
		return nil, err
	}
	return t, hasDatabase(t)
}

// checker compares tenants with what the migrations here make, or those of the current release.
func (s *Server) checker(ctx context.Context) (*drift.Checker, error) {
	current, err := s.Releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	if newest, err := s.newest(ctx); err == nil {
		return drift.NewChecker(s.Clusters, s.Atlas, current, newest), nil
	}
	return drift.NewChecker(s.Clusters, s.Atlas, current), nil
}

func driftOf(ctx context.Context, c *drift.Checker, t *registryv1.Tenant) (*provisionerv1.CheckDriftResponse, error) {
	result, err := c.Check(ctx, t)
	if err != nil {
		return nil, err
	}
	return &provisionerv1.CheckDriftResponse{CompanyId: t.GetCompanyId(), SchemaVersion: result.Version, Drifted: len(result.Mending) > 0, MendingSql: result.Mending}, nil
}

// CheckDrift implements the contract.
func (s provisionerService) CheckDrift(ctx context.Context, r *provisionerv1.CheckDriftRequest) (out *provisionerv1.CheckDriftResponse, err error) {
	t, err := s.inUse(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	c, err := s.checker(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return driftOf(ctx, c, t)
}

func (s *Server) install(ctx context.Context, t *registryv1.Tenant, plugin string) ([]*provisionerv1.AppliedMigration, error) {
	current, err := s.Releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	results, err := s.Plugins.Install(ctx, t, plugin, current, actor(ctx))
	return appliedOf(results), err
}

func appliedOf(results []schema.SetResult) []*provisionerv1.AppliedMigration {
	var out []*provisionerv1.AppliedMigration
	for _, set := range results {
		for _, a := range set.Applied {
			out = append(out, &provisionerv1.AppliedMigration{Version: a.Version, Description: a.Description, Duration: durationpb.New(a.Duration), Set: set.Set})
		}
	}
	return out
}

// InstallPlugin implements the contract.
func (s provisionerService) InstallPlugin(ctx context.Context, r *provisionerv1.InstallPluginRequest) (*provisionerv1.InstallPluginResponse, error) {
	t, err := s.inUse(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	applied, err := s.install(ctx, t, r.GetPlugin())
	if err != nil {
		return nil, err
	}
	return &provisionerv1.InstallPluginResponse{Applied: applied}, nil
}

func (s *Server) uninstall(ctx context.Context, t *registryv1.Tenant, plugin string, purge bool) error {
	current, err := s.Releases.Current(ctx)
	if err != nil {
		return err
	}
	return s.Plugins.Uninstall(ctx, t, plugin, current, purge, actor(ctx))
}

// UninstallPlugin implements the contract.
func (s provisionerService) UninstallPlugin(ctx context.Context, r *provisionerv1.UninstallPluginRequest) (*provisionerv1.UninstallPluginResponse, error) {
	t, err := s.inUse(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	return &provisionerv1.UninstallPluginResponse{}, s.uninstall(ctx, t, r.GetPlugin(), r.GetPurge())
}

// DeleteTenant implements the contract. What is to be dropped is recorded before the company is closed: the janitor asks
// the registry before it drops anything.
func (s provisionerService) DeleteTenant(ctx context.Context, r *provisionerv1.DeleteTenantRequest) (*provisionerv1.DeleteTenantResponse, error) {
	t, err := s.tenant(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	if r.GetConfirmSlug() != t.GetSlug() {
		return nil, fault.New(codes.FailedPrecondition, fault.ConfirmationMismatch, "confirm_slug: got %q, want the company's slug, typed again", r.GetConfirmSlug()).
			With("field", "confirm_slug")
	}
	if t.GetState() != registryv1.CompanyState_COMPANY_STATE_DELETING {
		if err := hasDatabase(t); err != nil {
			return nil, err
		}
	}
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	retention := defaultRetention
	if r.GetRetention() != nil {
		retention = r.GetRetention().AsDuration()
	}
	purge := time.Now().Add(retention)
	if t.GetPurgeTime() != nil {
		purge = t.GetPurgeTime().AsTime()
	}
	if err := s.Removals.Condemn(ctx, database, t.GetCluster(), t.GetCompanyId(), removal.Deleted, purge); err != nil {
		return nil, err
	}
	out, err := s.Tenants.BeginDeletion(ctx, &registryv1.BeginDeletionRequest{CompanyId: t.GetCompanyId(), PurgeTime: timestamppb.New(purge), Actor: actor(ctx)})
	if err != nil {
		return nil, err
	}
	return &provisionerv1.DeleteTenantResponse{PurgeTime: out.GetTenant().GetPurgeTime()}, nil
}

// UndeleteTenant implements the contract. The record of what was to be dropped may stay behind: the janitor asks first.
func (s provisionerService) UndeleteTenant(ctx context.Context, r *provisionerv1.UndeleteTenantRequest) (*provisionerv1.UndeleteTenantResponse, error) {
	t, err := s.tenant(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	out, err := s.Tenants.CancelDeletion(ctx, &registryv1.CancelDeletionRequest{CompanyId: t.GetCompanyId(), Actor: actor(ctx)})
	if err != nil {
		return nil, err
	}
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	return &provisionerv1.UndeleteTenantResponse{State: out.GetTenant().GetState()}, s.Removals.Pardon(ctx, database)
}
