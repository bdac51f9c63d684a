package cli

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/tenantry/tenantry/services/internal/devserver"
	"github.com/tenantry/tenantry/services/internal/pgserver"
	"github.com/tenantry/tenantry/services/provisioner"
)

// devCmd is `tenantry dev`.
type devCmd struct {
	logFlags `set:"log_format=console"`
	metricsFlags
	upstreamFlags
	// Tests and benchmarks call from one address, as often as they can.
	limitFlags     `kong:"set='rate_per_address=0',set='max_in_flight=0',set='pacing=false'"`
	Data           string `name:"data" default:".tenantry" type:"path" placeholder:"DIR" help:"Data directory: the database, certificates, keys and dev.env. Made where it is missing. Default: ${default}."`
	EphemeralPorts bool   `name:"ephemeral-ports" help:"Listen on free ports instead of 7400 (gateway), 7401 (registry), 7402 (provisioner) and 7432 (PostgreSQL); dev.env says which."`
	Migrations     string `name:"migrations" type:"path" placeholder:"DIR" env:"TENANTRY_MIGRATIONS" help:"Tenants' migration sets: DIR/core and DIR/plugins/NAME. Default: those inside this program."`
	Spares         int    `name:"spares" default:"4" placeholder:"N" help:"Databases kept ready for companies that have not come yet. Default: ${default}; a provisioner of its own keeps 16."`
	Temporary      bool   `name:"temporary" help:"Delete the data directory at the end. It must be missing or empty."`
	Durable        bool   `name:"durable" help:"Have PostgreSQL wait for the disk, as in production. Without, what is committed survives the death of any process, but not a loss of power."`
}

// Help is the long help.
func (devCmd) Help() string {
	return `The three services in one process, on loopback TLS, with a PostgreSQL server of their own. When everything answers, DIR/dev.env tells how to reach it, and every other command finds it there when run in the same directory or below. ^C or SIGTERM stops everything, the database included; the data stays.

Example:

    tenantry dev
    tenantry dev --data /tmp/try --temporary --ephemeral-ports

With grpcurl:

    . .tenantry/dev.env
    grpcurl -cacert $TENANTRY_CA -cert $TENANTRY_OPERATOR_CERT -key $TENANTRY_OPERATOR_KEY \
        $TENANTRY_REGISTRY tenantry.registry.v1.CompanyService/ListCompanies`
}

// Run runs until it is interrupted.
func (c *devCmd) Run(ctx context.Context, a *app) error {
	upstreams, err := c.upstreams()
	if err != nil {
		return err
	}
	limits, err := c.limits()
	if err != nil {
		return err
	}
	if c.Spares < 0 || c.Spares > provisioner.MostSpares {
		return usagef("", "--spares: got %d, want 0 to %d", c.Spares, provisioner.MostSpares)
	}
	log, err := c.logger()
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // Terminals and pipes cannot be synced, and say so.
	cfg := devserver.Config{Dir: c.Data, Temporary: c.Temporary, Durable: c.Durable, Ports: devserver.DefaultPorts(), Migrations: c.Migrations, Spares: c.Spares, Upstreams: upstreams, UpstreamsFile: c.Upstreams, Limits: limits, Logger: log}
	var stop func()
	cfg.Reload, stop = c.reload()
	defer stop()
	if c.EphemeralPorts {
		cfg.Ports = devserver.Ports{}
	}
	e, err := c.expose(ctx)
	if err != nil {
		return err
	}
	cfg.Metrics = e.metrics
	return e.beside(ctx, log, func() error { return c.run(ctx, a, cfg, e) })
}

func (c *devCmd) run(ctx context.Context, a *app, cfg devserver.Config, e exposed) (err error) {
	s, err := devserver.Start(ctx, cfg)
	if errors.Is(err, devserver.ErrRunning) || errors.Is(err, pgserver.ErrOwned) {
		return usagef("Use that one, stop it, or choose another directory with --data.", "%v", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if err := c.greet(a, s, e); err != nil {
		return err
	}
	return s.Wait(ctx)
}

func (c *devCmd) greet(a *app, s *devserver.Server, e exposed) error {
	env := s.Environment()
	find, scrape := "", ""
	if e.listener != nil {
		scrape = "\n  metrics      http://" + e.listener.Addr().String() + "/metrics"
	}
	if usual, err := filepath.Abs(devEnv); err != nil || usual != s.EnvironmentFile() {
		find = "\n  export TENANTRY_ENV=" + s.EnvironmentFile()
	}
	return a.printf(`Tenantry is ready, after %.1f s.

  gateway      %s
  registry     %s
  provisioner  %s
  PostgreSQL   psql "$TENANTRY_ADMIN_DSN"
  settings     %s%s

Next, in another terminal in this directory:
%s
  tenantry company create "Sun Valley" --owner-email ada@sunvalley.example
  tenantry sql sun-valley "SELECT count(*) FROM people"
  tenantry status

^C stops everything; %s.
`, s.Took().Seconds(), env.Gateway, env.Registry, env.Provisioner, s.EnvironmentFile(), scrape, find, c.kept())
}

// kept tells what becomes of the data.
func (c *devCmd) kept() string {
	if c.Temporary {
		return "its data is deleted then"
	}
	return "the data stays in " + c.Data
}
