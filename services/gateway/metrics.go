package gateway

import (
	"context"
	"time"

	"github.com/tenantry/tenantry/services/gateway/internal/budget"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/gateway/internal/limits"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/metrics"
)

// observe adds what the gateway has to tell.
func (g *Gateway) observe(m *metrics.Metrics) {
	m.Gauge("gateway_routes", "Companies whose route is known.", nil, func(context.Context) ([]metrics.Sample, error) {
		known := 0
		g.routes.Each(func(*routes.Route) bool { known++; return true })
		return []metrics.Sample{{Value: float64(known)}}, nil
	})
	m.Gauge("gateway_routes_age_seconds", "How long ago the registry last said something; missing before it ever did.", nil, func(context.Context) ([]metrics.Sample, error) {
		age := g.routes.Age()
		if age < 0 {
			return nil, nil
		}
		return []metrics.Sample{{Value: age.Seconds()}}, nil
	})
	m.Gauge("gateway_routes_lag", "Changes that the registry had told of when it last said so and that are not known here; missing before it did.", nil, func(context.Context) ([]metrics.Sample, error) {
		lag := g.routes.Lag()
		if lag < 0 {
			return nil, nil
		}
		return []metrics.Sample{{Value: float64(lag)}}, nil
	})
	m.Gauge("gateway_routes_from_snapshot", "1 while the routes are those of the snapshot on disk, until the registry has brought them up to date.", nil, func(context.Context) ([]metrics.Sample, error) {
		return one(g.routes.Restored()), nil
	})
	m.Gauge("gateway_route_snapshot_age_seconds", "How long ago the snapshot on disk was written; missing where there is none.", nil, func(context.Context) ([]metrics.Sample, error) {
		if g.keeper == nil || g.keeper.writtenAt.Load() == 0 {
			return nil, nil
		}
		return []metrics.Sample{{Value: time.Since(time.Unix(0, g.keeper.writtenAt.Load())).Seconds()}}, nil
	})
	m.Gauge("gateway_route_snapshot_failing", "1 while the snapshot, or the shares beside it, cannot be written to disk.", nil, func(context.Context) ([]metrics.Sample, error) {
		return one(g.keeper != nil && (g.keeper.failing.Load() || g.keeper.leaseFailing.Load())), nil
	})
	m.Gauge("gateway_held_calls", "Calls that are held because their company is in maintenance, or its schema older than they want.", nil, func(context.Context) ([]metrics.Sample, error) {
		held, _ := g.routes.Held()
		return []metrics.Sample{{Value: float64(held)}}, nil
	})
	m.Gauge("gateway_longest_hold_seconds", "How long a call was held at most since the start.", nil, func(context.Context) ([]metrics.Sample, error) {
		_, longest := g.routes.Held()
		return []metrics.Sample{{Value: longest.Seconds()}}, nil
	})
	m.Gauge("gateway_heartbeat_age_seconds", "How long ago the last heartbeat that the registry answered was sent; missing before there was one.", nil, func(context.Context) ([]metrics.Sample, error) {
		age := g.budget.Age()
		if age < 0 {
			return nil, nil
		}
		return []metrics.Sample{{Value: age.Seconds()}}, nil
	})
	for _, c := range []struct {
		name, help string
		of         func(budget.Share) int
	}{
		{"gateway_connections_share", "Server connections that the registry leased to this copy, by cluster.", func(s budget.Share) int { return s.Share }},
		{"gateway_connections_shared_budget", "Server connections that all copies together may have, by cluster.", func(s budget.Share) int { return s.Budget }},
	} {
		m.Gauge(c.name, c.help, []string{"cluster"}, func(context.Context) ([]metrics.Sample, error) {
			var samples []metrics.Sample
			for name, s := range g.budget.Shares() {
				samples = append(samples, metrics.Sample{Value: float64(c.of(s)), Labels: []string{name}})
			}
			return samples, nil
		})
	}
	for _, c := range []struct {
		name, help string
		of         func(conns.Stats) int
	}{
		{"gateway_connections_budget", "Server connections that this copy may have now, by cluster.", func(s conns.Stats) int { return s.Limit }},
		{"gateway_connections_open", "Server connections that this copy has, by cluster.", func(s conns.Stats) int { return s.Open }},
		{"gateway_connections_used", "Those of the open ones that calls use, or that are being made, cleaned or closed for one, by cluster.", func(s conns.Stats) int { return s.Used }},
		{"gateway_connections_waiting", "Calls that wait for a connection, by cluster.", func(s conns.Stats) int { return s.Waiting }},
	} {
		m.Gauge(c.name, c.help, []string{"cluster"}, func(context.Context) ([]metrics.Sample, error) {
			var samples []metrics.Sample
			for name, s := range g.pools.Stats() {
				samples = append(samples, metrics.Sample{Value: float64(c.of(s)), Labels: []string{name}})
			}
			return samples, nil
		})
	}
	m.Counter("gateway_refusals_total", "Calls that were too many, by limit.", []string{"limit"}, func(context.Context) ([]metrics.Sample, error) {
		r := g.limits.Stats().Refusals
		var samples []metrics.Sample
		for limit, refused := range map[string]uint64{"company": r.Company, "credential": r.Credential, "address": r.Address, "in_flight": r.InFlight, "pacing": r.Pacing} {
			samples = append(samples, metrics.Sample{Value: float64(refused), Labels: []string{limit}})
		}
		return samples, nil
	})
	m.Gauge("gateway_calls_in_flight", "Calls that run; missing where their number is not limited.", nil, func(context.Context) ([]metrics.Sample, error) {
		return g.callsSample(func(s limits.Stats) int { return s.InFlight })
	})
	m.Gauge("gateway_calls_in_flight_limit", "Calls in flight from which calls are shed, which falls under overload; missing where it is not limited.", nil, func(context.Context) ([]metrics.Sample, error) {
		return g.callsSample(func(s limits.Stats) int { return s.Limit })
	})
	m.Gauge("gateway_companies_slowed", "Companies whose calls begin at a rate, because they made most of them while others waited.", nil, func(context.Context) ([]metrics.Sample, error) {
		return []metrics.Sample{{Value: float64(g.limits.Stats().Slowed)}}, nil
	})
	m.Counter("gateway_calls_delayed_total", "Calls that began later because their company was slowed down.", nil, func(context.Context) ([]metrics.Sample, error) {
		return []metrics.Sample{{Value: float64(g.limits.Stats().Delayed)}}, nil
	})
	for _, c := range []struct {
		name, help string
		of         func(forward.Stats) int
	}{
		{"gateway_upstream_calls", "Calls that are under way at an upstream as it is configured now, by upstream.", func(s forward.Stats) int { return s.Calls }},
		{"gateway_upstream_down", "1 where calls are kept from an upstream because it could not be reached, by upstream.", func(s forward.Stats) int { return s.Down }},
	} {
		m.Gauge(c.name, c.help, []string{"upstream"}, func(context.Context) ([]metrics.Sample, error) {
			var samples []metrics.Sample
			for name, s := range g.forward.Stats() {
				samples = append(samples, metrics.Sample{Value: float64(c.of(s)), Labels: []string{name}})
			}
			return samples, nil
		})
	}
}

// one is 1 for what is so, and else 0.
func one(is bool) []metrics.Sample {
	if is {
		return []metrics.Sample{{Value: 1}}
	}
	return []metrics.Sample{{}}
}

// callsSample is one figure of the calls in flight.
func (g *Gateway) callsSample(of func(limits.Stats) int) ([]metrics.Sample, error) {
	s := g.limits.Stats()
	if s.Limit == 0 {
		return nil, nil
	}
	return []metrics.Sample{{Value: float64(of(s))}}, nil
}
