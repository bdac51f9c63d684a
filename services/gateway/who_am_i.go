package gateway

import (
	"context"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/identity"
)

type whoAmI struct {
	gatewayv1.UnimplementedWhoAmIServiceServer
	routes *routes.Table
}

// WhoAmI implements the contract.
func (w *whoAmI) WhoAmI(ctx context.Context, _ *gatewayv1.WhoAmIRequest) (*gatewayv1.WhoAmIResponse, error) {
	c := identity.FromContext(ctx)
	out := &gatewayv1.WhoAmIResponse{
		Kind: kinds[c.Kind], Name: c.Name, CompanyId: text(c.CompanyID), UserId: text(c.UserID), SessionId: text(c.SessionID), ApiKeyId: text(c.APIKeyID), Roles: c.Roles,
	}
	if !c.ExpiresAt.IsZero() {
		out.ExpiresAt = timestamppb.New(c.ExpiresAt)
	}
	if r, ok := w.routes.ByID(c.CompanyID); ok {
		out.Slug, out.State, out.SchemaVersion = r.Slug, r.State, r.SchemaVersion
	}
	return out, nil
}

var kinds = map[identity.Kind]gatewayv1.CallerKind{
	identity.User:     gatewayv1.CallerKind_CALLER_KIND_USER,
	identity.APIKey:   gatewayv1.CallerKind_CALLER_KIND_API_KEY,
	identity.Upstream: gatewayv1.CallerKind_CALLER_KIND_UPSTREAM,
	identity.Operator: gatewayv1.CallerKind_CALLER_KIND_OPERATOR,
}

func text(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}
