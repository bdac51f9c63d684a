// Package cluster is the provisioner's hand on PostgreSQL servers: as their administrator it makes tenants' databases and
// roles, closes them to everyone else, and drops them. What is inside a database is other packages' business.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/scratch"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

// TenantGroup is the role that every tenant's role is in, and that has the rights on tenants' tables.
const TenantGroup = "tenantry_tenant"

const (
	// poolSize is for statements on the server itself; databases have connections of their own.
	poolSize = 12
	// clones is how many databases are cloned at once on one server: of more, fewer a second are done, see
	// docs/benchmarks.md.
	clones = 3
)

// Set is the clusters that the provisioner administers.
type Set struct {
	key     credential.MasterKey
	members map[string]*member
}

type member struct {
	name   string
	config *pgxpool.Config
	slots  chan struct{}

	mu       sync.Mutex
	pool     *pgxpool.Pool
	prepared bool
	strategy string // of CREATE DATABASE
}

// New returns the set of these clusters, by name and administrator's DSN. It connects when one is first used.
func New(dsns map[string]string, key credential.MasterKey) (*Set, error) {
	s := &Set{key: key, members: make(map[string]*member, len(dsns))}
	for name, dsn := range dsns {
		cfg, err := pgxpool.ParseConfig(dsn)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: the administrator's connection string: %w", name, err)
		}
		cfg.MaxConns = poolSize
		cfg.ConnConfig.RuntimeParams["application_name"] = "tenantry provisioner"
		s.members[name] = &member{name: name, config: cfg, slots: make(chan struct{}, clones)}
	}
	return s, nil
}

// Close closes every connection that the set opened by itself.
func (s *Set) Close() {
	for _, m := range s.members {
		m.mu.Lock()
		if m.pool != nil {
			m.pool.Close()
		}
		m.mu.Unlock()
	}
}

// Names are the clusters' names, sorted.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.members)) }

// member returns a cluster that is ready: NOT_FOUND `CLUSTER_NOT_FOUND` when this provisioner does not administer it.
func (s *Set) member(ctx context.Context, name string) (*member, *pgxpool.Pool, error) {
	m, ok := s.members[name]
	if !ok {
		return nil, nil, notAdministered(name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pool == nil {
		pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), m.config.Copy())
		if err != nil {
			return nil, nil, m.unavailable(err)
		}
		m.pool = pool
	}
	if !m.prepared {
		if err := m.prepare(ctx); err != nil {
			return nil, nil, m.unavailable(err)
		}
		m.prepared = true
	}
	return m, m.pool, nil
}

func notAdministered(name string) error {
	return fault.New(codes.NotFound, fault.ClusterNotFound, "this provisioner has no administrator for cluster %q: see --cluster", name).With("cluster", name)
}

func (m *member) unavailable(err error) error {
	if pg.IsUnavailable(err) {
		return fault.New(codes.Unavailable, fault.DatabaseUnavailable, "cluster %s cannot be reached", m.name).With("cluster", m.name).Because(err)
	}
	return fmt.Errorf("cluster %s: %w", m.name, err)
}

// prepare makes the group role, and closes every database there is to roles that were not let in by name. Those that nobody
// can connect to are left alone: whoever makes them closes them.
func (m *member) prepare(ctx context.Context) error {
	_, err := m.pool.Exec(ctx, "CREATE ROLE "+TenantGroup+" NOLOGIN")
	if code := pg.Code(err); err != nil && code != pgerrcode.DuplicateObject && code != pgerrcode.UniqueViolation {
		return err
	}
	rows, err := m.pool.Query(ctx, `SELECT datname FROM pg_database d WHERE datallowconn
		AND (datacl IS NULL OR EXISTS (SELECT FROM aclexplode(datacl) WHERE grantee = 0)) AND pg_has_role(datdba, 'USAGE')`)
	if err != nil {
		return err
	}
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range open {
		_, err := m.pool.Exec(ctx, "REVOKE ALL ON DATABASE "+pg.Quote(name)+" FROM PUBLIC")
		// One that was dropped meanwhile is closed, and one that another copy is closing will be.
		if code := pg.Code(err); err != nil && code != pgerrcode.InvalidCatalogName && code != pgerrcode.InternalError {
			return err
		}
	}
	return m.pool.QueryRow(ctx, "SELECT CASE WHEN current_setting('fsync') = 'off' OR current_setting('file_copy_method', true) = 'clone' THEN 'file_copy' ELSE 'wal_log' END").Scan(&m.strategy)
}

// Connect connects to one database of a cluster as its administrator. The caller closes the connection.
func (s *Set) Connect(ctx context.Context, cluster, database string) (*pgx.Conn, error) {
	m, _, err := s.member(ctx, cluster)
	if err != nil {
		return nil, err
	}
	cfg := m.config.ConnConfig.Copy()
	cfg.Database = database
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // Hardly any statement is sent twice.
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, m.unavailable(err)
	}
	return conn, nil
}

// Admin connects to a cluster's maintenance database. The caller closes the connection.
func (s *Set) Admin(ctx context.Context, cluster string) (*pgx.Conn, error) {
	m, ok := s.members[cluster]
	if !ok {
		return nil, notAdministered(cluster)
	}
	return s.Connect(ctx, cluster, m.config.ConnConfig.Database)
}

// DSN is the URI of one database of a cluster for its administrator, with the password.
func (s *Set) DSN(cluster, database string) (string, error) {
	m, ok := s.members[cluster]
	if !ok {
		return "", notAdministered(cluster)
	}
	return uri(m.config.ConnConfig, database)
}

// Exists tells whether a cluster has a database.
func (s *Set) Exists(ctx context.Context, cluster, database string) (exists bool, err error) {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return false, err
	}
	if err := pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database).Scan(&exists); err != nil {
		return false, m.unavailable(err)
	}
	return exists, nil
}

// Size is a database's size in bytes.
func (s *Set) Size(ctx context.Context, cluster, database string) (size int64, err error) {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return 0, err
	}
	if err := pool.QueryRow(ctx, "SELECT pg_database_size($1)", database).Scan(&size); err != nil {
		return 0, m.unavailable(err)
	}
	return size, nil
}

// Create makes a tenant's database as a clone of a template, and its role. It may be repeated: what is there stays. While
// the database is not closed to everyone else, nobody can connect to it.
//
// With fsync on, STRATEGY wal_log is by far the faster, see docs/benchmarks.md: file_copy makes two checkpoints. Without
// fsync those cost little, and file_copy is the faster; so it is where file_copy_method (PostgreSQL 18 and later) is clone,
// which has the file system share the blocks.
func (s *Set) Create(ctx context.Context, cluster, template string, id uuid.UUID, passwordVersion int32) error {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return err
	}
	name := pg.Quote(tenant.DatabaseName(id))
	exists, err := s.Exists(ctx, cluster, tenant.DatabaseName(id))
	if err != nil {
		return err
	}
	if !exists {
		if err := m.clone(ctx, pool, name, template); err != nil {
			return m.unavailable(err)
		}
	}
	return s.Open(ctx, cluster, id, passwordVersion)
}

// Open makes a tenant's login role, or gives the one that is there the password and the group that it should have, closes
// the tenant's database to everyone else, and lets connections in. It may be repeated.
func (s *Set) Open(ctx context.Context, cluster string, id uuid.UUID, passwordVersion int32) error {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return err
	}
	password, err := s.key.RolePassword(id, passwordVersion)
	if err != nil {
		return err
	}
	verifier, err := credential.SCRAMVerifier(password)
	if err != nil {
		return err
	}
	name := pg.Quote(tenant.DatabaseName(id))
	options := " LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD '" + verifier + "'"
	open := "; REVOKE ALL ON DATABASE " + name + " FROM PUBLIC; GRANT CONNECT ON DATABASE " + name + " TO " + name +
		"; ALTER DATABASE " + name + " WITH ALLOW_CONNECTIONS true"
	// One message is one transaction, and one wait for the disk.
	_, err = pool.Exec(ctx, "CREATE ROLE "+name+options+" IN ROLE "+TenantGroup+open, pgx.QueryExecModeSimpleProtocol)
	if pg.Code(err) == pgerrcode.DuplicateObject {
		_, err = pool.Exec(ctx, "ALTER ROLE "+name+options+"; GRANT "+TenantGroup+" TO "+name+open, pgx.QueryExecModeSimpleProtocol)
	}
	if err != nil {
		return m.unavailable(err)
	}
	return nil
}

// CreateEmpty makes a tenant's database without anything in it, which only the administrator can enter until it is opened.
func (s *Set) CreateEmpty(ctx context.Context, cluster string, id uuid.UUID) error {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return err
	}
	if err := pg.CreateDatabase(ctx, pool, tenant.DatabaseName(id)); err != nil {
		return m.unavailable(err)
	}
	return nil
}

// Version is that of a cluster's PostgreSQL, such as `15.14`.
func (s *Set) Version(ctx context.Context, cluster string) (version string, err error) {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return "", err
	}
	if err := pool.QueryRow(ctx, "SELECT split_part(current_setting('server_version'), ' ', 1)").Scan(&version); err != nil {
		return "", m.unavailable(err)
	}
	return version, nil
}

func (m *member) clone(ctx context.Context, pool *pgxpool.Pool, name, template string) error {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := pool.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+pg.Quote(template)+" STRATEGY "+m.strategy+" ALLOW_CONNECTIONS false")
	if pg.Code(err) == pgerrcode.DuplicateDatabase {
		return nil
	}
	return err
}

// DropRole drops a tenant's role that has no database any more. It may be repeated.
func (s *Set) DropRole(ctx context.Context, cluster string, id uuid.UUID) error {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, "DROP ROLE IF EXISTS "+pg.Quote(tenant.DatabaseName(id))); err != nil {
		return m.unavailable(err)
	}
	return nil
}

// Found is a database of a cluster.
type Found struct {
	Exists bool
	// Open says that everyone may connect.
	Open bool
}

// Inventory is what there is of tenants on a cluster.
type Inventory struct {
	// Databases and Roles are those that are named as tenants' are.
	Databases map[string]Found
	Roles     map[string]bool
}

// Inventory lists tenants' databases and roles on a cluster.
func (s *Set) Inventory(ctx context.Context, cluster string) (*Inventory, error) {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return nil, err
	}
	out := &Inventory{Databases: map[string]Found{}, Roles: map[string]bool{}}
	var name string
	var open bool
	rows, err := pool.Query(ctx, `SELECT datname, datacl IS NULL OR EXISTS (SELECT FROM aclexplode(datacl) WHERE grantee = 0) FROM pg_database WHERE starts_with(datname, 'tenant_')`)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&name, &open}, func() error {
			out.Databases[name] = Found{true, open}
			return nil
		})
	}
	if err != nil {
		return nil, m.unavailable(err)
	}
	rows, err = pool.Query(ctx, "SELECT rolname FROM pg_roles WHERE rolcanlogin AND starts_with(rolname, 'tenant_')")
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&name}, func() error {
			out.Roles[name] = true
			return nil
		})
	}
	if err != nil {
		return nil, m.unavailable(err)
	}
	return out, nil
}

// Drop drops a tenant's database, whoever is connected, and its role. It may be repeated.
func (s *Set) Drop(ctx context.Context, cluster string, id uuid.UUID) error {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return err
	}
	name := pg.Quote(tenant.DatabaseName(id))
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + name + " WITH (FORCE)", "DROP ROLE IF EXISTS " + name} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return m.unavailable(err)
		}
	}
	return nil
}

// Scratch is where databases for one look at something are made.
func (s *Set) Scratch(cluster string) scratch.Server {
	return scratch.Server{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return s.Admin(ctx, cluster) },
		DSN:     func(database string) (string, error) { return s.DSN(cluster, database) },
	}
}

// Exclusive runs f while no other provisioner runs it for the same cluster and key. f gets the connection to the server's
// maintenance database that holds the lock.
func (s *Set) Exclusive(ctx context.Context, cluster, key string, f func(conn *pgx.Conn) error) (err error) {
	m, _, err := s.member(ctx, cluster)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, m.config.ConnConfig.Copy())
	if err != nil {
		return m.unavailable(err)
	}
	// Closing the connection gives the lock back, however f ended.
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", key); err != nil {
		return m.unavailable(err)
	}
	return f(conn)
}
