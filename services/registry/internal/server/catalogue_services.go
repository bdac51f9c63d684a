package server

import (
	"context"
	"strconv"

	"github.com/google/uuid"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/page"
)

type pluginService struct {
	registryv1.UnimplementedPluginServiceServer
	*Server
}

// ListPlugins implements the contract.
func (s pluginService) ListPlugins(ctx context.Context, r *registryv1.ListPluginsRequest) (*registryv1.ListPluginsResponse, error) {
	plugins, err := s.store.ListPlugins(ctx, r.GetUsageType())
	return &registryv1.ListPluginsResponse{Plugins: plugins}, err
}

// ListCompanyPlugins implements the contract.
func (s pluginService) ListCompanyPlugins(ctx context.Context, r *registryv1.ListCompanyPluginsRequest) (*registryv1.ListCompanyPluginsResponse, error) {
	id, err := s.companyOf(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	plugins, err := s.store.CompanyPlugins(ctx, id)
	return &registryv1.ListCompanyPluginsResponse{Plugins: plugins}, err
}

// ListUsageTypes implements the contract.
func (s pluginService) ListUsageTypes(ctx context.Context, _ *registryv1.ListUsageTypesRequest) (*registryv1.ListUsageTypesResponse, error) {
	types, err := s.store.ListUsageTypes(ctx)
	return &registryv1.ListUsageTypesResponse{UsageTypes: types}, err
}

type clusterService struct {
	registryv1.UnimplementedClusterServiceServer
	*Server
}

// Defaults of RegisterCluster.
const (
	defaultMaxTenants = 5000
	defaultBudget     = 100
)

// RegisterCluster implements the contract.
func (s clusterService) RegisterCluster(ctx context.Context, r *registryv1.RegisterClusterRequest) (*registryv1.RegisterClusterResponse, error) {
	c := &registryv1.Cluster{Name: r.GetName(), Host: r.GetHost(), Port: r.GetPort(), Tls: r.GetTls(), MaxTenants: r.GetMaxTenants(), ConnectionBudget: r.GetConnectionBudget()}
	if c.GetTls() == registryv1.ClusterTls_CLUSTER_TLS_UNSPECIFIED {
		c.Tls = registryv1.ClusterTls_CLUSTER_TLS_VERIFY_FULL
	}
	if c.GetMaxTenants() == 0 {
		c.MaxTenants = defaultMaxTenants
	}
	if c.GetConnectionBudget() == 0 {
		c.ConnectionBudget = defaultBudget
	}
	c, err := s.store.RegisterCluster(ctx, actor(ctx), c)
	return &registryv1.RegisterClusterResponse{Cluster: c}, err
}

// ListClusters implements the contract.
func (s clusterService) ListClusters(ctx context.Context, _ *registryv1.ListClustersRequest) (*registryv1.ListClustersResponse, error) {
	clusters, err := s.store.ListClusters(ctx)
	return &registryv1.ListClustersResponse{Clusters: clusters}, err
}

// DrainCluster implements the contract.
func (s clusterService) DrainCluster(ctx context.Context, r *registryv1.DrainClusterRequest) (*registryv1.DrainClusterResponse, error) {
	c, err := s.store.DrainCluster(ctx, actor(ctx), r.GetName())
	return &registryv1.DrainClusterResponse{Cluster: c}, err
}

// UndrainCluster implements the contract.
func (s clusterService) UndrainCluster(ctx context.Context, r *registryv1.UndrainClusterRequest) (*registryv1.UndrainClusterResponse, error) {
	c, err := s.store.UndrainCluster(ctx, actor(ctx), r.GetName())
	return &registryv1.UndrainClusterResponse{Cluster: c}, err
}

// RemoveCluster implements the contract.
func (s clusterService) RemoveCluster(ctx context.Context, r *registryv1.RemoveClusterRequest) (*registryv1.RemoveClusterResponse, error) {
	return &registryv1.RemoveClusterResponse{}, s.store.RemoveCluster(ctx, actor(ctx), r.GetName())
}

type auditService struct {
	registryv1.UnimplementedAuditServiceServer
	*Server
}

// ListEvents implements the contract.
func (s auditService) ListEvents(ctx context.Context, r *registryv1.ListEventsRequest) (*registryv1.ListEventsResponse, error) {
	const method = page.Method("ListEvents")
	var company uuid.UUID
	var before int64
	text, err := method.After(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	if text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, method.Invalid()
		}
	}
	if r.GetCompany() != "" {
		if company, err = s.store.CompanyID(ctx, r.GetCompany()); err != nil {
			return nil, err
		}
	}
	size := method.Size(r.GetPageSize())
	events, err := s.store.ListEvents(ctx, company, r.GetAction(), before, size+1)
	if err != nil {
		return nil, err
	}
	out := &registryv1.ListEventsResponse{}
	out.Events, out.NextPageToken = page.Cut(method, events, size, func(e *registryv1.AuditEvent) string { return strconv.FormatInt(e.GetEventId(), 10) })
	return out, nil
}
