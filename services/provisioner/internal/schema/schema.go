// Package schema brings one tenant's database to a release: the core set, and the set of each plugin that the tenant has,
// each with a history of its own that the tenant cannot see.
package schema

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
)

// Options say how.
type Options struct {
	// ToVersion stops the core set there and leaves the plugins' alone; empty means all of both.
	ToVersion string
	// DryRun changes nothing.
	DryRun bool
	// LockTimeout and StatementTimeout are migrate.Options'.
	LockTimeout, StatementTimeout time.Duration
}

// SetResult is what was done of one set.
type SetResult struct {
	// Set is its name.
	Set string
	migrate.Result
}

// Bring applies what is left of a release to the database that conn is connected to, as its cluster's administrator. The
// core set's result is the first. When a set fails, the results are those up to it, and the error is that of
// migrate.Apply.
func Bring(ctx context.Context, conn *pgx.Conn, r *release.Release, plugins []string, opts Options) ([]SetResult, error) {
	options := migrate.Options{ToVersion: opts.ToVersion, DryRun: opts.DryRun, LockTimeout: opts.LockTimeout, StatementTimeout: opts.StatementTimeout}
	core, err := migrate.Apply(ctx, conn, r.Tree.Core, options)
	results := []SetResult{{migrate.CoreName, core}}
	if err != nil || opts.ToVersion != "" {
		return results, err
	}
	if !opts.DryRun && core.From == "" && len(core.Applied) > 0 {
		if err := hide(ctx, conn, migrate.DefaultRevisionsSchema); err != nil {
			return results, err
		}
	}
	more, err := Plugins(ctx, conn, r, plugins, opts)
	return append(results, more...), err
}

// Plugins applies what is left of plugins' sets, as Bring does.
func Plugins(ctx context.Context, conn *pgx.Conn, r *release.Release, plugins []string, opts Options) (results []SetResult, err error) {
	for _, name := range slices.Sorted(slices.Values(plugins)) {
		set, ok := r.Tree.Plugins[name]
		if !ok {
			continue // A plugin without tables.
		}
		result, err := migrate.Apply(ctx, conn, set, migrate.Options{RevisionsSchema: migrate.Revisions(name), DryRun: opts.DryRun,
			LockTimeout: opts.LockTimeout, StatementTimeout: opts.StatementTimeout})
		results = append(results, SetResult{set.Name(), result})
		if err != nil {
			return results, err
		}
		if !opts.DryRun && result.From == "" && len(result.Applied) > 0 {
			if err := hide(ctx, conn, migrate.Revisions(name)); err != nil {
				return results, err
			}
		}
	}
	return results, nil
}

// hide takes the rights on a new history that tenants' group got by default.
func hide(ctx context.Context, conn *pgx.Conn, schema string) error {
	name := pg.Quote(schema)
	_, err := conn.Exec(ctx, fmt.Sprintf("REVOKE ALL ON SCHEMA %s FROM PUBLIC, %s; REVOKE ALL ON ALL TABLES IN SCHEMA %s FROM PUBLIC, %s",
		name, cluster.TenantGroup, name, cluster.TenantGroup), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("close schema %s: %w", schema, err)
	}
	return nil
}
