// Package drift compares tenants' schemas with those that their migrations make: tables by Atlas's inspection and diff,
// and functions, triggers and views, which the open Atlas CLI does not look at, by their definitions. It changes nothing.
package drift

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
)

// Checker compares tenants of one sweep. It keeps one database for each set of versions that tenants are at; Close drops
// them. It is for one goroutine.
type Checker struct {
	clusters *cluster.Set
	atlas    *atlascli.CLI
	releases []*release.Release
	models   map[string]model
}

// model is a database with what migrations make at some versions.
type model struct {
	dsn  string
	drop func() error
}

// NewChecker returns a checker that knows the versions of some releases, the first of choice.
func NewChecker(clusters *cluster.Set, atlas *atlascli.CLI, releases ...*release.Release) *Checker {
	return &Checker{clusters: clusters, atlas: atlas, releases: releases, models: map[string]model{}}
}

// Close drops the databases that were made to compare with.
func (c *Checker) Close() error {
	var problems []error
	for _, m := range c.models {
		problems = append(problems, m.drop())
	}
	return errors.Join(problems...)
}

// Result is what was found of a tenant.
type Result struct {
	// Version is that of the core set.
	Version string
	// Mending is the SQL that would bring the tenant to what its migrations make, a statement each; none when it is that.
	Mending []string
}

// Check compares a tenant. FAILED_PRECONDITION `VERSION_NOT_FOUND` when no known release has its version.
func (c *Checker) Check(ctx context.Context, t *registryv1.Tenant) (result Result, err error) {
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return result, err
	}
	name := tenant.DatabaseName(database)
	conn, err := c.clusters.Connect(ctx, t.GetCluster(), name)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	r, versions, err := c.versions(ctx, conn)
	if err != nil {
		return result, err
	}
	result.Version = versions[migrate.CoreName]
	m, err := c.model(ctx, t.GetCluster(), r, versions)
	if err != nil {
		return result, err
	}
	dsn, err := c.clusters.DSN(t.GetCluster(), name)
	if err != nil {
		return result, err
	}
	sql, err := c.atlas.Diff(ctx, dsn, m.dsn, migrate.DefaultRevisionsSchema, "atlas_plugin_*")
	if err != nil {
		return result, err
	}
	if result.Mending, err = migrate.Statements(sql); err != nil {
		return result, err
	}
	more, err := c.routines(ctx, conn, m)
	result.Mending = append(result.Mending, more...)
	return result, err
}

// versions are where each set stands that the database has a history of, and a release that has them.
func (c *Checker) versions(ctx context.Context, conn *pgx.Conn) (*release.Release, map[string]string, error) {
	var core string
	for _, r := range c.releases {
		status, err := migrate.Status(ctx, conn, r.Tree.Core, "")
		if err != nil {
			if fault.HasReason(err, fault.HistoryNotLinear) || fault.HasReason(err, fault.ChecksumMismatch) {
				continue
			}
			return nil, nil, err
		}
		if core = status.From; core != "" && !r.Tree.Core.Has(core) {
			continue
		}
		versions := map[string]string{migrate.CoreName: core}
		for name, set := range r.Tree.Plugins {
			status, err := migrate.Status(ctx, conn, set, migrate.Revisions(name))
			if err != nil {
				return nil, nil, err
			}
			if status.From != "" && set.Has(status.From) {
				versions[set.Name()] = status.From
			}
		}
		return r, versions, nil
	}
	return nil, nil, fault.New(codes.FailedPrecondition, fault.VersionNotFound, "no release that is known here made the tenant's core set, which is at version %q", core).With("version", core)
}

// model makes the database to compare with, once.
func (c *Checker) model(ctx context.Context, clusterName string, r *release.Release, versions map[string]string) (m model, err error) {
	key := clusterName
	names := slices.Sorted(maps.Keys(versions))
	for _, name := range names {
		key += " " + name + "@" + versions[name]
	}
	if m, ok := c.models[key]; ok {
		return m, nil
	}
	if m.dsn, m.drop, err = c.clusters.Scratch(clusterName).Database(ctx); err != nil {
		return m, err
	}
	c.models[key] = m
	conn, err := pgx.Connect(ctx, m.dsn)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	for _, name := range names { // core comes before plugins/…
		set, revisions := r.Tree.Core, ""
		if plugin, ok := strings.CutPrefix(name, migrate.PluginsPrefix); ok {
			set, revisions = r.Tree.Plugins[plugin], migrate.Revisions(plugin)
		}
		if versions[name] == "" {
			continue
		}
		if _, err := migrate.Apply(ctx, conn, set, migrate.Options{ToVersion: versions[name], RevisionsSchema: revisions}); err != nil {
			return m, fmt.Errorf("make a database to compare with: %w", err)
		}
	}
	return m, nil
}

// definitions are functions, triggers and views, each with the SQL that makes it anew and the SQL that drops it.
const definitions = `
SELECT 1, 'DROP ' || CASE p.prokind WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END || p.oid::regprocedure, pg_get_functiondef(p.oid)
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE p.prokind IN ('f', 'p') AND n.nspname !~ '^(pg_|information_schema$)' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL SELECT 2, 'DROP ' || CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW ' ELSE 'VIEW ' END || format('%I.%I', n.nspname, c.relname),
	CASE c.relkind WHEN 'm' THEN 'CREATE MATERIALIZED VIEW ' ELSE 'CREATE OR REPLACE VIEW ' END || format('%I.%I', n.nspname, c.relname) || ' AS ' || pg_get_viewdef(c.oid)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^(pg_|information_schema$)' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
UNION ALL SELECT 3, 'DROP TRIGGER ' || quote_ident(g.tgname) || ' ON ' || g.tgrelid::regclass, regexp_replace(pg_get_triggerdef(g.oid), '^CREATE (CONSTRAINT )?TRIGGER',
	CASE WHEN g.tgconstraint = 0 THEN 'CREATE OR REPLACE TRIGGER' ELSE 'CREATE CONSTRAINT TRIGGER' END)
	FROM pg_trigger g WHERE NOT g.tgisinternal`

type definition struct {
	order      int
	drop, make string
}

func define(ctx context.Context, conn *pgx.Conn) (map[string]definition, error) {
	rows, err := conn.Query(ctx, definitions)
	if err != nil {
		return nil, err
	}
	out := map[string]definition{}
	var d definition
	_, err = pgx.ForEachRow(rows, []any{&d.order, &d.drop, &d.make}, func() error {
		d.make = strings.TrimRight(strings.TrimSpace(d.make), ";")
		out[d.drop] = d
		return nil
	})
	return out, err
}

// routines returns the SQL that brings functions, views and triggers to the model's.
func (c *Checker) routines(ctx context.Context, conn *pgx.Conn, m model) (mending []string, err error) {
	other, err := pgx.Connect(ctx, m.dsn)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, other.Close(context.WithoutCancel(ctx))) }()
	have, err := define(ctx, conn)
	if err != nil {
		return nil, err
	}
	want, err := define(ctx, other)
	if err != nil {
		return nil, err
	}
	return compare(have, want), nil
}

// compare drops what is too much, triggers first, and then makes what is missing or differs, functions first.
func compare(have, want map[string]definition) []string {
	var drop, add []definition
	for key, d := range have {
		if w, ok := want[key]; !ok || d.make != w.make && strings.HasPrefix(d.make, "CREATE MATERIALIZED") {
			drop = append(drop, d)
		}
	}
	for key, w := range want {
		if d, ok := have[key]; !ok || d.make != w.make {
			add = append(add, w)
		}
	}
	slices.SortFunc(drop, func(a, b definition) int {
		return strings.Compare(fmt.Sprint(9-a.order, a.drop), fmt.Sprint(9-b.order, b.drop))
	})
	slices.SortFunc(add, func(a, b definition) int {
		return strings.Compare(fmt.Sprint(a.order, a.drop), fmt.Sprint(b.order, b.drop))
	})
	var out []string
	for _, d := range drop {
		out = append(out, d.drop+";")
	}
	for _, d := range add {
		out = append(out, d.make+";")
	}
	return out
}
