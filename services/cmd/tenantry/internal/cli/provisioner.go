package cli

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"

	"go.uber.org/zap"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/metrics"
	"github.com/tenantry/tenantry/services/provisioner"
)

// provisionerCmd is `tenantry provisioner`.
type provisionerCmd struct {
	serverFlags   `set:"port=7402"`
	databaseFlags `set:"service=PROVISIONER"`
	Registry      string            `name:"registry" required:"" placeholder:"HOST:PORT" env:"TENANTRY_REGISTRY" help:"Where the registry answers."`
	Cluster       map[string]string `name:"cluster" required:"" placeholder:"NAME=FILE" env:"TENANTRY_CLUSTERS" mapsep:"," help:"A cluster's name and a file that holds the PostgreSQL URI of its administrator. Repeatable; in the variable, with commas between."`
	MasterKey     string            `name:"master-key" required:"" type:"path" placeholder:"FILE" env:"TENANTRY_MASTER_KEY" help:"Key that tenants' database passwords are derived from, the gateway's too."`
	Migrations    string            `name:"migrations" type:"path" placeholder:"DIR" env:"TENANTRY_MIGRATIONS" help:"Tenants' migration sets: DIR/core and DIR/plugins/NAME. Default: those inside this program."`
	Atlas         string            `name:"atlas" type:"path" placeholder:"FILE" env:"TENANTRY_ATLAS_BIN" help:"The Atlas command line. Default: atlas beside this program, else on PATH."`
	Spares        int               `name:"spares" default:"16" placeholder:"N" env:"TENANTRY_SPARES" help:"Databases kept ready on each cluster for companies that have not come yet. Default: ${default}."`
	JobsUI        string            `name:"jobs-ui" placeholder:"HOST:PORT" env:"TENANTRY_JOBS_UI" help:"River's pages about jobs under way, ended and failed, at http://HOST:PORT, which must be a loopback address: there is no login, and jobs can be repeated, cancelled and deleted there. Default: nowhere."`
	Instance      string            `name:"instance" placeholder:"NAME" env:"TENANTRY_INSTANCE" help:"Name of this copy among others. Default: the host's name."`
}

// Help is the long help.
func (provisionerCmd) Help() string {
	return `Its own database must have been migrated: "tenantry migrate central".

Example:

    tenantry provisioner --dsn-file dsn --registry registry:7401 --cluster local=admin-dsn --master-key master.hex \
        --tls-ca ca.pem --tls-cert provisioner.pem --tls-key provisioner-key.pem`
}

// Run serves until it is interrupted.
func (c *provisionerCmd) Run(ctx context.Context) error {
	cfg := provisioner.Config{TLS: c.tls(), Registry: c.Registry, Clusters: map[string]string{}, Migrations: c.Migrations, Atlas: c.Atlas, Spares: c.Spares}
	if c.Spares < 0 || c.Spares > provisioner.MostSpares {
		return usagef("", "--spares: got %d, want 0 to %d", c.Spares, provisioner.MostSpares)
	}
	var err error
	if cfg.DSN, err = c.dsn(provisionerDSN); err != nil {
		return err
	}
	if cfg.MasterKey, err = credential.LoadMasterKey(c.MasterKey); err != nil {
		return usagef("`tenantry key new master FILE` makes one.", "--master-key: %v", err)
	}
	if cfg.Instance, err = instanceName(c.Instance); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Cluster)) {
		if cfg.Clusters[name], err = secretFile(c.Cluster[name]); err != nil {
			return err
		}
	}
	return c.serve(ctx, func(ctx context.Context, log *zap.Logger, m *metrics.Metrics) (service, error) {
		cfg.Logger, cfg.Metrics = log, m
		if cfg.JobsUI, err = c.jobsUI(ctx); err != nil {
			return nil, err
		}
		p, err := provisioner.New(ctx, cfg)
		if err != nil && cfg.JobsUI != nil {
			err = errors.Join(err, cfg.JobsUI.Close())
		}
		return p, err
	})
}

// jobsUI takes the address of the pages about jobs; nil for none.
func (c *provisionerCmd) jobsUI(ctx context.Context) (net.Listener, error) {
	if c.JobsUI == "" {
		return nil, nil //nolint:nilnil // no address is no listener
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", c.JobsUI)
	if err != nil {
		return nil, usagef("Choose another address with --jobs-ui.", "--jobs-ui: %v", err)
	}
	if !onLoopback(l) {
		return nil, errors.Join(usagef("For example --jobs-ui 127.0.0.1:7408.", "--jobs-ui: got %s, want a loopback address: there is no login", c.JobsUI), l.Close())
	}
	return l, nil
}
