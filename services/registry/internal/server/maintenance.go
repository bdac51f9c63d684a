package server

import (
	"context"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// BeginMaintenance implements the contract.
func (s tenantService) BeginMaintenance(ctx context.Context, r *registryv1.BeginMaintenanceRequest) (*registryv1.BeginMaintenanceResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	t, err := s.store.BeginMaintenance(ctx, actor(ctx), id, r.GetHolder(), r.GetDuration().AsDuration())
	return &registryv1.BeginMaintenanceResponse{Tenant: t}, err
}

// EndMaintenance implements the contract.
func (s tenantService) EndMaintenance(ctx context.Context, r *registryv1.EndMaintenanceRequest) (*registryv1.EndMaintenanceResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	database, err := parseID("database_id", r.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	if (r.GetSchemaVersion() == "") != (r.GetDatabaseId() == "") {
		return nil, fault.Invalid("database_id", "got %q with schema_version %q, want both or neither", r.GetDatabaseId(), r.GetSchemaVersion())
	}
	t, err := s.store.EndMaintenance(ctx, actor(ctx), id, r.GetHolder(), database, r.GetSchemaVersion())
	return &registryv1.EndMaintenanceResponse{Tenant: t}, err
}
