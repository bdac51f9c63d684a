package server

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/registry/internal/store"
)

// Authenticate finds out who calls, for rpc.Config: the bearer of an access token or API key, else whom the certificate
// names. Being where they are kept, it asks whether session, user and company are still good.
func (s *Server) Authenticate(ctx context.Context, certified identity.Caller, md metadata.MD) (identity.Caller, error) {
	bearer, err := rpc.Bearer(md)
	if err != nil || bearer == "" {
		return certified, err
	}
	if credential.IsAPIKey(bearer) {
		k, err := s.store.APIKeyByHash(ctx, credential.HashOf(bearer))
		if err != nil {
			return identity.Caller{}, err
		}
		if k == nil {
			return identity.Caller{}, notValid()
		}
		c := identity.Caller{Kind: identity.APIKey, Name: certified.Name, CompanyID: k.Company, APIKeyID: k.ID, Roles: k.Roles}
		if k.Expires != nil {
			c.ExpiresAt = *k.Expires
		}
		return c, nil
	}
	claims, err := s.verifier.VerifyAccess(bearer)
	if err != nil {
		return identity.Caller{}, err
	}
	u, err := s.store.SessionUser(ctx, claims.SessionID)
	if err != nil {
		return identity.Caller{}, err
	}
	if u == nil || u.ID != claims.UserID {
		return identity.Caller{}, notValid()
	}
	if !store.MayLogIn(u.CompanyState) {
		return identity.Caller{}, store.NotActive(u.CompanyState)
	}
	return identity.Caller{Kind: identity.User, Name: certified.Name, CompanyID: u.Company, UserID: u.ID, SessionID: claims.SessionID,
		Roles: u.GetRoles(), ExpiresAt: claims.ExpiresAt}, nil
}

func notValid() error {
	return fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "the credential is not valid")
}
