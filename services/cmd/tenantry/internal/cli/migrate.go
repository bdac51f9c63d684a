package cli

import (
	"context"
	"time"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/provisioner"
	"github.com/tenantry/tenantry/services/registry"
)

// migrateCmd is `tenantry migrate`.
type migrateCmd struct {
	What string `arg:"" optional:"" enum:"all,central" default:"all" help:"central: only the services' own databases."`
	rolloutFlags
}

// Help is the long help.
func (migrateCmd) Help() string {
	return `First the services' own databases, those of the variables TENANTRY_REGISTRY_DSN and TENANTRY_PROVISIONER_DSN; a database that is missing is made. Then the provisioner brings every tenant to its newest migrations, one tenant first; tenants that fail are told of and hold nobody up, and the exit code is 3.

Example:

    tenantry migrate
    tenantry migrate --company sun-valley --company green-grid
    TENANTRY_REGISTRY_DSN=… TENANTRY_PROVISIONER_DSN=… tenantry migrate central`
}

// Run migrates.
func (c *migrateCmd) Run(ctx context.Context, a *app) error {
	if err := c.migrateOwn(ctx, a); err != nil || c.What == "central" {
		return err
	}
	return c.rollOut(ctx, a)
}

// migrateOwn brings the services' own databases to this program's schema.
func (c *migrateCmd) migrateOwn(ctx context.Context, a *app) error {
	migrated := 0
	for _, own := range []struct {
		name, variable string
		migrate        func(context.Context, string) (migrate.Result, error)
	}{
		{"registry", registryDSN, registry.Migrate},
		{"provisioner", provisionerDSN, provisioner.Migrate},
	} {
		dsn, err := a.settings.get(own.variable)
		if err != nil {
			return err
		}
		if dsn == "" {
			a.notef("The %s's own database is left alone: %s is not set.", own.name, own.variable)
			continue
		}
		result, err := own.migrate(ctx, dsn)
		if err != nil {
			return err
		}
		migrated++
		if err := a.printOwn(own.name, result); err != nil {
			return err
		}
	}
	if migrated == 0 && c.What == "central" {
		return usagef("Set TENANTRY_REGISTRY_DSN, TENANTRY_PROVISIONER_DSN or both to PostgreSQL URIs.", "there is nothing to migrate")
	}
	return nil
}

// rollOut starts a rollout and watches it to its end.
func (c *migrateCmd) rollOut(ctx context.Context, a *app) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	client := provisionerv1.NewRolloutServiceClient(conn)
	started, err := a.start(ctx, client, c.rolloutFlags)
	if err != nil {
		return err
	}
	w := &watch{app: a, client: client, rollout: started, show: a.progress()}
	return w.run(ctx)
}

// persist calls f again while a server that was there goes away for a moment, as in a restart. What f does must be safe
// to repeat.
func persist(ctx context.Context, a *app, f func() error) error {
	const tries = 10
	for try := 1; ; try++ {
		err := f()
		if err == nil || !isUnreachable(err) || isAbsent(err) || try == tries {
			return err
		}
		a.notef("%s; trying again", fault.From(err).Text)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
