package server

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/registry/internal/store"
)

type apiKeyService struct {
	registryv1.UnimplementedApiKeyServiceServer
	*Server
}

// managed is the company that a call is about, whose logins and keys the caller may manage, and may give these roles.
func (s *Server) managed(ctx context.Context, named string, roles []string) (uuid.UUID, error) {
	company, err := s.companyOf(ctx, named)
	if err != nil {
		return uuid.Nil, err
	}
	if err := manages(ctx, company); err != nil {
		return uuid.Nil, err
	}
	return company, mayGrant(ctx, roles)
}

// CreateApiKey implements the contract.
func (s apiKeyService) CreateApiKey(ctx context.Context, r *registryv1.CreateApiKeyRequest) (*registryv1.CreateApiKeyResponse, error) {
	id, err := s.managed(ctx, r.GetCompany(), r.GetRoles())
	if err != nil {
		return nil, err
	}
	company, err := s.store.Company(ctx, id)
	if err != nil {
		return nil, err
	}
	if company.GetState() != registryv1.CompanyState_COMPANY_STATE_ACTIVE {
		return nil, store.NotActive(company.GetState())
	}
	var expires *time.Time
	if r.GetExpireTime() != nil {
		at := r.GetExpireTime().AsTime()
		if !r.GetExpireTime().IsValid() || !at.After(time.Now()) {
			return nil, fault.Invalid("expire_time", "got %s, want a time to come", at.Format(time.RFC3339))
		}
		expires = &at
	}
	key := credential.NewAPIKey()
	k, err := s.store.CreateAPIKey(ctx, actor(ctx), id, r.GetName(), rolesOf(r.GetRoles()), key, expires)
	if err != nil {
		return nil, err
	}
	return &registryv1.CreateApiKeyResponse{Key: key.Key, ApiKey: k}, nil
}

// ListApiKeys implements the contract.
func (s apiKeyService) ListApiKeys(ctx context.Context, r *registryv1.ListApiKeysRequest) (*registryv1.ListApiKeysResponse, error) {
	company, err := s.managed(ctx, r.GetCompany(), nil)
	if err != nil {
		return nil, err
	}
	keys, err := s.store.ListAPIKeys(ctx, company)
	return &registryv1.ListApiKeysResponse{ApiKeys: keys}, err
}

// RevokeApiKey implements the contract.
func (s apiKeyService) RevokeApiKey(ctx context.Context, r *registryv1.RevokeApiKeyRequest) (*registryv1.RevokeApiKeyResponse, error) {
	id, err := parseID("api_key_id", r.GetApiKeyId())
	if err != nil {
		return nil, err
	}
	k, err := s.store.APIKey(ctx, id)
	if err != nil {
		return nil, err
	}
	company, err := parseID("company_id", k.GetCompanyId())
	if err != nil {
		return nil, err
	}
	if caller := identity.FromContext(ctx); caller.IsTenant() && caller.CompanyID != company {
		// Whether another company has such a key is not the caller's to know.
		return nil, fault.New(codes.NotFound, fault.APIKeyNotFound, "there is no API key %s", id).With("api_key_id", id.String())
	}
	if err := manages(ctx, company); err != nil {
		return nil, err
	}
	if err := mayGrant(ctx, k.GetRoles()); err != nil {
		return nil, err
	}
	k, err = s.store.RevokeAPIKey(ctx, actor(ctx), id)
	return &registryv1.RevokeApiKeyResponse{ApiKey: k}, err
}
