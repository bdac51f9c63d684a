package store

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// whileInUse runs f on a company that is locked and has a database in use: FAILED_PRECONDITION `COMPANY_STATE_INVALID`.
func (s *Store) whileInUse(ctx context.Context, id uuid.UUID, f func(ctx context.Context, tx pgx.Tx, before *registryv1.Tenant) error) error {
	return pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		// Locked first and read then: the statement that waits for a lock sees the other tables as they were before.
		if _, err := tx.Exec(ctx, "SELECT FROM companies WHERE id = $1 FOR UPDATE", id); err != nil {
			return err
		}
		t, err := scanTenant(tx.QueryRow(ctx, selectTenant+" WHERE c.id = $1", id))
		if none(err) {
			return companyNotFound(id.String())
		}
		if err != nil {
			return err
		}
		if !slices.Contains(inUse, t.GetState()) {
			return fault.New(codes.FailedPrecondition, fault.CompanyStateInvalid, "the company is %s, want one that is in use", stateName(t.GetState())).
				With("state", stateName(t.GetState()))
		}
		return f(ctx, tx, t)
	})
}

// AddPlugin gives a company a plugin; with checkOnly it only tells whether it may have it. One that it has stays.
// NOT_FOUND `PLUGIN_NOT_FOUND`; FAILED_PRECONDITION `PLUGIN_REQUIREMENT_MISSING`, `PLUGIN_UNSUITABLE`.
func (s *Store) AddPlugin(ctx context.Context, actor string, id uuid.UUID, plugin string, checkOnly bool) (*registryv1.Tenant, error) {
	err := s.whileInUse(ctx, id, func(ctx context.Context, tx pgx.Tx, before *registryv1.Tenant) error {
		if slices.Contains(before.GetPlugins(), plugin) {
			return nil
		}
		var usageType string
		if err := tx.QueryRow(ctx, "SELECT coalesce(usage_type, '') FROM companies WHERE id = $1", id).Scan(&usageType); err != nil {
			return err
		}
		if err := checkPlugins(ctx, tx, append([]string{plugin}, before.GetPlugins()...), usageType); err != nil || checkOnly {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO company_plugins (company_id, plugin) VALUES ($1, $2)", id, plugin); err != nil {
			return err
		}
		return appendAudit(ctx, tx, event{actor: actor, action: "plugin.installed", company: id, subject: plugin})
	})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// RemovePlugin takes a plugin from a company; with checkOnly it only tells whether it can do without. NOT_FOUND
// `PLUGIN_NOT_FOUND`; FAILED_PRECONDITION `PLUGIN_REQUIRED`.
func (s *Store) RemovePlugin(ctx context.Context, actor string, id uuid.UUID, plugin string, checkOnly bool) (*registryv1.Tenant, error) {
	err := s.whileInUse(ctx, id, func(ctx context.Context, tx pgx.Tx, before *registryv1.Tenant) error {
		if !slices.Contains(before.GetPlugins(), plugin) {
			return checkPluginExists(ctx, tx, plugin)
		}
		var needs *string
		if err := tx.QueryRow(ctx, "SELECT min(name) FROM plugins WHERE name = ANY($1) AND $2 = ANY(requires)", before.GetPlugins(), plugin).Scan(&needs); err != nil {
			return err
		}
		if needs != nil {
			return fault.New(codes.FailedPrecondition, fault.PluginRequired, "the company's plugin %s needs plugin %s: uninstall it first", *needs, plugin).
				With("plugin", plugin).With("required_by", *needs)
		}
		if checkOnly {
			return nil
		}
		if _, err := tx.Exec(ctx, "DELETE FROM company_plugins WHERE company_id = $1 AND plugin = $2", id, plugin); err != nil {
			return err
		}
		return appendAudit(ctx, tx, event{actor: actor, action: "plugin.uninstalled", company: id, subject: plugin})
	})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}
