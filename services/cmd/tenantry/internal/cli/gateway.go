package cli

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/tenantry/tenantry/services/gateway"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/metrics"
)

// gatewayCmd is `tenantry gateway`.
type gatewayCmd struct {
	serverFlags `set:"port=7400"`
	upstreamFlags
	limitFlags
	Registry           string        `name:"registry" required:"" placeholder:"HOST:PORT" env:"TENANTRY_REGISTRY" help:"Where the registry answers."`
	MasterKey          string        `name:"master-key" required:"" type:"path" placeholder:"FILE" env:"TENANTRY_MASTER_KEY" help:"Key that tenants' database passwords are derived from, the provisioner's too."`
	SigningKey         []string      `name:"signing-key" required:"" type:"path" placeholder:"FILE" env:"TENANTRY_SIGNING_KEYS" help:"Ed25519 key in PEM that assertions for upstreams are signed with; not the registry's. Repeat it to rotate: the first signs, all verify."`
	StatementTimeout   time.Duration `name:"statement-timeout" placeholder:"DURATION" env:"TENANTRY_STATEMENT_TIMEOUT" help:"Longest run of one call's SQL. Default: the gateway's own."`
	TransactionIdle    time.Duration `name:"transaction-idle" placeholder:"DURATION" env:"TENANTRY_TRANSACTION_IDLE" help:"How long an interactive transaction waits for its next step. Default: the gateway's own."`
	TransactionTimeout time.Duration `name:"transaction-timeout" placeholder:"DURATION" env:"TENANTRY_TRANSACTION_TIMEOUT" help:"Longest interactive transaction in all. Default: the gateway's own."`
	HoldTime           time.Duration `name:"hold-time" placeholder:"DURATION" env:"TENANTRY_HOLD_TIME" help:"Longest that a call is held while its company is in maintenance. Default: 15s."`
	HeldPerCompany     int           `name:"held-per-company" placeholder:"N" env:"TENANTRY_HELD_PER_COMPANY" help:"Most calls of one company that are held at a time. Default: 1000."`
	HeldTotal          int           `name:"held-total" placeholder:"N" env:"TENANTRY_HELD_TOTAL" help:"Most calls that are held at a time. Default: 10000."`
	RouteSnapshot      string        `name:"route-snapshot" type:"path" placeholder:"FILE" env:"TENANTRY_ROUTE_SNAPSHOT" help:"Keep what this copy needs to serve in a signed file, and start from that when the registry is away. FILE, FILE.lease and FILE.lock are this copy's alone. Default: nothing is kept."`
	SnapshotMaxAge     time.Duration `name:"route-snapshot-max-age" default:"24h" placeholder:"DURATION" env:"TENANTRY_ROUTE_SNAPSHOT_MAX_AGE" help:"How old the routes in --route-snapshot may be. Default: ${default}."`
	Instance           string        `name:"instance" placeholder:"NAME" env:"TENANTRY_INSTANCE" help:"Name of this copy among others. Default: the host's name."`
}

// Help is the long help.
func (gatewayCmd) Help() string {
	return `Example:

    tenantry gateway --registry registry:7401 --master-key master.hex --signing-key assertion.pem \
        --tls-ca ca.pem --tls-cert gateway.pem --tls-key gateway-key.pem \
        --upstream readings.v1.ReadingsService=readings@readings:7500

A file for --upstreams names upstreams with several addresses and limits of their own. Write a changed one beside it and rename it: within 2 seconds, or at once on SIGHUP, it is in force, and no call under way ends for it. One that is wrong is logged and changes nothing. For example:

    upstreams:
      - name: readings
        services: [readings.v1.ReadingsService]
        addresses: [readings-1:7500, readings-2:7500]`
}

// Run serves until it is interrupted.
func (c *gatewayCmd) Run(ctx context.Context) error {
	cfg := gateway.Config{TLS: c.tls(), Registry: c.Registry, SigningKeys: c.SigningKey, StatementTimeout: c.StatementTimeout,
		TransactionIdle: c.TransactionIdle, TransactionTimeout: c.TransactionTimeout,
		RouteSnapshot: c.RouteSnapshot, RouteSnapshotMaxAge: c.SnapshotMaxAge,
		Holds: gateway.HoldLimits{Time: c.HoldTime, PerCompany: c.HeldPerCompany, Total: c.HeldTotal}}
	var err error
	if cfg.Upstreams, err = c.upstreams(); err != nil {
		return err
	}
	if cfg.Limits, err = c.limits(); err != nil {
		return err
	}
	var stop func()
	cfg.UpstreamsFile = c.Upstreams
	cfg.Reload, stop = c.reload()
	defer stop()
	if cfg.MasterKey, err = credential.LoadMasterKey(c.MasterKey); err != nil {
		return usagef("`tenantry key new master FILE` makes one.", "--master-key: %v", err)
	}
	if cfg.Instance, err = instanceName(c.Instance); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	return c.serve(ctx, func(ctx context.Context, log *zap.Logger, m *metrics.Metrics) (service, error) {
		cfg.Logger, cfg.Metrics = log, m
		return gateway.New(ctx, cfg)
	})
}

// collectAt is by how many percent a gateway's memory may grow before garbage is collected, unless GOGC says. What it keeps
// is small, and a call's garbage is much beside that: at 100 it would collect some hundred times a second under load.
const collectAt = 400

// upstreamFlags name the services that the gateway forwards to.
type upstreamFlags struct {
	Upstream  []string `name:"upstream" placeholder:"SERVICE=NAME@HOST:PORT" env:"TENANTRY_UPSTREAMS" help:"Forward a gRPC service, by its full name, to the upstream whose certificate says upstream/NAME. Repeatable; in the variable, with commas between."`
	Upstreams string   `name:"upstreams" type:"path" placeholder:"FILE" env:"TENANTRY_UPSTREAMS_FILE" help:"YAML file of upstreams with their addresses and limits, beside those of --upstream. It is read again when it changes, and on SIGHUP."`
}

func (f upstreamFlags) upstreams() ([]gateway.Upstream, error) {
	var upstreams []gateway.Upstream
	for _, text := range f.Upstream {
		u, err := gateway.ParseUpstream(text)
		if err != nil {
			return nil, usagef("For example --upstream readings.v1.ReadingsService=readings@127.0.0.1:7500.", "--%v", err)
		}
		upstreams = append(upstreams, u)
	}
	if f.Upstreams != "" {
		if _, err := gateway.ReadUpstreams(f.Upstreams); err != nil {
			return nil, usagef("`tenantry gateway --help` shows one.", "--%v", err)
		}
	}
	return upstreams, nil
}

// limitFlags say which calls are too many.
type limitFlags struct {
	RatePerCompany    float64 `name:"rate-per-company" default:"0" placeholder:"N" env:"TENANTRY_RATE_PER_COMPANY" group:"Limits:" help:"Calls a second of one company; what one second allows may come at once. Default: any number."`
	RatePerCredential float64 `name:"rate-per-credential" default:"0" placeholder:"N" env:"TENANTRY_RATE_PER_CREDENTIAL" group:"Limits:" help:"Calls a second of one session or API key, and as many again of each upstream with its assertions. Default: any number."`
	RatePerAddress    float64 `name:"rate-per-address" default:"${rate_per_address=10}" placeholder:"N" env:"TENANTRY_RATE_PER_ADDRESS" group:"Limits:" help:"Calls a second that one client address may make of what anyone may call, such as Login, and as many again with credentials that are not good; what five seconds allow may come at once. Behind a balancer that hides its clients' addresses, set 0. Default: ${default}; 0 is any number."`
	MaxInFlight       int     `name:"max-in-flight" default:"${max_in_flight=10000}" placeholder:"N" env:"TENANTRY_MAX_IN_FLIGHT" group:"Limits:" help:"Calls that run at once before new ones are refused, those of the companies that have most first; fewer while processors cannot keep up. Default: ${default}; 0 is any number."`
	Pacing            bool    `name:"pacing" default:"${pacing=true}" negatable:"" env:"TENANTRY_PACING" group:"Limits:" help:"While calls wait for processors, slow down a company that makes more of them than all others together: what comes too soon waits for its turn, up to a second. Default: ${default}."`
}

func (f limitFlags) limits() (gateway.Limits, error) {
	l := gateway.Limits{PerCompany: f.RatePerCompany, PerCredential: f.RatePerCredential, PerAddress: f.RatePerAddress, MaxInFlight: f.MaxInFlight, Pacing: f.Pacing}
	if err := l.Check(); err != nil {
		return l, usagef("For example --rate-per-company 500 --max-in-flight 2000; 0 is any number.", "%v", err)
	}
	return l, nil
}

// reload tells of each SIGHUP until it is stopped. Without a file there is nothing to reload, and SIGHUP ends the process
// as it always did.
func (f upstreamFlags) reload() (signals <-chan os.Signal, stop func()) {
	if f.Upstreams == "" {
		return nil, func() {}
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}
