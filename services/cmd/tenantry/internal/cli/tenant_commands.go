package cli

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

// tenantCmd is `tenantry tenant`.
type tenantCmd struct {
	Delete   tenantDeleteCmd   `cmd:"" help:"Close a company, and drop its database after a retention."`
	Undelete tenantUndeleteCmd `cmd:"" help:"Open a company again that is being deleted."`
	Backup   tenantBackupCmd   `cmd:"" help:"Copy a tenant's database into a file."`
	Restore  tenantRestoreCmd  `cmd:"" help:"Give a company a copy in the place of its database."`
	Clone    tenantCloneCmd    `cmd:"" help:"Sign up a company whose database is a copy of another's."`
}

// provisioner calls f with a client of the provisioner, as an operator.
func (a *app) provisioner(f func(provisionerv1.ProvisionerServiceClient) error) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	return f(provisionerv1.NewProvisionerServiceClient(conn))
}

// tenantDeleteCmd is `tenantry tenant delete`.
type tenantDeleteCmd struct {
	Company   string        `arg:"" help:"Id or slug."`
	Confirm   string        `name:"confirm" required:"" placeholder:"SLUG" help:"The company's slug, typed again."`
	Retention time.Duration `name:"retention" default:"720h" placeholder:"DURATION" help:"How long it can be opened again. Default: ${default}, 30 days; 0s drops it at once."`
}

// Help is the long help.
func (tenantDeleteCmd) Help() string {
	return `Its people can no longer log in from now on. When the retention is over its database and role are dropped, and its slug and e-mails are free; until then "tenantry tenant undelete" opens it again.

Example:

    tenantry tenant delete sun-valley --confirm sun-valley`
}

// Run deletes.
func (c *tenantDeleteCmd) Run(ctx context.Context, a *app) error {
	return a.provisioner(func(client provisionerv1.ProvisionerServiceClient) error {
		out, err := client.DeleteTenant(ctx, &provisionerv1.DeleteTenantRequest{Company: c.Company, ConfirmSlug: c.Confirm, Retention: durationpb.New(c.Retention)})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(out)
		}
		return a.printf("%s is closed, and its database goes at %s\n", c.Company, out.GetPurgeTime().AsTime().Format(time.RFC3339))
	})
}

// tenantUndeleteCmd is `tenantry tenant undelete`.
type tenantUndeleteCmd struct {
	Company string `arg:"" help:"Id or slug."`
}

// Help is the long help.
func (tenantUndeleteCmd) Help() string {
	return "Example:\n\n    tenantry tenant undelete sun-valley"
}

// Run opens it again.
func (c *tenantUndeleteCmd) Run(ctx context.Context, a *app) error {
	return a.provisioner(func(client provisionerv1.ProvisionerServiceClient) error {
		out, err := client.UndeleteTenant(ctx, &provisionerv1.UndeleteTenantRequest{Company: c.Company})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(out)
		}
		return a.printf("%s is %s\n", c.Company, stateName(out.GetState(), "COMPANY_STATE_"))
	})
}
