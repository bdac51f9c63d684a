package cli

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// fleet calls f with a client of the provisioner, as an operator.
func (a *app) fleet(f func(provisionerv1.FleetServiceClient) error) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	return f(provisionerv1.NewFleetServiceClient(conn))
}

// each shows what a sweep's stream says, and counts the tenants of it that failed.
func each[M any, P interface {
	*M
	proto.Message
}](a *app, stream grpc.ServerStreamingClient[M], err error, failed func(P) bool, line func(P) string) error {
	if err != nil {
		return err
	}
	var total, wrong int32
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		total++
		if failed(m) {
			wrong++
		}
		if a.json {
			err = a.printJSON(P(m))
		} else {
			err = a.printf("%s\n", line(m))
		}
		if err != nil {
			return err
		}
	}
	if wrong > 0 {
		return &tenantsFailedError{failed: wrong, total: total}
	}
	return nil
}

// errorLine tells of a tenant that failed.
func errorLine(slug string, e *provisionerv1.MigrationError) string {
	return "failed  " + slug + "  " + e.GetReason() + ": " + e.GetMessage()
}

// driftCmd is `tenantry drift`.
type driftCmd struct {
	selectorFlags
}

// Help is the long help.
func (driftCmd) Help() string {
	return `Each tenant's tables, functions, views and triggers are compared with what its migrations make, at the version that it is at. The SQL that would mend a difference is shown, and not run. The exit code is 3 when a tenant could not be compared, and 1 when one differs.

Example:

    tenantry drift --company sun-valley`
}

// Run compares.
func (c *driftCmd) Run(ctx context.Context, a *app) error {
	differ := 0
	err := a.fleet(func(client provisionerv1.FleetServiceClient) error {
		stream, err := client.SweepDrift(ctx, &provisionerv1.SweepDriftRequest{Selector: c.selector()})
		return each(a, stream, err, func(m *provisionerv1.SweepDriftResponse) bool {
			if m.GetDrift().GetDrifted() {
				differ++
			}
			return m.GetError() != nil
		}, func(m *provisionerv1.SweepDriftResponse) string {
			switch {
			case m.GetError() != nil:
				return errorLine(m.GetSlug(), m.GetError())
			case m.GetDrift().GetDrifted():
				return "differs  " + m.GetSlug() + "  at " + m.GetDrift().GetSchemaVersion() + "\n  " +
					strings.ReplaceAll(strings.Join(m.GetDrift().GetMendingSql(), "\n"), "\n", "\n  ")
			default:
				return "same  " + m.GetSlug() + "  at " + m.GetDrift().GetSchemaVersion()
			}
		})
	})
	if err == nil && differ > 0 {
		return &findingsError{plural(differ, "tenant differs from its migrations", "tenants differ from their migrations")}
	}
	return err
}

// rotatePasswordsCmd is `tenantry rotate-passwords`.
type rotatePasswordsCmd struct {
	selectorFlags
}

// Help is the long help.
func (rotatePasswordsCmd) Help() string {
	return `Each tenant's role gets the next password that is derived from the master key. Gateways replace their connections, and no call notices. The exit code is 3 when a tenant failed; run it again for those.

Example:

    tenantry rotate-passwords --company sun-valley`
}

// Run rotates.
func (c *rotatePasswordsCmd) Run(ctx context.Context, a *app) error {
	return a.fleet(func(client provisionerv1.FleetServiceClient) error {
		stream, err := client.SweepRotatePasswords(ctx, &provisionerv1.SweepRotatePasswordsRequest{Selector: c.selector()})
		return each(a, stream, err, func(m *provisionerv1.SweepRotatePasswordsResponse) bool { return m.GetError() != nil },
			func(m *provisionerv1.SweepRotatePasswordsResponse) string {
				if m.GetError() != nil {
					return errorLine(m.GetSlug(), m.GetError())
				}
				return "rotated  " + m.GetSlug() + "  password version " + strconv.Itoa(int(m.GetPasswordVersion()))
			})
	})
}

// doctorCmd is `tenantry doctor`.
type doctorCmd struct {
	Mend bool `name:"mend" help:"Mend what is safe to mend."`
}

// Help is the long help.
func (doctorCmd) Help() string {
	return `It looks for companies without a database, databases and roles without a company, versions that disagree and databases that are open to everyone. What may be somebody's only copy of something is told of and left alone. The exit code is 1 when something is left that does not belong together.

Example:

    tenantry doctor
    tenantry doctor --mend`
}

// Run examines.
func (c *doctorCmd) Run(ctx context.Context, a *app) error {
	left := 0
	err := a.fleet(func(client provisionerv1.FleetServiceClient) error {
		stream, err := client.Examine(ctx, &provisionerv1.ExamineRequest{Mend: c.Mend})
		return each(a, stream, err, func(m *provisionerv1.ExamineResponse) bool {
			if !m.GetMended() {
				left++
			}
			return false
		}, func(m *provisionerv1.ExamineResponse) string {
			what := strings.ToLower(strings.ReplaceAll(stateName(m.GetKind(), "AILMENT_KIND_"), "_", " "))
			switch {
			case m.GetMended():
				what = "mended: " + what
			case m.GetMendable():
				what += " (--mend mends it)"
			}
			return what + "  " + m.GetCluster() + "  " + m.GetSubject() + "  " + m.GetMessage()
		})
	})
	switch {
	case err != nil:
		return err
	case left > 0:
		return &findingsError{plural(left, "thing does not belong together", "things do not belong together")}
	case !a.json:
		return a.printf("all belongs together\n")
	}
	return nil
}

// pluginCmd is `tenantry plugin`.
type pluginCmd struct {
	List      pluginListCmd      `cmd:"" help:"List the catalogue, or a company's plugins."`
	Install   pluginInstallCmd   `cmd:"" help:"Give tenants a plugin, and make its tables."`
	Uninstall pluginUninstallCmd `cmd:"" help:"Take a plugin from tenants; its data stays unless it is purged."`
}

// pluginListCmd is `tenantry plugin list`.
type pluginListCmd struct {
	Company string `name:"company" placeholder:"COMPANY" help:"Only the plugins that this company has."`
}

// Help is the long help.
func (pluginListCmd) Help() string {
	return "Example:\n\n    tenantry plugin list\n    tenantry plugin list --company sun-valley"
}

// Run lists.
func (c *pluginListCmd) Run(ctx context.Context, a *app) error {
	conn, err := a.connect(registryAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	client := registryv1.NewPluginServiceClient(conn)
	var plugins []*registryv1.Plugin
	if c.Company != "" {
		out, err := client.ListCompanyPlugins(ctx, &registryv1.ListCompanyPluginsRequest{Company: c.Company})
		if err != nil {
			return err
		}
		plugins = out.GetPlugins()
	} else {
		out, err := client.ListPlugins(ctx, &registryv1.ListPluginsRequest{})
		if err != nil {
			return err
		}
		plugins = out.GetPlugins()
	}
	var rows [][]string
	for _, p := range plugins {
		if a.json {
			if err := a.printJSON(p); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{p.GetName(), p.GetTitle(), p.GetKind(), strings.Join(p.GetUsageTypes(), " "), strings.Join(p.GetRequires(), " "), p.GetDescription()})
	}
	if a.json {
		return nil
	}
	return a.printTable([]string{"plugin", "title", "kind", "suits", "needs", "what it does"}, rows)
}

// pluginInstallCmd is `tenantry plugin install`.
type pluginInstallCmd struct {
	Plugin string `arg:"" help:"Name of the plugin."`
	selectorFlags
	All bool `name:"all" help:"Every tenant."`
}

// Help is the long help.
func (pluginInstallCmd) Help() string {
	return "Example:\n\n    tenantry plugin install spark-meter --company sun-valley"
}

// chosen refuses a sweep over everybody that was not asked for.
func chosen(f selectorFlags, all bool) error {
	if !all && len(f.Company) == 0 && f.Cluster == "" && f.Behind == "" {
		return usagef("Name some with --company, --cluster or --behind, or say --all.", "no tenants are chosen")
	}
	return nil
}

// Run installs.
func (c *pluginInstallCmd) Run(ctx context.Context, a *app) error {
	if err := chosen(c.selectorFlags, c.All); err != nil {
		return err
	}
	return a.fleet(func(client provisionerv1.FleetServiceClient) error {
		stream, err := client.SweepInstallPlugin(ctx, &provisionerv1.SweepInstallPluginRequest{Selector: c.selector(), Plugin: c.Plugin})
		return each(a, stream, err, func(m *provisionerv1.SweepInstallPluginResponse) bool { return m.GetError() != nil },
			func(m *provisionerv1.SweepInstallPluginResponse) string {
				if m.GetError() != nil {
					return errorLine(m.GetSlug(), m.GetError())
				}
				return "installed  " + m.GetSlug() + "  " + plural(len(m.GetApplied()), "file applied", "files applied")
			})
	})
}

// pluginUninstallCmd is `tenantry plugin uninstall`.
type pluginUninstallCmd struct {
	Plugin string `arg:"" help:"Name of the plugin."`
	selectorFlags
	All   bool `name:"all" help:"Every tenant."`
	Purge bool `name:"purge" help:"Drop the plugin's tables and what is in them."`
}

// Help is the long help.
func (pluginUninstallCmd) Help() string {
	return "Example:\n\n    tenantry plugin uninstall spark-meter --company sun-valley"
}

// Run uninstalls.
func (c *pluginUninstallCmd) Run(ctx context.Context, a *app) error {
	if err := chosen(c.selectorFlags, c.All); err != nil {
		return err
	}
	return a.fleet(func(client provisionerv1.FleetServiceClient) error {
		stream, err := client.SweepUninstallPlugin(ctx, &provisionerv1.SweepUninstallPluginRequest{Selector: c.selector(), Plugin: c.Plugin, Purge: c.Purge})
		return each(a, stream, err, func(m *provisionerv1.SweepUninstallPluginResponse) bool { return m.GetError() != nil },
			func(m *provisionerv1.SweepUninstallPluginResponse) string {
				if m.GetError() != nil {
					return errorLine(m.GetSlug(), m.GetError())
				}
				return "uninstalled  " + m.GetSlug()
			})
	})
}
