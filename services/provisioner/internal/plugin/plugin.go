// Package plugin gives tenants plugins and takes them away: the company's right to one is the registry's, its tables are
// made here by the plugin's migration set, and dropped only when somebody says so.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

// Manager installs and uninstalls plugins.
type Manager struct {
	clusters *cluster.Set
	tenants  registryv1.TenantServiceClient
}

// NewManager returns a manager.
func NewManager(clusters *cluster.Set, tenants registryv1.TenantServiceClient) *Manager {
	return &Manager{clusters, tenants}
}

// Install applies a plugin's set of a release to a tenant, with the sets of its other plugins, then gives the company the
// plugin. It may be repeated. Errors are the registry's AddPlugin's and schema.Bring's.
func (m *Manager) Install(ctx context.Context, t *registryv1.Tenant, plugin string, r *release.Release, actor string) (results []schema.SetResult, err error) {
	request := &registryv1.AddPluginRequest{CompanyId: t.GetCompanyId(), Plugin: plugin, Actor: actor, CheckOnly: true}
	if _, err := m.tenants.AddPlugin(ctx, request); err != nil {
		return nil, err
	}
	err = m.connected(ctx, t, func(conn *pgx.Conn) error {
		results, err = schema.Plugins(ctx, conn, r, []string{plugin}, schema.Options{})
		return err
	})
	if err != nil {
		return results, err
	}
	request.CheckOnly = false
	_, err = m.tenants.AddPlugin(ctx, request)
	return results, err
}

// Uninstall takes a plugin from a company, and with purge drops what its migrations made and its history. It may be
// repeated, also to purge what was kept. Errors are the registry's RemovePlugin's, and FAILED_PRECONDITION
// `MIGRATION_FAILED` when something else in the database needs what would be dropped; then nothing is.
func (m *Manager) Uninstall(ctx context.Context, t *registryv1.Tenant, plugin string, r *release.Release, purge bool, actor string) error {
	if _, err := m.tenants.RemovePlugin(ctx, &registryv1.RemovePluginRequest{CompanyId: t.GetCompanyId(), Plugin: plugin, Actor: actor}); err != nil {
		return err
	}
	set, ok := r.Tree.Plugins[plugin]
	if !purge || !ok {
		return nil
	}
	made, err := m.madeBy(ctx, t.GetCluster(), r, set)
	if err != nil {
		return fmt.Errorf("find out what plugin %s made: %w", plugin, err)
	}
	return m.connected(ctx, t, func(conn *pgx.Conn) error { return drop(ctx, conn, plugin, made) })
}

func (m *Manager) connected(ctx context.Context, t *registryv1.Tenant, f func(conn *pgx.Conn) error) (err error) {
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return err
	}
	conn, err := m.clusters.Connect(ctx, t.GetCluster(), tenant.DatabaseName(database))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return f(conn)
}

// object is something in a database, as pg_identify_object has it.
type object struct{ kind, identity string }

// objects lists what migrations make and what does not go with something else: it leaves out what is internal, what
// belongs to an extension, and what PostgreSQL drops with its table.
const objects = `
WITH made AS (
	SELECT 'pg_class'::regclass AS class, c.oid, 0 AS sub FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'i') AND c.relpersistence <> 't' AND NOT c.relispartition AND n.nspname !~ '^(pg_|information_schema$|atlas_)'
	UNION ALL SELECT 'pg_class'::regclass, a.attrelid, a.attnum FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname !~ '^(pg_|information_schema$|atlas_)'
	UNION ALL SELECT 'pg_constraint'::regclass, k.oid, 0 FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
		WHERE k.conrelid <> 0 AND n.nspname !~ '^(pg_|information_schema$|atlas_)'
	UNION ALL SELECT 'pg_trigger'::regclass, g.oid, 0 FROM pg_trigger g WHERE NOT g.tgisinternal
	UNION ALL SELECT 'pg_proc'::regclass, p.oid, 0 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^(pg_|information_schema$)'
	UNION ALL SELECT 'pg_type'::regclass, t.oid, 0 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
		WHERE t.typtype IN ('e', 'd', 'r') AND n.nspname !~ '^(pg_|information_schema$|atlas_)'
	UNION ALL SELECT 'pg_namespace'::regclass, oid, 0 FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|atlas_)'
)
SELECT i.type, i.identity FROM made, pg_identify_object(class, oid, sub) i
	WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = class AND d.objid = oid AND d.deptype = 'e')`

func list(ctx context.Context, conn *pgx.Conn) ([]object, error) {
	rows, err := conn.Query(ctx, objects)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (o object, err error) { return o, row.Scan(&o.kind, &o.identity) })
}

// madeBy replays the core set and then a plugin's in a scratch database, and returns what the latter made.
func (m *Manager) madeBy(ctx context.Context, clusterName string, r *release.Release, set *migrate.Set) (made []object, err error) {
	dsn, dropScratch, err := m.clusters.Scratch(clusterName).Database(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dropScratch()) }()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := migrate.Apply(ctx, conn, r.Tree.Core, migrate.Options{}); err != nil {
		return nil, err
	}
	before, err := list(ctx, conn)
	if err != nil {
		return nil, err
	}
	if _, err := migrate.Apply(ctx, conn, set, migrate.Options{RevisionsSchema: migrate.Revisions("scratch")}); err != nil {
		return nil, err
	}
	after, err := list(ctx, conn)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(after, func(o object) bool { return slices.Contains(before, o) }), nil
}

// drop drops what is there of some objects, and the plugin's history, all or nothing. Nothing that a plugin did not make
// goes with them.
func drop(ctx context.Context, conn *pgx.Conn, plugin string, made []object) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// The tables may come back with the plugin, and then have to be made anew.
		if err := schema.Unmark(ctx, conn); err != nil {
			return err
		}
		for _, sql := range dropStatements(made) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fault.New(codes.FailedPrecondition, fault.MigrationFailed, "plugin %s cannot be purged: %v", plugin, err).
					With("set", migrate.PluginsPrefix+plugin).With("statement", sql).With("sqlstate", pg.Code(err)).Because(err)
			}
		}
		_, err := tx.Exec(ctx, "DROP SCHEMA IF EXISTS "+pg.Quote(migrate.Revisions(plugin))+" CASCADE")
		return err
	})
}

// dropStatements drop objects in an order in which none needs another: what hangs on tables that stay, then views, all
// tables in one statement since they may refer to each other, then the rest.
func dropStatements(made []object) []string {
	of := func(kinds ...string) (out []string) {
		for _, o := range made {
			if slices.Contains(kinds, o.kind) {
				out = append(out, o.identity)
			}
		}
		return out
	}
	tables := of("table")
	// onTable tells whether something hangs on a table that goes anyway.
	onTable := func(table string) bool { return slices.Contains(tables, table) }
	var out []string
	for _, kind := range []string{"trigger", "table constraint"} {
		for _, identity := range of(kind) {
			name, table, _ := strings.Cut(identity, " on ")
			switch {
			case onTable(table):
			case kind == "trigger":
				out = append(out, "DROP TRIGGER IF EXISTS "+identity)
			default:
				out = append(out, "ALTER TABLE IF EXISTS "+table+" DROP CONSTRAINT IF EXISTS "+name)
			}
		}
	}
	if views := of("view"); len(views) > 0 {
		out = append(out, "DROP VIEW IF EXISTS "+strings.Join(views, ", "))
	}
	if views := of("materialized view"); len(views) > 0 {
		out = append(out, "DROP MATERIALIZED VIEW IF EXISTS "+strings.Join(views, ", "))
	}
	if len(tables) > 0 {
		out = append(out, "DROP TABLE IF EXISTS "+strings.Join(tables, ", "))
	}
	for _, identity := range of("table column") {
		dot := strings.LastIndex(identity, ".")
		if table := identity[:dot]; !onTable(table) {
			out = append(out, "ALTER TABLE IF EXISTS "+table+" DROP COLUMN IF EXISTS "+identity[dot+1:])
		}
	}
	for _, kind := range []string{"index", "sequence", "function", "procedure", "aggregate", "type", "domain", "schema"} {
		for _, identity := range of(kind) {
			out = append(out, "DROP "+strings.ToUpper(kind)+" IF EXISTS "+identity)
		}
	}
	return out
}
