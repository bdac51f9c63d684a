// Package server answers the provisioner's gRPC calls and leaves the work to packages signup and fleet.
package server

import (
	"context"

	"google.golang.org/grpc"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/backup"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/doctor"
	"github.com/tenantry/tenantry/services/provisioner/internal/fleet"
	"github.com/tenantry/tenantry/services/provisioner/internal/gate"
	"github.com/tenantry/tenantry/services/provisioner/internal/plugin"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/removal"
	"github.com/tenantry/tenantry/services/provisioner/internal/signup"
)

// Server is all of the provisioner's services.
type Server struct {
	Tenants  registryv1.TenantServiceClient
	Clusters *cluster.Set
	Releases *release.Store
	Source   release.Source
	Signups  *signup.Runner
	Migrator *fleet.Migrator
	Rollouts *fleet.Store
	Runner   *fleet.Runner
	Plugins  *plugin.Manager
	Removals *removal.Remover
	Doctor   *doctor.Doctor
	Backups  *backup.Keeper
	Atlas    *atlascli.CLI
	// Gate judges releases.
	Gate *gate.Gate
	// Stopping ends streams that would go on for as long as a rollout.
	Stopping <-chan struct{}
}

// Register registers the services.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	provisionerv1.RegisterProvisionerServiceServer(r, provisionerService{Server: s})
	provisionerv1.RegisterRolloutServiceServer(r, rolloutService{Server: s})
	provisionerv1.RegisterFleetServiceServer(r, fleetService{Server: s})
	provisionerv1.RegisterBackupServiceServer(r, backupService{Server: s})
}

type provisionerService struct {
	provisionerv1.UnimplementedProvisionerServiceServer
	*Server
}

// CreateTenant implements the contract.
func (s provisionerService) CreateTenant(ctx context.Context, r *provisionerv1.CreateTenantRequest) (*provisionerv1.CreateTenantResponse, error) {
	if slug := r.GetCompany().GetSlug(); slug != "" {
		if err := tenant.CheckSlug(slug); err != nil {
			return nil, fault.Invalid("company.slug", "%v", err)
		}
	}
	t, err := s.Signups.Signup(ctx, &registryv1.ReserveTenantRequest{
		RequestId: r.GetRequestId(), Company: r.GetCompany(), UsageType: r.GetUsageType(), Owner: r.GetOwner(), Plugins: r.GetPlugins(), Cluster: r.GetCluster(),
	}, nil)
	if err != nil {
		return nil, err
	}
	return &provisionerv1.CreateTenantResponse{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), State: t.GetState(), SchemaVersion: t.GetSchemaVersion()}, nil
}

// tenant returns a company that has a database to migrate or to look at.
func (s *Server) tenant(ctx context.Context, company string) (*registryv1.Tenant, error) {
	out, err := s.Tenants.GetTenant(ctx, &registryv1.GetTenantRequest{Company: company})
	if err != nil {
		return nil, err
	}
	return out.GetTenant(), nil
}
