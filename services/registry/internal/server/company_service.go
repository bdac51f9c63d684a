package server

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/page"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

type companyService struct {
	registryv1.UnimplementedCompanyServiceServer
	*Server
}

// GetCompany implements the contract.
func (s companyService) GetCompany(ctx context.Context, r *registryv1.GetCompanyRequest) (*registryv1.GetCompanyResponse, error) {
	id, err := s.companyOf(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	c, err := s.store.Company(ctx, id)
	return &registryv1.GetCompanyResponse{Company: c}, err
}

// ListCompanies implements the contract.
func (s companyService) ListCompanies(ctx context.Context, r *registryv1.ListCompaniesRequest) (*registryv1.ListCompaniesResponse, error) {
	const method = page.Method("ListCompanies")
	after, err := method.AfterID(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := method.Size(r.GetPageSize())
	companies, err := s.store.ListCompanies(ctx, after, r.GetStates(), r.GetContains(), size+1)
	if err != nil {
		return nil, err
	}
	out := &registryv1.ListCompaniesResponse{}
	out.Companies, out.NextPageToken = page.Cut(method, companies, size, (*registryv1.Company).GetCompanyId)
	return out, nil
}

// UpdateCompany implements the contract.
func (s companyService) UpdateCompany(ctx context.Context, r *registryv1.UpdateCompanyRequest) (*registryv1.UpdateCompanyResponse, error) {
	id, err := s.companyOf(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	if err := manages(ctx, id); err != nil {
		return nil, err
	}
	f := r.GetFields()
	values := map[string]string{"slug": f.GetSlug(), "name": f.GetName(), "email": f.GetEmail(), "phone": f.GetPhone(),
		"address": f.GetAddress(), "country_code": f.GetCountryCode()}
	fields, err := masked(r.GetUpdateMask().GetPaths(), values)
	if err != nil {
		return nil, err
	}
	if slug, ok := fields["slug"]; ok {
		if err := tenant.CheckSlug(slug); err != nil {
			return nil, fault.Invalid("fields.slug", "%v", err)
		}
		if identity.FromContext(ctx).IsTenant() {
			return nil, fault.New(codes.PermissionDenied, fault.MethodNotAllowed, "a company's slug is an operator's to change")
		}
	}
	if name, ok := fields["name"]; ok && strings.TrimSpace(name) == "" {
		return nil, fault.Invalid("fields.name", "got nothing, want a name")
	}
	c, err := s.store.UpdateCompany(ctx, actor(ctx), id, fields)
	return &registryv1.UpdateCompanyResponse{Company: c}, err
}

// masked returns the values that a field mask names.
func masked(paths []string, values map[string]string) (map[string]string, error) {
	known := make([]string, 0, len(values))
	for name := range values {
		known = append(known, name)
	}
	slices.Sort(known)
	if len(paths) == 0 {
		return nil, fault.Invalid("update_mask", "got no path, want at least one of %s", strings.Join(known, ", "))
	}
	out := map[string]string{}
	for _, path := range paths {
		value, ok := values[path]
		if !ok {
			return nil, fault.Invalid("update_mask", "got %q, want one of %s", path, strings.Join(known, ", "))
		}
		out[path] = value
	}
	return out, nil
}

// SuspendCompany implements the contract.
func (s companyService) SuspendCompany(ctx context.Context, r *registryv1.SuspendCompanyRequest) (*registryv1.SuspendCompanyResponse, error) {
	id, err := s.companyOf(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	c, err := s.store.Suspend(ctx, actor(ctx), id, r.GetReason())
	return &registryv1.SuspendCompanyResponse{Company: c}, err
}

// ResumeCompany implements the contract.
func (s companyService) ResumeCompany(ctx context.Context, r *registryv1.ResumeCompanyRequest) (*registryv1.ResumeCompanyResponse, error) {
	id, err := s.companyOf(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	c, err := s.store.Resume(ctx, actor(ctx), id)
	return &registryv1.ResumeCompanyResponse{Company: c}, err
}
