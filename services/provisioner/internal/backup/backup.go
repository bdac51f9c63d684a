// Package backup copies tenants' databases out and in, as streams of pg_dump's custom format, and gives a company a copy in
// the place of the database that it has. A copy becomes a database of its own, and only when it is whole, at its release,
// closed to others and provided with its role the company's route is switched to it.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/removal"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
	"github.com/tenantry/tenantry/services/provisioner/internal/template"
)

const (
	// life is how long a copy that is being restored stays when the one who restores it dies, and renewEvery how often
	// that is put off.
	life       = time.Minute
	renewEvery = 15 * time.Second
	// grace is how long the old database stays for calls that are under way on it.
	grace = 30 * time.Second
)

// Keeper makes copies and restores them.
type Keeper struct {
	clusters *cluster.Set
	tenants  registryv1.TenantServiceClient
	releases *release.Store
	removals *removal.Remover
}

// NewKeeper returns a keeper.
func NewKeeper(clusters *cluster.Set, tenants registryv1.TenantServiceClient, releases *release.Store, removals *removal.Remover) *Keeper {
	return &Keeper{clusters, tenants, releases, removals}
}

// Manifest says what a copy of a tenant would be of.
func (k *Keeper) Manifest(ctx context.Context, t *registryv1.Tenant) (*provisionerv1.BackupManifest, error) {
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	current, err := k.releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	version, err := k.clusters.Version(ctx, t.GetCluster())
	if err != nil {
		return nil, err
	}
	return &provisionerv1.BackupManifest{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), Name: t.GetName(), Database: tenant.DatabaseName(database),
		SchemaVersion: t.GetSchemaVersion(), Release: current.Hash, Plugins: t.GetPlugins(), ServerVersion: version, CreateTime: timestamppb.Now()}, nil
}

// Dump writes a copy of a tenant's database: `PROGRAM_NOT_FOUND`.
func (k *Keeper) Dump(ctx context.Context, t *registryv1.Tenant, w io.Writer) (Sum, error) {
	programs, err := Find()
	if err != nil {
		return Sum{}, err
	}
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return Sum{}, err
	}
	dsn, err := k.clusters.DSN(t.GetCluster(), tenant.DatabaseName(database))
	if err != nil {
		return Sum{}, err
	}
	return programs.Dump(ctx, dsn, w)
}

// Fill makes the database of an id of a copy, closed to everyone but its role. Whatever was there under the id is dropped
// first. It is at the copy's version; see schema.Bring.
func (k *Keeper) Fill(ctx context.Context, clusterName string, id uuid.UUID, r io.Reader) (Sum, error) {
	programs, err := Find()
	if err != nil {
		return Sum{}, err
	}
	if err := k.clusters.Drop(ctx, clusterName, id); err != nil {
		return Sum{}, err
	}
	if err := k.clusters.CreateEmpty(ctx, clusterName, id); err != nil {
		return Sum{}, err
	}
	dsn, err := k.clusters.DSN(clusterName, tenant.DatabaseName(id))
	if err != nil {
		return Sum{}, err
	}
	sum, err := programs.Restore(ctx, dsn, r)
	if err != nil {
		return sum, err
	}
	err = k.connected(ctx, clusterName, id, func(conn *pgx.Conn) error { return template.Secure(ctx, conn) })
	return sum, err
}

func (k *Keeper) connected(ctx context.Context, clusterName string, id uuid.UUID, f func(conn *pgx.Conn) error) (err error) {
	conn, err := k.clusters.Connect(ctx, clusterName, tenant.DatabaseName(id))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return f(conn)
}

// Restore gives a company a copy in the place of its database. check is called with what was read, before anything is
// switched. If it fails, the company has what it had, and nothing is left of the copy.
func (k *Keeper) Restore(ctx context.Context, t *registryv1.Tenant, r io.Reader, check func(Sum) error, actor string) (*registryv1.Tenant, error) {
	old, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	after, err := k.whileKept(ctx, id, t, func(ctx context.Context) (*registryv1.Tenant, error) {
		return k.restore(ctx, t, old, id, r, check, actor)
	})
	if err != nil {
		// It may be that the switch was made and its answer was lost: the janitor asks before it drops either.
		clean := context.WithoutCancel(ctx)
		return nil, errors.Join(err, k.removals.Condemn(clean, id, t.GetCluster(), t.GetCompanyId(), removal.Restoring, time.Now()))
	}
	return after, k.removals.Pardon(ctx, id)
}

// whileKept records that a database is being filled, so that it goes if this copy of the provisioner does.
func (k *Keeper) whileKept(ctx context.Context, id uuid.UUID, t *registryv1.Tenant, f func(ctx context.Context) (*registryv1.Tenant, error)) (*registryv1.Tenant, error) {
	renew := func(ctx context.Context) error {
		return k.removals.Condemn(ctx, id, t.GetCluster(), t.GetCompanyId(), removal.Restoring, time.Now().Add(life))
	}
	if err := renew(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if renew(ctx) == nil {
				last = time.Now()
			} else if time.Since(last) > life-renewEvery {
				cancel() // It may be dropped any moment.
				return
			}
		}
	})
	defer renewal.Wait()
	defer cancel()
	return f(ctx)
}

func (k *Keeper) restore(ctx context.Context, t *registryv1.Tenant, old, id uuid.UUID, r io.Reader, check func(Sum) error, actor string) (*registryv1.Tenant, error) {
	sum, err := k.Fill(ctx, t.GetCluster(), id, r)
	if err != nil {
		return nil, err
	}
	if err := check(sum); err != nil {
		return nil, err
	}
	current, err := k.releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	version := ""
	err = k.connected(ctx, t.GetCluster(), id, func(conn *pgx.Conn) error {
		results, err := schema.Bring(ctx, conn, current, t.GetPlugins(), schema.Options{})
		if err == nil {
			version = results[0].To
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if version == "" {
		return nil, fault.New(codes.InvalidArgument, fault.BackupInvalid, "the copy has no history of migrations: it is not of a tenant's database")
	}
	if err := k.clusters.Open(ctx, t.GetCluster(), id, credential.FirstPasswordVersion); err != nil {
		return nil, err
	}
	if err := k.removals.Condemn(ctx, old, t.GetCluster(), t.GetCompanyId(), removal.Replaced, time.Now().Add(grace)); err != nil {
		return nil, err
	}
	out, err := k.tenants.SwitchDatabase(ctx, &registryv1.SwitchDatabaseRequest{CompanyId: t.GetCompanyId(), FromDatabaseId: old.String(), ToDatabaseId: id.String(),
		Cluster: t.GetCluster(), SchemaVersion: version, Action: "restored", Actor: actor})
	if err != nil {
		return nil, fmt.Errorf("switch to the restored database: %w", err)
	}
	return out.GetTenant(), nil
}

// Copy fills the database of an id with a copy of a tenant's, without anything in between.
func (k *Keeper) Copy(ctx context.Context, from *registryv1.Tenant, clusterName string, id uuid.UUID) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, writer := io.Pipe()
	dumped := make(chan error, 1)
	go func() {
		_, err := k.Dump(ctx, from, writer)
		dumped <- errors.Join(err, writer.CloseWithError(err))
	}()
	_, err := k.Fill(ctx, clusterName, id, reader)
	_ = reader.CloseWithError(errors.New("the copy is not wanted any more"))
	return errors.Join(err, <-dumped)
}
