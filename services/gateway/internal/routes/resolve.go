package routes

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/cache"
	"github.com/tenantry/tenantry/services/internal/fault"
)

const (
	// askPatience is how long the registry has to answer for a route.
	askPatience = 2 * time.Second
	// answerLife is how long its answer counts. What it says of a company the stream says, too, a moment later.
	answerLife = time.Second
	// answers is how many are remembered at once.
	answers = 10_000
)

// resolver asks the registry for companies that the stream has not told of. However many wait for one, it is asked once.
type resolver struct {
	client registryv1.RouteServiceClient
	asking singleflight.Group
	// recent has no life of its own for its entries: that would take a goroutine.
	recent cache.Cache[string, answer]
}

// answer is a company's route, nil where there is none, as the registry said at a time.
type answer struct {
	route *Route
	at    time.Time
}

func newResolver(client registryv1.RouteServiceClient) *resolver {
	return &resolver{client: client, recent: cache.New[string](cache.Options[answer]{Most: answers})}
}

// answered is what the registry said a moment ago.
func (s *resolver) answered(company string) (*Route, bool) {
	a, ok := s.recent.Get(company)
	return a.route, ok && time.Since(a.at) < answerLife
}

// ask asks for the route of a company that is not here: NOT_FOUND `COMPANY_NOT_FOUND`, or why the registry gave no answer.
func (t *Table) ask(ctx context.Context, c Company) (*Route, error) {
	r, err := t.resolver.resolve(ctx, c.String())
	if err != nil {
		return nil, err
	}
	// What the stream said meanwhile is newer.
	if known, ok := t.Find(c); ok {
		r = known
	}
	if r == nil {
		return nil, unknown()
	}
	return r, nil
}

// resolve returns the registry's route of a company, nil when it has none.
func (s *resolver) resolve(ctx context.Context, company string) (*Route, error) {
	if r, ok := s.answered(company); ok {
		return r, nil
	}
	result := s.asking.DoChan(company, func() (any, error) {
		// Who came just after the answer to another finds it here.
		if r, ok := s.answered(company); ok {
			return r, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askPatience)
		defer cancel()
		out, err := s.client.ResolveRoute(ctx, &registryv1.ResolveRouteRequest{Company: company})
		var r *Route
		switch {
		case err == nil:
			r = routeOf(out.GetRoute())
		case !fault.HasReason(err, fault.CompanyNotFound):
			return nil, err
		}
		s.recent.Set(company, answer{r, time.Now()})
		return r, nil
	})
	select {
	case got := <-result:
		if got.Err != nil {
			return nil, got.Err
		}
		return got.Val.(*Route), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
