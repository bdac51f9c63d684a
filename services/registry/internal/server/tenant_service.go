package server

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/registry/internal/store"
)

type tenantService struct {
	registryv1.UnimplementedTenantServiceServer
	*Server
}

// ReserveTenant implements the contract. The password is hashed here and goes no further.
func (s tenantService) ReserveTenant(ctx context.Context, r *registryv1.ReserveTenantRequest) (*registryv1.ReserveTenantResponse, error) {
	if slug := r.GetCompany().GetSlug(); slug != "" {
		if err := tenant.CheckSlug(slug); err != nil {
			return nil, fault.Invalid("company.slug", "%v", err)
		}
	}
	found, err := s.store.Reservation(ctx, r.GetRequestId())
	if fault.HasReason(err, fault.ReservationNotFound) {
		var hash string
		if password := r.GetOwner().GetPassword(); password != "" {
			if hash, err = s.hasher.Hash(ctx, password); err != nil {
				return nil, err
			}
		}
		found, err = s.store.Reserve(ctx, actor(ctx), r, hash)
	}
	if err != nil {
		return nil, err
	}
	if err := s.same(ctx, found, r); err != nil {
		return nil, err
	}
	if found.GetTenant().GetState() == registryv1.CompanyState_COMPANY_STATE_FAILED {
		if found, err = s.store.Rereserve(ctx, actor(ctx), found); err != nil {
			return nil, err
		}
	}
	return &registryv1.ReserveTenantResponse{Reservation: found.Reservation}, nil
}

// same refuses another request under a recorded one's id: every field is compared, and the password with its hash.
func (s tenantService) same(ctx context.Context, found *store.Reserved, r *registryv1.ReserveTenantRequest) error {
	same := found.Same(r)
	if password := r.GetOwner().GetPassword(); same && (password != "" || found.PasswordHash != "") {
		var err error
		if same, err = s.hasher.Matches(ctx, password, found.PasswordHash); err != nil {
			return err
		}
	}
	if !same {
		return fault.New(codes.AlreadyExists, fault.RequestIDReused, "request_id %q was used for another signup: choose a new one", r.GetRequestId()).
			With("request_id", r.GetRequestId())
	}
	return nil
}

// GetReservation implements the contract.
func (s tenantService) GetReservation(ctx context.Context, r *registryv1.GetReservationRequest) (*registryv1.GetReservationResponse, error) {
	found, err := s.store.Reservation(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &registryv1.GetReservationResponse{Reservation: found.Reservation}, nil
}

// ActivateTenant implements the contract.
func (s tenantService) ActivateTenant(ctx context.Context, r *registryv1.ActivateTenantRequest) (*registryv1.ActivateTenantResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	var database *uuid.UUID
	if r.GetDatabaseId() != "" {
		other, err := parseID("database_id", r.GetDatabaseId())
		if err != nil {
			return nil, err
		}
		database = &other
	}
	t, err := s.store.Activate(ctx, actor(ctx), id, database, r.GetSchemaVersion())
	return &registryv1.ActivateTenantResponse{Tenant: t}, err
}

// FailTenant implements the contract.
func (s tenantService) FailTenant(ctx context.Context, r *registryv1.FailTenantRequest) (*registryv1.FailTenantResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	t, err := s.store.Fail(ctx, actor(ctx), id, r.GetReason())
	return &registryv1.FailTenantResponse{Tenant: t}, err
}

// RecordSchemaVersion implements the contract.
func (s tenantService) RecordSchemaVersion(ctx context.Context, r *registryv1.RecordSchemaVersionRequest) (*registryv1.RecordSchemaVersionResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	database, err := parseID("database_id", r.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	return &registryv1.RecordSchemaVersionResponse{}, s.store.RecordSchemaVersion(ctx, id, database, r.GetSchemaVersion())
}

// RecordSchemaVersions implements the contract.
func (s tenantService) RecordSchemaVersions(ctx context.Context, r *registryv1.RecordSchemaVersionsRequest) (*registryv1.RecordSchemaVersionsResponse, error) {
	versions := make([]store.Version, len(r.GetVersions()))
	for i, v := range r.GetVersions() {
		company, err := parseID(fmt.Sprintf("versions[%d].company_id", i), v.GetCompanyId())
		if err != nil {
			return nil, err
		}
		database, err := parseID(fmt.Sprintf("versions[%d].database_id", i), v.GetDatabaseId())
		if err != nil {
			return nil, err
		}
		versions[i] = store.Version{CompanyID: company, DatabaseID: database, SchemaVersion: v.GetSchemaVersion()}
	}
	others, err := s.store.RecordSchemaVersions(ctx, versions)
	out := &registryv1.RecordSchemaVersionsResponse{}
	for _, id := range others {
		out.NotRecorded = append(out.NotRecorded, id.String())
	}
	return out, err
}

// GetTenant implements the contract.
func (s tenantService) GetTenant(ctx context.Context, r *registryv1.GetTenantRequest) (*registryv1.GetTenantResponse, error) {
	id, err := s.store.CompanyID(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	t, err := s.store.Tenant(ctx, id)
	return &registryv1.GetTenantResponse{Tenant: t}, err
}

// tenantsBatch is how many tenants one message of ListTenants has.
const tenantsBatch = 500

// ListTenants implements the contract: a query for each batch, so that a slow reader holds no snapshot of the database.
func (s tenantService) ListTenants(r *registryv1.ListTenantsRequest, out grpc.ServerStreamingServer[registryv1.ListTenantsResponse]) error {
	after, err := parseID("after", r.GetAfter())
	if err != nil {
		return err
	}
	for {
		tenants, err := s.store.ListTenants(out.Context(), r.GetCluster(), r.GetIncludeDeleting(), after, tenantsBatch)
		if err != nil || len(tenants) == 0 {
			return err
		}
		if err := out.Send(&registryv1.ListTenantsResponse{Tenants: tenants}); err != nil {
			return err
		}
		if after, err = parseID("company_id", tenants[len(tenants)-1].GetCompanyId()); err != nil {
			return err
		}
	}
}

// onBehalf is who asked the provisioner, or the provisioner itself.
func onBehalf(ctx context.Context, asked string) string {
	if asked != "" {
		return asked
	}
	return actor(ctx)
}

// AddPlugin implements the contract.
func (s tenantService) AddPlugin(ctx context.Context, r *registryv1.AddPluginRequest) (*registryv1.AddPluginResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	t, err := s.store.AddPlugin(ctx, onBehalf(ctx, r.GetActor()), id, r.GetPlugin(), r.GetCheckOnly())
	return &registryv1.AddPluginResponse{Tenant: t}, err
}

// RemovePlugin implements the contract.
func (s tenantService) RemovePlugin(ctx context.Context, r *registryv1.RemovePluginRequest) (*registryv1.RemovePluginResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	t, err := s.store.RemovePlugin(ctx, onBehalf(ctx, r.GetActor()), id, r.GetPlugin(), r.GetCheckOnly())
	return &registryv1.RemovePluginResponse{Tenant: t}, err
}

// BeginDeletion implements the contract.
func (s tenantService) BeginDeletion(ctx context.Context, r *registryv1.BeginDeletionRequest) (*registryv1.BeginDeletionResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	if err := r.GetPurgeTime().CheckValid(); err != nil {
		return nil, fault.Invalid("purge_time", "got %v, want a timestamp between the years 1 and 9999", r.GetPurgeTime())
	}
	t, err := s.store.BeginDeletion(ctx, onBehalf(ctx, r.GetActor()), id, r.GetPurgeTime().AsTime())
	return &registryv1.BeginDeletionResponse{Tenant: t}, err
}

// CancelDeletion implements the contract.
func (s tenantService) CancelDeletion(ctx context.Context, r *registryv1.CancelDeletionRequest) (*registryv1.CancelDeletionResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	t, err := s.store.CancelDeletion(ctx, onBehalf(ctx, r.GetActor()), id)
	return &registryv1.CancelDeletionResponse{Tenant: t}, err
}

// EndDeletion implements the contract.
func (s tenantService) EndDeletion(ctx context.Context, r *registryv1.EndDeletionRequest) (*registryv1.EndDeletionResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	t, err := s.store.EndDeletion(ctx, actor(ctx), id)
	return &registryv1.EndDeletionResponse{Tenant: t}, err
}

// RecordPasswordVersion implements the contract.
func (s tenantService) RecordPasswordVersion(ctx context.Context, r *registryv1.RecordPasswordVersionRequest) (*registryv1.RecordPasswordVersionResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	database, err := parseID("database_id", r.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	return &registryv1.RecordPasswordVersionResponse{}, s.store.RecordPasswordVersion(ctx, onBehalf(ctx, r.GetActor()), id, database, r.GetPasswordVersion())
}

// SwitchDatabase implements the contract.
func (s tenantService) SwitchDatabase(ctx context.Context, r *registryv1.SwitchDatabaseRequest) (*registryv1.SwitchDatabaseResponse, error) {
	id, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	from, err := parseID("from_database_id", r.GetFromDatabaseId())
	if err != nil {
		return nil, err
	}
	to, err := parseID("to_database_id", r.GetToDatabaseId())
	if err != nil {
		return nil, err
	}
	t, err := s.store.SwitchDatabase(ctx, onBehalf(ctx, r.GetActor()), r.GetAction(), id, from, to, r.GetCluster(), r.GetSchemaVersion())
	return &registryv1.SwitchDatabaseResponse{Tenant: t}, err
}

// RecordEvent implements the contract.
func (s tenantService) RecordEvent(ctx context.Context, r *registryv1.RecordEventRequest) (*registryv1.RecordEventResponse, error) {
	company, err := parseID("company_id", r.GetCompanyId())
	if err != nil {
		return nil, err
	}
	return &registryv1.RecordEventResponse{}, s.store.RecordEvent(ctx, r.GetActor(), r.GetAction(), company, r.GetSubject(), r.GetDetails())
}
