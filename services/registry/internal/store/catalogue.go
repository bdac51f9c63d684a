package store

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// usageSeparator joins usage types to their combinations.
const usageSeparator = "+"

func scanPlugins(rows pgx.Rows, err error) ([]*registryv1.Plugin, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.Plugin, error) {
		p := &registryv1.Plugin{}
		return p, row.Scan(&p.Name, &p.Title, &p.Description, &p.Kind, &p.UsageTypes, &p.Requires)
	})
}

const selectPlugin = "SELECT p.name, p.title, p.description, p.kind, p.usage_types, p.requires FROM plugins p"

// ListPlugins returns the catalogue by name, or what suits a usage type: NOT_FOUND `USAGE_TYPE_NOT_FOUND`.
func (s *Store) ListPlugins(ctx context.Context, usageType string) ([]*registryv1.Plugin, error) {
	if err := checkUsageType(ctx, s.pool, usageType); err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, selectPlugin+" ORDER BY p.name")
	plugins, err := scanPlugins(rows, err)
	return slices.DeleteFunc(plugins, func(p *registryv1.Plugin) bool { return !suits(p, usageType) }), err
}

// CompanyPlugins returns a company's plugins by name.
func (s *Store) CompanyPlugins(ctx context.Context, company uuid.UUID) ([]*registryv1.Plugin, error) {
	rows, err := s.pool.Query(ctx, selectPlugin+" JOIN company_plugins c ON c.plugin = p.name WHERE c.company_id = $1 ORDER BY p.name", company)
	return scanPlugins(rows, err)
}

// ListUsageTypes returns the usage types by name.
func (s *Store) ListUsageTypes(ctx context.Context) ([]*registryv1.UsageType, error) {
	rows, err := s.pool.Query(ctx, "SELECT name, title FROM usage_types ORDER BY name")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.UsageType, error) {
		u := &registryv1.UsageType{}
		return u, row.Scan(&u.Name, &u.Title)
	})
}

func checkUsageType(ctx context.Context, db querier, name string) error {
	if name == "" {
		return nil
	}
	var exists bool
	if err := db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM usage_types WHERE name = $1)", name).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		return fault.New(codes.NotFound, fault.UsageTypeNotFound, "there is no usage type %q; PluginService.ListUsageTypes tells them", name).With("usage_type", name)
	}
	return nil
}

// checkPlugins checks that plugins exist, suit the usage type, and have what they need among themselves.
func checkPlugins(ctx context.Context, db querier, names []string, usageType string) error {
	if len(names) == 0 {
		return nil
	}
	rows, err := db.Query(ctx, selectPlugin+" WHERE p.name = ANY($1)", names)
	found, err := scanPlugins(rows, err)
	if err != nil {
		return err
	}
	for _, name := range names {
		i := slices.IndexFunc(found, func(p *registryv1.Plugin) bool { return p.GetName() == name })
		if i < 0 {
			return pluginNotFound(name)
		}
		if !suits(found[i], usageType) {
			return fault.New(codes.FailedPrecondition, fault.PluginUnsuitable, "plugin %s suits %s, and the company chose %s", name,
				strings.Join(found[i].GetUsageTypes(), " and "), usageType).With("plugin", name)
		}
		for _, needed := range found[i].GetRequires() {
			if !slices.Contains(names, needed) {
				return fault.New(codes.FailedPrecondition, fault.PluginRequirementMissing, "plugin %s needs plugin %s", name, needed).
					With("plugin", name).With("requires", needed)
			}
		}
	}
	return nil
}

func checkPluginExists(ctx context.Context, db querier, name string) error {
	var exists bool
	if err := db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM plugins WHERE name = $1)", name).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		return pluginNotFound(name)
	}
	return nil
}

func pluginNotFound(name string) error {
	return fault.New(codes.NotFound, fault.PluginNotFound, "there is no plugin %q; PluginService.ListPlugins tells them", name).With("plugin", name)
}

// suits tells whether a plugin suits a usage type: it names none, or one of those that the type combines. A company that
// said nothing may choose any.
func suits(p *registryv1.Plugin, usageType string) bool {
	return usageType == "" || len(p.GetUsageTypes()) == 0 || slices.ContainsFunc(strings.Split(usageType, usageSeparator), func(one string) bool {
		return slices.Contains(p.GetUsageTypes(), one)
	})
}
