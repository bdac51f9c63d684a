package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
)

type routeService struct {
	registryv1.UnimplementedRouteServiceServer
	*Server
}

// WatchRoutes implements the contract.
func (s routeService) WatchRoutes(r *registryv1.WatchRoutesRequest, out grpc.ServerStreamingServer[registryv1.WatchRoutesResponse]) error {
	return s.feed.Watch(out.Context(), r.GetResumeAfter(), out.Send)
}

// ResolveCredential implements the contract.
func (s routeService) ResolveCredential(ctx context.Context, r *registryv1.ResolveCredentialRequest) (*registryv1.ResolveCredentialResponse, error) {
	k, err := s.store.APIKeyByHash(ctx, credential.Hash(r.GetApiKeyHash()))
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, notValid()
	}
	return &registryv1.ResolveCredentialResponse{ApiKeyId: k.ID.String(), CompanyId: k.Company.String(), Roles: k.Roles, ExpireTime: timestamp(k.Expires)}, nil
}

// Heartbeat implements the contract.
func (s routeService) Heartbeat(ctx context.Context, r *registryv1.HeartbeatRequest) (*registryv1.HeartbeatResponse, error) {
	return s.store.Heartbeat(ctx, s.lease, r)
}

// ResolveRoute implements the contract.
func (s routeService) ResolveRoute(ctx context.Context, r *registryv1.ResolveRouteRequest) (*registryv1.ResolveRouteResponse, error) {
	route, err := s.store.Route(ctx, r.GetCompany())
	return &registryv1.ResolveRouteResponse{Route: route}, err
}

func timestamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
