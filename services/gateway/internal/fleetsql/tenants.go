package fleetsql

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// tenant is one that was selected; closed is why it cannot be read.
type tenant struct {
	route  *routes.Route
	closed error
}

// pick finds the tenants that a selector means, by slug. A name that means nothing is an error of the whole: with a typing
// mistake nothing should run.
func (s *Service) pick(ctx context.Context, sel *gatewayv1.FleetSelector) ([]tenant, error) {
	select {
	case <-s.routes.Ready():
	default:
		return nil, fault.New(codes.Unavailable, fault.CompanyNotReady, "this gateway does not know the companies yet").RetryIn(time.Second)
	}
	if name := sel.GetCluster(); name != "" {
		if _, ok := s.routes.Cluster(name); !ok {
			return nil, fault.New(codes.NotFound, fault.ClusterNotFound, "there is no cluster %q", name).With("cluster", name)
		}
	}
	var picked []tenant
	var err error
	if len(sel.GetCompanies()) > 0 {
		picked, err = s.named(ctx, sel)
	} else {
		s.routes.Each(func(r *routes.Route) bool {
			if r.State == registryv1.CompanyState_COMPANY_STATE_ACTIVE && on(r, sel) {
				picked = append(picked, tenant{route: r})
			}
			return true
		})
	}
	slices.SortFunc(picked, func(a, b tenant) int { return cmp.Compare(a.route.Slug, b.route.Slug) })
	return picked, err
}

func on(r *routes.Route, sel *gatewayv1.FleetSelector) bool {
	return sel.GetCluster() == "" || sel.GetCluster() == r.Cluster
}

func (s *Service) named(ctx context.Context, sel *gatewayv1.FleetSelector) ([]tenant, error) {
	var picked []tenant
	seen := map[uuid.UUID]bool{}
	for _, name := range sel.GetCompanies() {
		company := routes.Named(name)
		r, closed := s.routes.Open(ctx, company)
		if closed != nil {
			var known bool
			if r, known = s.routes.Find(company); !known {
				return nil, fault.New(codes.NotFound, fault.CompanyNotFound, "there is no company %q", name).With("company", name)
			}
		}
		if !seen[r.CompanyID] && on(r, sel) {
			picked = append(picked, tenant{route: r, closed: closed})
		}
		seen[r.CompanyID] = true
	}
	return picked, nil
}
