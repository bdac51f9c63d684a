// Package observe tells metrics what the provisioner's database says of work under way. Every copy tells the same, as they
// share that database: take the greatest, not the sum.
package observe

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenantry/tenantry/services/internal/metrics"
)

// Register adds the gauges.
func Register(m *metrics.Metrics, db *pgxpool.Pool) {
	for _, g := range []struct {
		name, help string
		labels     []string
		sql        string
	}{
		{"provisioner_spares", "Spare databases, by cluster: ready ones, and those in the making.", []string{"cluster", "state"},
			"SELECT count(*), cluster, CASE WHEN ready THEN 'ready' ELSE 'making' END FROM spares GROUP BY 2, 3"},
		{"provisioner_signups", "Signups that are not done: working ones, and those whose copy died and that nobody took over yet.", []string{"state"},
			`SELECT count(a.request_id), s.state FROM (VALUES ('working', true), ('left', false)) s (state, held)
				LEFT JOIN attempts a ON (a.lease_until >= now()) = s.held GROUP BY 2`},
		{"provisioner_rollouts", "Rollouts there ever were, by state.", []string{"state"},
			"SELECT count(*), lower(state) FROM rollouts GROUP BY 2"},
		{"provisioner_rollout_tenants", "Tenants of the rollout that is RUNNING or PAUSED, by state; missing when there is none.", []string{"state"},
			`SELECT v.n, v.state FROM rollouts r, LATERAL (VALUES (total - running - succeeded - failed - skipped, 'pending'), (running, 'running'),
				(succeeded, 'succeeded'), (failed, 'failed'), (skipped, 'skipped')) v (n, state) WHERE r.state IN ('RUNNING', 'PAUSED')`},
		{"provisioner_deletions", "Databases that wait for the end of their retention or of a restore, to be dropped.", nil, "SELECT count(*) FROM condemned"},
	} {
		m.Gauge(g.name, g.help, g.labels, func(ctx context.Context) ([]metrics.Sample, error) {
			rows, err := db.Query(ctx, g.sql)
			if err != nil {
				return nil, err
			}
			return pgx.CollectRows(rows, func(row pgx.CollectableRow) (metrics.Sample, error) {
				s := metrics.Sample{Labels: make([]string, len(g.labels))}
				var count int64
				into := []any{&count}
				for i := range s.Labels {
					into = append(into, &s.Labels[i])
				}
				err := row.Scan(into...)
				s.Value = float64(count)
				return s, err
			})
		})
	}
}
