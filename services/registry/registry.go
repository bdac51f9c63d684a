// Package registry is the service that owns the central database: companies and where each one's database is, people and
// their sessions, API keys, the plugin catalogue, the audit log, and the stream of changes that gateways follow. It never
// touches a tenant's database.
package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/metrics"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
	"github.com/tenantry/tenantry/services/registry/internal/feed"
	"github.com/tenantry/tenantry/services/registry/internal/server"
	"github.com/tenantry/tenantry/services/registry/internal/store"
	"github.com/tenantry/tenantry/services/registry/migrations"
)

// poolSize is how many connections to the central database one copy opens at most.
const poolSize = 20

// defaultGatewayLease is long enough to replace a registry without any gateway's notice.
const defaultGatewayLease = 90 * time.Second

// Config says how to run a registry.
type Config struct {
	// TLS are the server's files.
	TLS rpc.TLS
	// DSN is the central database's.
	DSN string
	// SigningKeys are paths of Ed25519 keys in PEM: the first signs access tokens, all verify them.
	SigningKeys []string
	// GatewayLease is how long a gateway that is not heard of has its shares of the connection budgets; 0 means 90 seconds.
	GatewayLease time.Duration
	// Metrics are what the process tells; nil means nobody listens.
	Metrics *metrics.Metrics
	// Logger gets the logs.
	Logger *zap.Logger
}

// Migrate makes the central database where it is missing and applies its migrations.
func Migrate(ctx context.Context, dsn string) (migrate.Result, error) {
	set, err := schema()
	if err != nil {
		return migrate.Result{}, err
	}
	return migrate.Own(ctx, dsn, set)
}

// schema is the service's own database's.
func schema() (*migrate.Set, error) { return migrate.Load(migrations.FS(), "central") }

// Registry is a running copy.
type Registry struct {
	cfg    Config
	pool   *pgxpool.Pool
	store  *store.Store
	feed   *feed.Feed
	server *rpc.Server
}

// New connects to the central database. It is FAILED_PRECONDITION `SCHEMA_OUTDATED` when that has migrations left.
func New(ctx context.Context, cfg Config) (*Registry, error) {
	signer, err := token.LoadSigner(cfg.SigningKeys...)
	if err != nil {
		return nil, err
	}
	hasher, err := credential.NewHasher()
	if err != nil {
		return nil, err
	}
	set, err := schema()
	if err != nil {
		return nil, err
	}
	pool, err := pg.Open(ctx, cfg.DSN, "tenantry registry", poolSize)
	if err != nil {
		return nil, err
	}
	if err := migrate.CheckOwn(ctx, pool, set); err != nil {
		pool.Close()
		return nil, err
	}
	s := store.New(pool)
	r := &Registry{cfg: cfg, pool: pool, store: s, feed: feed.New(s, cfg.Logger)}
	services := server.New(s, r.feed, hasher, signer, cmp.Or(cfg.GatewayLease, defaultGatewayLease))
	r.server, err = rpc.NewServer(rpc.Config{Name: "registry", TLS: cfg.TLS, Access: access, Authenticate: services.Authenticate, Logger: cfg.Logger,
		Observe: cfg.Metrics.Calls("registry")})
	if err != nil {
		pool.Close()
		return nil, err
	}
	services.Register(r.server)
	r.observe(cfg.Metrics)
	return r, nil
}

// lookEvery is how often is looked for companies whose time in maintenance is over.
const lookEvery = time.Second

// endOverdue opens companies again that nobody took out of maintenance in time, until the context ends.
func (r *Registry) endOverdue(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		ended, err := r.store.EndOverdueMaintenance(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.cfg.Logger.Warn("companies whose maintenance is over cannot be opened", zap.Error(err))
		case ended > 0:
			r.cfg.Logger.Warn("companies were left in maintenance, and are open again", zap.Int("companies", ended))
		}
	}
}

// observe adds what the registry has to tell.
func (r *Registry) observe(m *metrics.Metrics) {
	m.Gauge("registry_watchers", "Gateways that follow the routes from this copy.", nil, func(context.Context) ([]metrics.Sample, error) {
		watchers, _ := r.feed.Stats()
		return []metrics.Sample{{Value: float64(watchers)}}, nil
	})
	m.Gauge("registry_route_sequence", "Number of the newest route event that this copy has read.", nil, func(context.Context) ([]metrics.Sample, error) {
		_, newest := r.feed.Stats()
		return []metrics.Sample{{Value: float64(newest)}}, nil
	})
}

// Run serves until the context ends, and closes the listener and what New opened.
func (r *Registry) Run(ctx context.Context, l net.Listener) error {
	defer r.pool.Close()
	var fed sync.WaitGroup
	ctx, stop := context.WithCancel(ctx)
	defer fed.Wait()
	defer stop()
	fed.Go(func() { r.feed.Run(ctx) })
	fed.Go(func() { r.endOverdue(ctx) })
	r.server.SetHealthy(true)
	if err := r.server.Serve(ctx, l); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}
