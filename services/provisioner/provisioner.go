// Package provisioner is the service that makes tenants' databases and migrates them. It owns a database of its own, with
// signups under way, releases and rollouts, and the administrator's connection to every cluster. It answers no company's
// requests and keeps no password.
package provisioner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/metrics"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/provisioner/internal/backup"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/doctor"
	"github.com/tenantry/tenantry/services/provisioner/internal/fleet"
	"github.com/tenantry/tenantry/services/provisioner/internal/gate"
	"github.com/tenantry/tenantry/services/provisioner/internal/jobs"
	"github.com/tenantry/tenantry/services/provisioner/internal/observe"
	"github.com/tenantry/tenantry/services/provisioner/internal/plugin"
	"github.com/tenantry/tenantry/services/provisioner/internal/pool"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/removal"
	"github.com/tenantry/tenantry/services/provisioner/internal/server"
	"github.com/tenantry/tenantry/services/provisioner/internal/signup"
	"github.com/tenantry/tenantry/services/provisioner/internal/template"
	"github.com/tenantry/tenantry/services/provisioner/migrations/own"
)

// poolSize is how many connections to its own database one copy opens at most.
const poolSize = 20

// MostSpares is how many databases can be kept ready on a cluster: each takes some megabytes, and, by the copy that made
// it, a connection.
const MostSpares = 200

// Config says how to run a provisioner.
type Config struct {
	// TLS are the server's files, and what it shows the registry.
	TLS rpc.TLS
	// DSN is its own database's.
	DSN string
	// Registry is where the registry answers.
	Registry string
	// Clusters are the administrators' DSNs of the PostgreSQL servers, by the names that the registry has them under.
	Clusters map[string]string
	// MasterKey is what tenants' passwords are derived from, the gateway's too.
	MasterKey credential.MasterKey
	// Migrations is a directory with core, plugins/NAME and seed.sql, read anew at each MigrateTenant and StartRollout;
	// empty means the sets inside the program.
	Migrations string
	// Atlas is the path of the Atlas CLI; empty means to look for it.
	Atlas string
	// Spares is how many databases are kept ready on each cluster for companies that have not come yet; 0 means none.
	Spares int
	// Instance names this copy among others.
	Instance string
	// JobsUI is where River's pages about jobs are served, which must be a loopback address; nil means nowhere.
	JobsUI net.Listener
	// Metrics are what the process tells; nil means nobody listens.
	Metrics *metrics.Metrics
	// Logger gets the logs.
	Logger *zap.Logger
}

// Migrate makes the provisioner's database where it is missing and applies its migrations, and those of its queue.
func Migrate(ctx context.Context, dsn string) (migrate.Result, error) {
	set, err := schema()
	if err != nil {
		return migrate.Result{}, err
	}
	result, err := migrate.Own(ctx, dsn, set)
	if err != nil {
		return result, err
	}
	db, err := pg.Open(ctx, dsn, "tenantry migrate", 2)
	if err != nil {
		return result, err
	}
	defer db.Close()
	return result, jobs.Migrate(ctx, db)
}

// schema is the service's own database's.
func schema() (*migrate.Set, error) { return migrate.Load(own.FS(), "provisioner") }

// Provisioner is a running copy.
type Provisioner struct {
	cfg       Config
	db        *pgxpool.Pool
	jobs      *jobs.Queue
	registry  *grpc.ClientConn
	clusters  *cluster.Set
	templates *template.Builder
	releases  *release.Store
	spares    *pool.Pool
	signups   *signup.Runner
	rollouts  *fleet.Runner
	gate      *gate.Gate
	server    *rpc.Server
	stopping  chan struct{}
}

// New connects to the provisioner's database, and makes the sets that it has the current release when there is none yet.
// It is FAILED_PRECONDITION `SCHEMA_OUTDATED` when its database has migrations left. Clusters and the registry may be
// away: calls that need them say so.
func New(ctx context.Context, cfg Config) (_ *Provisioner, err error) {
	p := &Provisioner{cfg: cfg, stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	atlas, err := atlascli.New(cfg.Atlas)
	if err != nil {
		return nil, err
	}
	set, err := schema()
	if err != nil {
		return nil, err
	}
	if p.db, err = pg.Open(ctx, cfg.DSN, "tenantry provisioner", poolSize); err != nil {
		return nil, err
	}
	if err := migrate.CheckOwn(ctx, p.db, set); err != nil {
		return nil, err
	}
	if err := jobs.Check(ctx, p.db); err != nil {
		return nil, err
	}
	p.releases = release.NewStore(p.db)
	source := release.Source{Dir: cfg.Migrations}
	if _, err := p.releases.Bootstrap(ctx, source); err != nil {
		return nil, err
	}
	files := cfg.TLS
	files.Peer = "service/registry"
	if p.registry, err = rpc.Dial(cfg.Registry, files); err != nil {
		return nil, err
	}
	tenants := registryv1.NewTenantServiceClient(p.registry)
	if p.clusters, err = cluster.New(cfg.Clusters, cfg.MasterKey); err != nil {
		return nil, err
	}
	p.templates = template.NewBuilder(p.db, p.clusters, atlas, cfg.Logger)
	holder := cfg.Instance + " " + uuid.NewString()
	p.jobs = jobs.New(p.db, cfg.Logger)
	p.spares = pool.New(p.db, p.clusters, p.templates, p.releases, p.jobs, cfg.Spares, holder, cfg.Logger)
	removals := removal.New(p.db, tenants, p.clusters, p.templates, p.releases, p.jobs, cfg.Logger)
	backups := backup.NewKeeper(p.clusters, tenants, p.releases, removals)
	p.signups = signup.NewRunner(signup.Config{DB: p.db, Tenants: tenants, Clusters: p.clusters, Templates: p.templates, Releases: p.releases,
		Spares: p.spares, Copier: backups, Jobs: p.jobs, Holder: holder, Log: cfg.Logger})
	rollouts := fleet.NewStore(p.db, p.jobs, holder)
	migrator := fleet.NewMigrator(p.clusters, tenants)
	p.rollouts = fleet.NewRunner(rollouts, p.releases, migrator, tenants, cfg.Logger)
	p.gate = gate.New(p.db, p.releases, p.clusters, atlas, cfg.Logger)
	if err := p.jobs.Open(); err != nil {
		return nil, err
	}
	if p.server, err = rpc.NewServer(rpc.Config{Name: "provisioner", TLS: cfg.TLS, Access: access, Logger: cfg.Logger, Observe: cfg.Metrics.Calls("provisioner")}); err != nil {
		return nil, err
	}
	services := &server.Server{Tenants: tenants, Clusters: p.clusters, Releases: p.releases, Source: source, Signups: p.signups, Migrator: migrator,
		Rollouts: rollouts, Runner: p.rollouts, Plugins: plugin.NewManager(p.clusters, tenants), Removals: removals, Backups: backups,
		Doctor: doctor.New(p.db, tenants, p.clusters, p.releases), Atlas: atlas, Gate: p.gate, Stopping: p.stopping}
	services.Register(p.server)
	observe.Register(cfg.Metrics, p.db)
	return p, nil
}

// Run serves, works on signups and rollouts, and builds templates ahead, until the context ends; then it closes the
// listeners and what New opened.
func (p *Provisioner) Run(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	var queue, ui error
	work.Go(func() { queue = p.jobs.Run(ctx) })
	if p.cfg.JobsUI != nil {
		work.Go(func() { ui = p.jobs.ServeUI(ctx, p.cfg.JobsUI) })
	}
	work.Go(func() { p.signups.Run(ctx) })
	work.Go(func() { p.rollouts.Run(ctx) })
	work.Go(func() { p.warm(ctx) })
	work.Go(func() { <-ctx.Done(); close(p.stopping) })
	p.server.SetHealthy(true)
	err := p.server.Serve(ctx, l)
	stop()
	work.Wait()
	if err != nil {
		err = fmt.Errorf("provisioner: %w", err)
	}
	return errors.Join(err, queue, ui, p.close())
}

// warm builds the current release's templates, so that the first signup does not wait for it.
func (p *Provisioner) warm(ctx context.Context) {
	current, err := p.releases.Current(ctx)
	if err != nil {
		return // The first signup will say so.
	}
	for _, name := range p.clusters.Names() {
		if _, err := p.templates.Ensure(ctx, name, current); err != nil && ctx.Err() == nil {
			p.cfg.Logger.Warn("a template was not built ahead", zap.String("cluster", name), zap.Error(err))
		}
	}
}

func (p *Provisioner) close() error {
	var err error
	if p.registry != nil {
		err = p.registry.Close()
	}
	if p.gate != nil {
		p.gate.Close()
	}
	if p.templates != nil {
		p.templates.Close()
	}
	if p.spares != nil {
		p.spares.Close()
	}
	if p.clusters != nil {
		p.clusters.Close()
	}
	if p.db != nil {
		p.db.Close()
	}
	return err
}
