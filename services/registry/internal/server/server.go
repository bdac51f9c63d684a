// Package server answers the registry's gRPC calls: it checks what the contract's rules cannot say, finds out which
// company a call is about, and leaves the rest to package store.
package server

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/token"
	"github.com/tenantry/tenantry/services/registry/internal/feed"
	"github.com/tenantry/tenantry/services/registry/internal/store"
)

// Server is all of the registry's services.
type Server struct {
	store    *store.Store
	feed     *feed.Feed
	hasher   *credential.Hasher
	signer   *token.Signer
	verifier *token.Verifier
	lease    time.Duration
}

// New returns the services on a store. lease is how long a gateway has its shares without a heartbeat.
func New(s *store.Store, f *feed.Feed, hasher *credential.Hasher, signer *token.Signer, lease time.Duration) *Server {
	return &Server{store: s, feed: f, hasher: hasher, signer: signer, verifier: token.NewVerifier(signer.Keys()...), lease: lease}
}

// Register registers every service.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	registryv1.RegisterCompanyServiceServer(r, companyService{Server: s})
	registryv1.RegisterTenantServiceServer(r, tenantService{Server: s})
	registryv1.RegisterPluginServiceServer(r, pluginService{Server: s})
	registryv1.RegisterClusterServiceServer(r, clusterService{Server: s})
	registryv1.RegisterAuditServiceServer(r, auditService{Server: s})
	registryv1.RegisterRouteServiceServer(r, routeService{Server: s})
	registryv1.RegisterSessionServiceServer(r, sessionService{Server: s})
	registryv1.RegisterUserServiceServer(r, userService{Server: s})
	registryv1.RegisterApiKeyServiceServer(r, apiKeyService{Server: s})
}

// companyOf is the company that a call is about: the caller's own, or the one that an operator or a service names. A
// tenant's caller who names another one gets TENANT_MISMATCH, whether it exists or not.
func (s *Server) companyOf(ctx context.Context, named string) (uuid.UUID, error) {
	caller := identity.FromContext(ctx)
	if !caller.IsTenant() {
		if named == "" {
			return uuid.Nil, fault.Invalid("company", "got nothing, want the id or slug of a company, since the caller belongs to none")
		}
		return s.store.CompanyID(ctx, named)
	}
	if named == "" {
		return caller.CompanyID, nil
	}
	id, err := s.store.CompanyID(ctx, named)
	if err != nil && !fault.HasReason(err, fault.CompanyNotFound) {
		return uuid.Nil, err
	}
	if id != caller.CompanyID {
		return uuid.Nil, fault.New(codes.PermissionDenied, fault.TenantMismatch, "the request names company %q, and the credential is another's", named)
	}
	return id, nil
}

// manages checks that the caller may manage the logins and keys of a company: an operator, or an owner or admin of it.
func manages(ctx context.Context, company uuid.UUID) error {
	caller := identity.FromContext(ctx)
	switch {
	case caller.Kind == identity.Operator && !caller.IsTenant():
		return nil
	case caller.CompanyID != company:
		return fault.New(codes.PermissionDenied, fault.TenantMismatch, "the credential is another company's")
	case !caller.HasRole(store.RoleOwner, roleAdmin):
		return fault.New(codes.PermissionDenied, fault.RoleMissing, "want role owner or admin, got %v", caller.Roles)
	default:
		return nil
	}
}

// roleAdmin may manage everyone but owners.
const roleAdmin = "admin"

// mayGrant checks that the caller may give these roles, or touch someone who has them: only owners and operators may
// where owner is among them.
func mayGrant(ctx context.Context, roles []string) error {
	caller := identity.FromContext(ctx)
	if caller.Kind == identity.Operator && !caller.IsTenant() || caller.HasRole(store.RoleOwner) {
		return nil
	}
	for _, r := range roles {
		if r == store.RoleOwner {
			return fault.New(codes.PermissionDenied, fault.RoleMissing, "only an owner may give, take or touch role owner")
		}
	}
	return nil
}

func actor(ctx context.Context) string { return identity.FromContext(ctx).Actor() }

// parseID reads an id that a rule of the contract said is a UUID; empty is uuid.Nil.
func parseID(field, text string) (uuid.UUID, error) {
	if text == "" {
		return uuid.Nil, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, fault.Invalid(field, "got %q, want a UUID", text)
	}
	return id, nil
}
