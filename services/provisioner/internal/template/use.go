package template

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

const (
	// useEvery is how often a copy says what templates it clones from.
	useEvery = 15 * time.Second
	// unusedLife is how long a template stays that no copy has said that of: long enough to go back to the program before this one.
	unusedLife = 24 * time.Hour
)

// place is a template on a cluster.
type place struct{ cluster, name string }

// use notes that this copy clones from templates, which is what keeps them.
func (b *Builder) use(ctx context.Context, places ...place) error {
	clusters, names := make([]string, len(places)), make([]string, len(places))
	for i, p := range places {
		clusters[i], names[i] = p.cluster, p.name
	}
	_, err := b.db.Exec(ctx, `INSERT INTO templates (cluster, name, used_at) SELECT c, n, now() FROM unnest($1::text[], $2::text[]) u (c, n) ORDER BY c, n
		ON CONFLICT (cluster, name) DO UPDATE SET used_at = excluded.used_at`, clusters, names)
	if err != nil {
		return fmt.Errorf("note the use of a template: %w", err)
	}
	return nil
}

// keep says of the templates that this copy has found or built that it uses them, until the builder is closed.
func (b *Builder) keep() {
	tick := time.NewTicker(useEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		b.mu.Lock()
		var places []place
		for p := range b.built {
			places = append(places, p)
		}
		b.mu.Unlock()
		if len(places) == 0 {
			continue
		}
		if err := b.use(b.ctx, places...); err != nil && b.ctx.Err() == nil {
			b.log.Warn("the use of templates was not noted", zap.Error(err))
		}
	}
}

// DropUnused drops templates that no copy of the provisioner has used for a day, such as those that an earlier program made
// in its own way. Those of the live releases stay, and so does what is not recorded. A copy that uses one all the same has
// it built again.
func (b *Builder) DropUnused(ctx context.Context, live []string) error {
	names := make([]string, len(live))
	for i, hash := range live {
		names[i] = nameOf(hash)
	}
	rows, err := b.db.Query(ctx, "SELECT cluster, name FROM templates WHERE used_at < now() - $1::interval AND name <> ALL($2) ORDER BY used_at", unusedLife, names)
	if err != nil {
		return err
	}
	unused, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p place, err error) { return p, row.Scan(&p.cluster, &p.name) })
	if err != nil {
		return err
	}
	var problems []error
	for _, p := range unused {
		if err := b.dropUnused(ctx, p); err != nil {
			problems = append(problems, fmt.Errorf("template %s on cluster %s: %w", p.name, p.cluster, err))
		}
	}
	return errors.Join(problems...)
}

// dropUnused drops a template, unless a copy has begun to use it meanwhile. One that begins now waits, and builds it.
func (b *Builder) dropUnused(ctx context.Context, p place) error {
	return pg.Tx(ctx, b.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "DELETE FROM templates WHERE cluster = $1 AND name = $2 AND used_at < now() - $3::interval", p.cluster, p.name, unusedLife)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		err = b.clusters.Exclusive(ctx, p.cluster, p.name, func(conn *pgx.Conn) error {
			for _, database := range []string{p.name, unfinished(p.name)} {
				if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pg.Quote(database)); err != nil {
					return err
				}
			}
			return nil
		})
		if fault.HasReason(err, fault.ClusterNotFound) {
			return nil // The cluster went with all that it held.
		}
		if err == nil {
			b.log.Info("dropped a template that nobody used", zap.String("cluster", p.cluster), zap.String("template", p.name))
		}
		return err
	})
}

// unfinished is the name of a template that is being built.
func unfinished(name string) string { return name + "_unfinished" }
