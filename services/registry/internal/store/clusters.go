package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

const tlsPrefix = "CLUSTER_TLS_"

const selectCluster = "SELECT name, host, port, tls, max_tenants, connection_budget, draining, tenants, created_at FROM clusters"

func scanCluster(row pgx.Row) (*registryv1.Cluster, error) {
	c := &registryv1.Cluster{}
	var tls string
	var created time.Time
	if err := row.Scan(&c.Name, &c.Host, &c.Port, &tls, &c.MaxTenants, &c.ConnectionBudget, &c.Draining, &c.Tenants, &created); err != nil {
		return nil, err
	}
	c.Tls, c.CreateTime = registryv1.ClusterTls(registryv1.ClusterTls_value[tlsPrefix+tls]), timestamppb.New(created)
	return c, nil
}

func listClusters(ctx context.Context, db querier) ([]*registryv1.Cluster, error) {
	rows, err := db.Query(ctx, selectCluster+" ORDER BY name")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.Cluster, error) { return scanCluster(row) })
}

// ListClusters returns the clusters by name.
func (s *Store) ListClusters(ctx context.Context) ([]*registryv1.Cluster, error) {
	return listClusters(ctx, s.pool)
}

// RegisterCluster adds a cluster, or changes where it is and what it may hold. Of the cluster given, tls, name, host,
// port, max_tenants and connection_budget count.
func (s *Store) RegisterCluster(ctx context.Context, actor string, c *registryv1.Cluster) (*registryv1.Cluster, error) {
	return s.changeCluster(ctx, actor, "cluster.registered", c.GetName(), `INSERT INTO clusters (name, host, port, tls, max_tenants, connection_budget)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET host = excluded.host, port = excluded.port, tls = excluded.tls,
		max_tenants = excluded.max_tenants, connection_budget = excluded.connection_budget`,
		c.GetName(), c.GetHost(), c.GetPort(), c.GetTls().String()[len(tlsPrefix):], c.GetMaxTenants(), c.GetConnectionBudget())
}

// DrainCluster keeps new tenants off a cluster: NOT_FOUND `CLUSTER_NOT_FOUND`.
func (s *Store) DrainCluster(ctx context.Context, actor, name string) (*registryv1.Cluster, error) {
	return s.changeCluster(ctx, actor, "cluster.draining", name, "UPDATE clusters SET draining = true WHERE name = $1", name)
}

// UndrainCluster lets new tenants onto a cluster again: NOT_FOUND `CLUSTER_NOT_FOUND`.
func (s *Store) UndrainCluster(ctx context.Context, actor, name string) (*registryv1.Cluster, error) {
	return s.changeCluster(ctx, actor, "cluster.undrained", name, "UPDATE clusters SET draining = false WHERE name = $1", name)
}

func (s *Store) changeCluster(ctx context.Context, actor, action, name, sql string, args ...any) (*registryv1.Cluster, error) {
	var out *registryv1.Cluster
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sql, args...)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return clusterNotFound(name)
		}
		if out, err = scanCluster(tx.QueryRow(ctx, selectCluster+" WHERE name = $1", name)); err != nil {
			return err
		}
		if err := appendAudit(ctx, tx, event{actor: actor, action: action, subject: name}); err != nil {
			return err
		}
		return appendEvent(ctx, tx, &registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_Cluster{Cluster: out}})
	})
	return out, err
}

// RemoveCluster forgets a cluster: NOT_FOUND `CLUSTER_NOT_FOUND`, FAILED_PRECONDITION `CLUSTER_NOT_EMPTY` while any
// company is on it that is neither FAILED nor DELETED. Those keep its name.
func (s *Store) RemoveCluster(ctx context.Context, actor, name string) error {
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "DELETE FROM clusters WHERE name = $1", name)
		if err == nil && tag.RowsAffected() == 0 {
			err = clusterNotFound(name)
		}
		if err != nil {
			return err
		}
		return appendAudit(ctx, tx, event{actor: actor, action: "cluster.removed", subject: name})
	})
	if pg.Violated(err) == "tenant_databases_cluster_fkey" {
		return fault.New(codes.FailedPrecondition, fault.ClusterNotEmpty, "cluster %q still holds tenants", name).With("cluster", name).Because(err)
	}
	return err
}

func clusterNotFound(name string) error {
	return fault.New(codes.NotFound, fault.ClusterNotFound, "there is no cluster %q", name).With("cluster", name)
}

// queuePlace counts a new tenant, within a batch, on the cluster asked for, else on the one with most room. When that was
// sent, what it returns is the cluster's name, or empty when there is no place.
func queuePlace(b *pgx.Batch, wanted string) (cluster *string) {
	cluster = new(string)
	b.Queue(`UPDATE clusters SET tenants = tenants + 1 WHERE name = (SELECT name FROM clusters
		WHERE NOT draining AND tenants < max_tenants AND ($1 = '' OR name = $1) ORDER BY max_tenants - tenants DESC, name LIMIT 1 FOR UPDATE)
		RETURNING name`, wanted).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(cluster); !none(err) {
			return err
		}
		return nil
	})
	return cluster
}

// noPlace is why there is no place on a cluster, or on any.
func noPlace(ctx context.Context, db querier, wanted string) error {
	if wanted != "" {
		var exists bool
		if err := db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM clusters WHERE name = $1)", wanted).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			return clusterNotFound(wanted)
		}
	}
	return fault.New(codes.ResourceExhausted, fault.NoClusterAvailable, "no cluster takes a new tenant: all are full or being drained")
}
