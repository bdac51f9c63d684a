package cli

import (
	"context"
	"time"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

// migrateTenantCmd is `tenantry migrate-tenant`.
type migrateTenantCmd struct {
	Company string `arg:"" help:"Id or slug."`
	Force   bool   `name:"force" help:"Let migrations pass that the lint gate would stop as destructive. Never skips a checksum."`
	DryRun  bool   `name:"dry-run" help:"Only tell what would be applied."`
	Pause   bool   `name:"pause" help:"Hold the company's calls at the gateways while its database changes."`
	To      string `name:"to" placeholder:"VERSION" help:"Version of the core set to stop at. Default: the newest, and the plugins' sets too."`
}

// Help is the long help.
func (migrateTenantCmd) Help() string {
	return `It always names one company: to migrate all, say "tenantry migrate".

Example:

    tenantry migrate-tenant sun-valley --dry-run
    tenantry migrate-tenant sun-valley`
}

// Run migrates.
func (c *migrateTenantCmd) Run(ctx context.Context, a *app) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	got, err := provisionerv1.NewProvisionerServiceClient(conn).MigrateTenant(ctx, &provisionerv1.MigrateTenantRequest{
		Company: c.Company, Force: c.Force, DryRun: c.DryRun, ToVersion: c.To, Pause: c.Pause,
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(got)
	}
	return c.print(a, got)
}

func (c *migrateTenantCmd) print(a *app, got *provisionerv1.MigrateTenantResponse) error {
	for _, w := range got.GetWarnings() {
		a.notef("warning: %s", w)
	}
	for _, m := range got.GetApplied() {
		took := m.GetDuration().AsDuration().Round(time.Millisecond)
		if err := a.printf("applied  %s  %s %s  %s\n", m.GetSet(), m.GetVersion(), m.GetDescription(), took); err != nil {
			return err
		}
	}
	for _, m := range got.GetPending() {
		if err := a.printf("pending  %s  %s %s\n", m.GetSet(), m.GetVersion(), m.GetDescription()); err != nil {
			return err
		}
	}
	step := versionStep(got.GetFromVersion(), got.GetToVersion())
	if c.DryRun {
		return a.printf("%s: %s; nothing was done (--dry-run)\n", c.Company, step)
	}
	return a.printf("%s: %s\n", c.Company, step)
}
