package server

import (
	"context"

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
	t, err := s.store.Activate(ctx, actor(ctx), id, r.GetSchemaVersion())
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
	return &registryv1.RecordSchemaVersionResponse{}, s.store.RecordSchemaVersion(ctx, id, r.GetSchemaVersion())
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
		tenants, err := s.store.ListTenants(out.Context(), r.GetCluster(), after, tenantsBatch)
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
