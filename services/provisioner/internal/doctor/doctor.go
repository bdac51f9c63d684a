// Package doctor looks for what does not belong together, both ways round: companies without a database, databases and
// roles without a company, versions that disagree. It mends what is safe to mend; what may be somebody's only copy of
// something is an operator's to judge.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
)

// Doctor examines the whole system.
type Doctor struct {
	db       *pgxpool.Pool
	tenants  registryv1.TenantServiceClient
	clusters *cluster.Set
	releases *release.Store
}

// New returns a doctor.
func New(db *pgxpool.Pool, tenants registryv1.TenantServiceClient, clusters *cluster.Set, releases *release.Store) *Doctor {
	return &Doctor{db, tenants, clusters, releases}
}

// Examine tells each thing that it finds, and mends it first when it may and mend is set.
func (d *Doctor) Examine(ctx context.Context, mend bool, tell func(*provisionerv1.ExamineResponse) error) error {
	e := &examination{Doctor: d, mend: mend, tell: tell, known: map[string]map[uuid.UUID]bool{}}
	// What is under way is read before the clusters, and what companies have after them: a database that is made meanwhile
	// is in neither list of unknown ones, since it is recorded before it is made.
	servers := map[string]*cluster.Inventory{}
	for _, name := range d.clusters.Names() {
		inventory, err := d.clusters.Inventory(ctx, name)
		if err != nil {
			if err := e.found(&provisionerv1.ExamineResponse{Kind: provisionerv1.AilmentKind_AILMENT_KIND_CLUSTER_UNREACHABLE, Cluster: name, Message: fault.From(err).Text}, nil); err != nil {
				return err
			}
			continue
		}
		servers[name] = inventory
	}
	if err := e.underWay(ctx); err != nil {
		return err
	}
	if err := e.companies(ctx, servers); err != nil {
		return err
	}
	for _, name := range d.clusters.Names() {
		if servers[name] == nil {
			continue
		}
		if err := e.strangers(ctx, name, servers[name]); err != nil {
			return err
		}
	}
	return nil
}

type examination struct {
	*Doctor
	mend  bool
	tell  func(*provisionerv1.ExamineResponse) error
	known map[string]map[uuid.UUID]bool // databases that belong to something, by cluster; "" for any
}

// found tells a finding, mended if remedy is not nil and it may be.
func (e *examination) found(f *provisionerv1.ExamineResponse, remedy func() error) error {
	f.Mendable = remedy != nil
	if e.mend && remedy != nil {
		if err := remedy(); err != nil {
			f.Message += "; and it could not be mended: " + fault.From(err).Text
		} else {
			f.Mended = true
		}
	}
	return e.tell(f)
}

func (e *examination) knows(clusterName string, id uuid.UUID) {
	if e.known[clusterName] == nil {
		e.known[clusterName] = map[uuid.UUID]bool{}
	}
	e.known[clusterName][id] = true
}

// underWay reads what signups, spares and removals have recorded.
func (e *examination) underWay(ctx context.Context) error {
	rows, err := e.db.Query(ctx, "SELECT id FROM spares UNION SELECT database_id FROM attempts UNION SELECT database_id FROM condemned")
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	for _, id := range ids {
		e.knows("", id)
	}
	return err
}

// companies looks whether each company has what it should have.
func (e *examination) companies(ctx context.Context, servers map[string]*cluster.Inventory) error {
	stream, err := e.tenants.ListTenants(ctx, &registryv1.ListTenantsRequest{IncludeDeleting: true})
	if err != nil {
		return err
	}
	for {
		some, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, t := range some.GetTenants() {
			if err := e.company(ctx, t, servers); err != nil {
				return err
			}
		}
	}
}

func (e *examination) company(ctx context.Context, t *registryv1.Tenant, servers map[string]*cluster.Inventory) error {
	id, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return err
	}
	e.knows(t.GetCluster(), id)
	name := tenant.DatabaseName(id)
	finding := func(kind provisionerv1.AilmentKind, format string, args ...any) *provisionerv1.ExamineResponse {
		return &provisionerv1.ExamineResponse{Kind: kind, Cluster: t.GetCluster(), Subject: name, CompanyId: t.GetCompanyId(), Message: fmt.Sprintf(format, args...)}
	}
	server, ok := servers[t.GetCluster()]
	switch {
	case !ok && !slices.Contains(e.clusters.Names(), t.GetCluster()):
		return e.found(finding(provisionerv1.AilmentKind_AILMENT_KIND_CLUSTER_UNREACHABLE, "company %s is on a cluster that this provisioner has no administrator for", t.GetSlug()), nil)
	case !ok:
		return nil // The cluster was told of.
	case !server.Databases[name].Exists:
		// It may have been made since the server was looked at, or replaced by a restore.
		if exists, err := e.clusters.Exists(ctx, t.GetCluster(), name); err != nil || exists {
			return err
		}
		return e.found(finding(provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_MISSING, "company %s has no database: restore it from a backup", t.GetSlug()), nil)
	}
	if server.Databases[name].Open {
		if err := e.found(finding(provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_OPEN, "the database of company %s lets everyone in", t.GetSlug()), func() error {
			return e.clusters.Open(ctx, t.GetCluster(), id, t.GetPasswordVersion())
		}); err != nil {
			return err
		}
	}
	if !server.Roles[name] {
		if err := e.found(finding(provisionerv1.AilmentKind_AILMENT_KIND_ROLE_MISSING, "company %s has no role to log in to its database with", t.GetSlug()), func() error {
			return e.clusters.Open(ctx, t.GetCluster(), id, t.GetPasswordVersion())
		}); err != nil {
			return err
		}
	}
	return e.version(ctx, t, name, finding)
}

// version compares what the registry has with what the database says.
func (e *examination) version(ctx context.Context, t *registryv1.Tenant, name string, finding func(provisionerv1.AilmentKind, string, ...any) *provisionerv1.ExamineResponse) (err error) {
	conn, err := e.clusters.Connect(ctx, t.GetCluster(), name)
	if err != nil {
		return e.found(finding(provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_MISSING, "the database of company %s cannot be entered: %s", t.GetSlug(), fault.From(err).Text), nil)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	at, err := migrate.Version(ctx, conn, "")
	if err != nil {
		return err
	}
	if at == "" || at == t.GetSchemaVersion() {
		return nil
	}
	return e.found(finding(provisionerv1.AilmentKind_AILMENT_KIND_VERSION_DIFFERS, "company %s is at version %s, and the registry has %s", t.GetSlug(), at, t.GetSchemaVersion()), func() error {
		_, err := e.tenants.RecordSchemaVersion(ctx, &registryv1.RecordSchemaVersionRequest{CompanyId: t.GetCompanyId(), DatabaseId: t.GetDatabaseId(), SchemaVersion: at})
		return err
	})
}

// strangers looks for databases and roles that belong to nothing.
func (e *examination) strangers(ctx context.Context, clusterName string, server *cluster.Inventory) error {
	for name := range server.Databases {
		id, ok := tenant.ParseDatabaseName(name)
		if !ok || e.known[""][id] || e.known[clusterName][id] {
			continue
		}
		if err := e.found(&provisionerv1.ExamineResponse{Kind: provisionerv1.AilmentKind_AILMENT_KIND_DATABASE_UNKNOWN, Cluster: clusterName, Subject: name,
			Message: "no company has this database, and no recorded work made it: look at it, then drop it or give it back"}, nil); err != nil {
			return err
		}
	}
	for name := range server.Roles {
		id, ok := tenant.ParseDatabaseName(name)
		if !ok || server.Databases[name].Exists || e.known[""][id] || e.known[clusterName][id] {
			continue
		}
		if err := e.found(&provisionerv1.ExamineResponse{Kind: provisionerv1.AilmentKind_AILMENT_KIND_ROLE_UNKNOWN, Cluster: clusterName, Subject: name,
			Message: "this role is for a database that is not there"}, func() error { return e.clusters.DropRole(ctx, clusterName, id) }); err != nil {
			return err
		}
	}
	return nil
}
