package gateway

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/session"
	"github.com/tenantry/tenantry/services/internal/token"
)

// sessionProxy answers SessionService with what the registry answers, so that a client needs one address. The caller's
// credential goes with the call; errors come back as they are.
type sessionProxy struct {
	registryv1.UnimplementedSessionServiceServer
	registry registryv1.SessionServiceClient
	keys     []token.Key // the gateway's own, which sign assertions
}

// pass makes a call for the caller, with the caller's credential.
func pass[Q, R any](ctx context.Context, q Q, call func(context.Context, Q, ...grpc.CallOption) (R, error)) (R, error) {
	if bearer := metadata.ValueFromIncomingContext(ctx, "authorization"); len(bearer) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", bearer[0])
	}
	return call(ctx, q)
}

// Login implements the contract.
func (p *sessionProxy) Login(ctx context.Context, r *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
	// Without the credential of an earlier session: a login does not need it.
	return p.registry.Login(ctx, r)
}

// Refresh implements the contract.
func (p *sessionProxy) Refresh(ctx context.Context, r *registryv1.RefreshRequest) (*registryv1.RefreshResponse, error) {
	return p.registry.Refresh(ctx, r)
}

// Logout implements the contract.
func (p *sessionProxy) Logout(ctx context.Context, r *registryv1.LogoutRequest) (*registryv1.LogoutResponse, error) {
	return pass(ctx, r, p.registry.Logout)
}

// ListSessions implements the contract.
func (p *sessionProxy) ListSessions(ctx context.Context, r *registryv1.ListSessionsRequest) (*registryv1.ListSessionsResponse, error) {
	return pass(ctx, r, p.registry.ListSessions)
}

// RevokeSessions implements the contract.
func (p *sessionProxy) RevokeSessions(ctx context.Context, r *registryv1.RevokeSessionsRequest) (*registryv1.RevokeSessionsResponse, error) {
	return pass(ctx, r, p.registry.RevokeSessions)
}

// GetJwks implements the contract: the registry's keys, and those that verify the gateway's assertions.
func (p *sessionProxy) GetJwks(ctx context.Context, r *registryv1.GetJwksRequest) (*registryv1.GetJwksResponse, error) {
	out, err := p.registry.GetJwks(ctx, r)
	if err != nil {
		return nil, err
	}
	out.Keys = append(out.Keys, session.JSONWebKeys(p.keys, token.GatewayIssuer)...)
	return out, nil
}
