// Package gateway is the service that stands between callers and tenants' databases: it finds out whose a call is, where
// that company's database is, and runs SQL there on a connection that is that tenant's alone, or passes the call on to an
// upstream with a signed assertion of whom it is for. It keeps nothing on disk but, where that is wanted, what it needs to
// start while the registry is away; it makes no schema, and decides nobody's company.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/budget"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/gateway/internal/fleetsql"
	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/gateway/internal/limits"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/gateway/internal/session"
	"github.com/tenantry/tenantry/services/gateway/internal/sqlapi"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/metrics"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

// Upstream is a service that the gateway forwards calls to.
type Upstream = forward.Upstream

// HoldLimits bound the holding of calls while their company is in maintenance.
type HoldLimits = routes.HoldLimits

// ParseUpstream reads an upstream as the command line has it: `SERVICE=NAME@HOST:PORT`, where NAME stands for
// `upstream/NAME`.
func ParseUpstream(text string) (Upstream, error) { return forward.Parse(text) }

// Limits say which calls are too many; the zero value limits nothing.
type Limits = limits.Config

// ReadUpstreams reads a file of upstreams, of which deploy/upstreams.yaml is an example. Its errors name the line and the
// field, what was got and what is wanted.
func ReadUpstreams(path string) ([]Upstream, error) { return forward.Read(path) }

// Config says how to run a gateway.
type Config struct {
	// TLS are the server's files, and what it shows the registry and upstreams.
	TLS rpc.TLS
	// Registry is where the registry answers.
	Registry string
	// MasterKey is what tenants' passwords are derived from, the provisioner's too.
	MasterKey credential.MasterKey
	// SigningKeys are paths of Ed25519 keys in PEM, not the registry's: the first signs assertions, all verify them. All
	// copies have the same.
	SigningKeys []string
	// Upstreams are the services that calls are forwarded to.
	Upstreams []Upstream
	// UpstreamsFile names more of them, and is read again whenever it changes; empty means that there are no more.
	UpstreamsFile string
	// Reload has UpstreamsFile read at once for each signal; nil means that a change is seen within seconds, and that is all.
	Reload <-chan os.Signal
	// Instance names this copy among others: no two that live have the same.
	Instance string
	// RouteSnapshot is the path of a file that the gateway keeps what it knows in, and starts from when the registry is away;
	// empty means that it keeps nothing. Package snapshot says what is beside it.
	RouteSnapshot string
	// RouteSnapshotMaxAge is how old the routes in it may be to be used; 0 means 24 hours.
	RouteSnapshotMaxAge time.Duration
	// StatementTimeout is the longest that one call's SQL may run; 0 means 30 seconds.
	StatementTimeout time.Duration
	// TransactionIdle is how long a transaction waits for its next step; 0 means 30 seconds.
	TransactionIdle time.Duration
	// TransactionTimeout is the longest that a transaction may take in all; 0 means 5 minutes.
	TransactionTimeout time.Duration
	// Holds say how calls of a company in maintenance are held.
	Holds HoldLimits
	// Limits say which calls are too many.
	Limits Limits
	// Metrics are what the process tells; nil means nobody listens.
	Metrics *metrics.Metrics
	// Logger gets the logs.
	Logger *zap.Logger
}

const (
	defaultStatementTimeout   = 30 * time.Second
	defaultTransactionIdle    = 30 * time.Second
	defaultTransactionTimeout = 5 * time.Minute
	// closeTimeout is how long connections in use have to end after the server has.
	closeTimeout = 5 * time.Second
	// stale is how old the routes may be before the part `routes` of the health check says so.
	stale = 15 * time.Second
	// told is how old they may be before callers are told: longer than the registry is ever silent.
	told = 5 * time.Second
	// workers is for how many calls at a time the gateway has goroutines ready, see docs/benchmarks.md.
	workers = 128
	// leaveTimeout is how long giving the connections back to the others may take.
	leaveTimeout = 2 * time.Second
)

// RoutesAgeMetadata is the name of the header that says how old the routes are, in milliseconds, when that is unusual.
const RoutesAgeMetadata = "tenantry-routes-age"

// Gateway is a running copy.
type Gateway struct {
	cfg      Config
	registry *grpc.ClientConn
	routes   *routes.Table
	sessions *session.Sessions
	pools    *conns.Pools
	budget   *budget.Budget
	forward  *forward.Forwarder
	limits   *limits.Limits
	keeper   *keeper // nil where nothing is kept
	server   *rpc.Server
}

// New makes a gateway. The registry may be away: the gateway is healthy when it has the routes.
func New(_ context.Context, cfg Config) (_ *Gateway, err error) {
	if cfg.StatementTimeout == 0 {
		cfg.StatementTimeout = defaultStatementTimeout
	}
	if cfg.TransactionIdle == 0 {
		cfg.TransactionIdle = defaultTransactionIdle
	}
	if cfg.TransactionTimeout == 0 {
		cfg.TransactionTimeout = defaultTransactionTimeout
	}
	g := &Gateway{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	signer, err := token.LoadSigner(cfg.SigningKeys...)
	if err != nil {
		return nil, err
	}
	files := cfg.TLS
	files.Peer = "service/registry"
	if g.registry, err = rpc.Dial(cfg.Registry, files); err != nil {
		return nil, err
	}
	routing, sessions := registryv1.NewRouteServiceClient(g.registry), registryv1.NewSessionServiceClient(g.registry)
	// PostgreSQL's own limits are for what nobody is there to end, so they are behind the gateway's.
	longest := max(cfg.StatementTimeout, cfg.TransactionTimeout) + closeTimeout
	g.pools = conns.New(conns.Config{MasterKey: cfg.MasterKey, Leased: true, StatementTimeout: cfg.StatementTimeout + closeTimeout,
		IdleInTransactionTimeout: cfg.TransactionIdle + closeTimeout, Logger: cfg.Logger})
	shares := budget.Config{Registry: routing, Pools: g.pools, Instance: cfg.Instance, LongestCall: longest, Logger: cfg.Logger}
	if cfg.RouteSnapshot != "" {
		if g.keeper, err = openKeeper(cfg); err != nil {
			return nil, err
		}
		if shares.Saved, err = g.keeper.shares(); err != nil {
			return nil, err
		}
		shares.Save = g.keeper.saveShares
	}
	g.budget = budget.New(shares)
	events := routes.Events{
		Drain:    g.pools.Drain,
		Replaced: func() { g.sessions.Forget() },
		Revoked:  func(s, k []uuid.UUID, until time.Time) { g.sessions.Revoke(s, k, until) },
	}
	g.routes = routes.New(routing, cfg.Instance, events, cfg.Logger)
	g.routes.LimitHolds(cfg.Holds)
	open := func(ctx context.Context, company uuid.UUID, md metadata.MD) error {
		minSchema, err := routes.MinSchema(md)
		if err == nil {
			_, err = g.routes.Admit(ctx, routes.ID(company), minSchema)
		}
		return err
	}
	g.sessions = session.New(sessions, routing, signer, forward.AssertionMetadata, open, cfg.Logger)
	if g.keeper != nil {
		g.keeper.routes, g.keeper.sessions = g.routes, g.sessions
		g.keeper.restore()
	}
	upstreams := cfg.Upstreams
	if cfg.UpstreamsFile != "" {
		more, err := forward.Read(cfg.UpstreamsFile)
		if err != nil {
			return nil, err
		}
		upstreams = slices.Concat(upstreams, more)
	}
	if g.forward, err = forward.New(upstreams, cfg.TLS, signer, cfg.Logger); err != nil {
		return nil, err
	}
	if g.limits, err = limits.New(cfg.Limits); err != nil {
		return nil, err
	}
	serve := rpc.Config{Name: "gateway", TLS: cfg.TLS, Access: access, Authenticate: g.authenticate, Logger: cfg.Logger,
		Workers: workers, Options: g.forward.Options(), Observe: cfg.Metrics.Calls("gateway")}
	if g.limits != nil {
		serve.Limits = g.limits
	}
	if g.server, err = rpc.NewServer(serve); err != nil {
		return nil, err
	}
	sqlapi.New(g.routes, g.pools, g.target, g.sessions.StillGood, sqlapi.Limits{Statement: cfg.StatementTimeout, Idle: cfg.TransactionIdle, Transaction: cfg.TransactionTimeout}).Register(g.server)
	fleet := fleetsql.New(g.routes, g.pools, g.target, registryv1.NewTenantServiceClient(g.registry), cfg.StatementTimeout)
	gatewayv1.RegisterFleetSqlServiceServer(g.server, fleet)
	gatewayv1.RegisterWhoAmIServiceServer(g.server, &whoAmI{routes: g.routes})
	registryv1.RegisterSessionServiceServer(g.server, &sessionProxy{registry: sessions, keys: signer.Keys()})
	g.observe(cfg.Metrics)
	return g, nil
}

// authenticate is the sessions', and tells a caller that the registry has been away: routes may be older than they should
// be, and what was revoked since is not known here.
func (g *Gateway) authenticate(ctx context.Context, certified identity.Caller, md metadata.MD) (identity.Caller, error) {
	if age := g.routes.Age(); age > told {
		// Its error is that the call has ended.
		_ = grpc.SetHeader(ctx, metadata.Pairs(RoutesAgeMetadata, strconv.FormatInt(age.Milliseconds(), 10)))
	}
	return g.sessions.Authenticate(ctx, certified, md)
}

// target is where a route's database is.
func (g *Gateway) target(r *routes.Route) (conns.Target, error) {
	c, ok := g.routes.Cluster(r.Cluster)
	if !ok {
		return conns.Target{}, fault.New(codes.Unavailable, fault.DatabaseUnavailable, "the company's database server is not known here").RetryIn(time.Second)
	}
	t := conns.Target{Cluster: c.GetName(), Host: c.GetHost(), Port: int(c.GetPort()), Budget: int(c.GetConnectionBudget()),
		DatabaseID: r.DatabaseID, PasswordVersion: r.PasswordVersion, SchemaVersion: r.SchemaVersion, TLS: conns.VerifyFull}
	switch c.GetTls() {
	case registryv1.ClusterTls_CLUSTER_TLS_DISABLE:
		t.TLS = conns.Disable
	case registryv1.ClusterTls_CLUSTER_TLS_REQUIRE:
		t.TLS = conns.Require
	case registryv1.ClusterTls_CLUSTER_TLS_UNSPECIFIED, registryv1.ClusterTls_CLUSTER_TLS_VERIFY_FULL:
	}
	return t, nil
}

// Run serves until the context ends, and closes the listener and what New opened.
func (g *Gateway) Run(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { g.routes.Run(ctx) })
	work.Go(func() { g.sessions.Run(ctx) })
	work.Go(func() { g.limits.Run(ctx) })
	work.Go(func() { g.report(ctx) })
	if g.keeper != nil {
		work.Go(func() { g.keeper.run(ctx) })
	}
	// The last calls need their connections, too.
	beating, quiet := context.WithCancel(context.WithoutCancel(ctx))
	work.Go(func() { g.budget.Run(beating) })
	if g.cfg.UpstreamsFile != "" {
		work.Go(func() { g.forward.Watch(ctx, g.cfg.UpstreamsFile, g.cfg.Upstreams, g.cfg.Reload) })
	}
	err := g.server.Serve(ctx, l)
	stop()
	quiet()
	work.Wait()
	if err != nil {
		err = fmt.Errorf("gateway: %w", err)
	}
	return errors.Join(err, g.close())
}

// report keeps the health checks true: the server can work once it has routes; its part `routes` is well while they are
// fresh.
func (g *Gateway) report(ctx context.Context) {
	g.server.SetHealthy(false)
	if !g.known(ctx) {
		return
	}
	// Tokens would be verified at the first call; the keys are here before it.
	if !g.sessions.KeysRestored() {
		g.sessions.LoadKeys(ctx)
	}
	g.server.SetHealthy(true)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		g.server.SetPartHealthy("routes", g.routes.Age() < stale)
		if g.sessions.KeysRestored() && !g.routes.Restored() {
			g.sessions.LoadKeys(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// known waits until the gateway has routes: the registry's, or those of its snapshot when the registry says nothing. It is
// false when the context ended before.
func (g *Gateway) known(ctx context.Context) bool {
	tick := time.NewTicker(registryPatience / 4)
	defer tick.Stop()
	for begun := time.Now(); ; {
		select {
		case <-g.routes.Ready():
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
			if g.routes.Restored() && time.Since(begun) >= registryPatience && g.routes.Age() >= registryPatience {
				g.routes.Settle()
			}
		}
	}
}

func (g *Gateway) close() error {
	var errs []error
	if g.server != nil {
		g.server.Stop()
	}
	g.limits.Close()
	if g.forward != nil {
		g.forward.Close()
	}
	if g.pools != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err := g.pools.Close(ctx)
		errs = append(errs, err)
		if err == nil && g.budget != nil {
			leaving, cancel := context.WithTimeout(context.Background(), leaveTimeout)
			defer cancel()
			g.budget.Leave(leaving)
		}
	}
	if g.registry != nil {
		errs = append(errs, g.registry.Close())
	}
	errs = append(errs, g.keeper.close())
	return errors.Join(errs...)
}
