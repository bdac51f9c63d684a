package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

const (
	tenantColumns = `c.id, c.slug, c.name, d.id, d.cluster, c.state, d.schema_version, d.password_version,
		ARRAY(SELECT p.plugin FROM company_plugins p WHERE p.company_id = c.id ORDER BY 1), c.purge_at`
	selectTenant = "SELECT " + tenantColumns + " FROM companies c JOIN tenant_databases d ON d.company_id = c.id"
)

func scanTenant(row pgx.Row) (*registryv1.Tenant, error) {
	t := &registryv1.Tenant{}
	var id, database uuid.UUID
	var state string
	var purge *time.Time
	if err := row.Scan(&id, &t.Slug, &t.Name, &database, &t.Cluster, &state, &t.SchemaVersion, &t.PasswordVersion, &t.Plugins, &purge); err != nil {
		return nil, err
	}
	t.PurgeTime = timestamp(purge)
	t.CompanyId, t.DatabaseId, t.State = id.String(), database.String(), stateOf(state)
	return t, nil
}

// Tenant returns a company as the provisioner needs it: NOT_FOUND `COMPANY_NOT_FOUND`.
func (s *Store) Tenant(ctx context.Context, id uuid.UUID) (*registryv1.Tenant, error) {
	t, err := scanTenant(s.pool.QueryRow(ctx, selectTenant+" WHERE c.id = $1", id))
	if none(err) {
		return nil, companyNotFound(id.String())
	}
	return t, err
}

// ListTenants returns tenants that have a database in use, and DELETING ones if wanted, in order of id after one, of one
// cluster or of all.
func (s *Store) ListTenants(ctx context.Context, cluster string, deleting bool, after uuid.UUID, limit int) ([]*registryv1.Tenant, error) {
	rows, err := s.pool.Query(ctx, selectTenant+` WHERE c.id > $1 AND (c.state IN ('ACTIVE', 'SUSPENDED', 'MAINTENANCE') OR $4 AND c.state = 'DELETING')
		AND ($2 = '' OR d.cluster = $2) ORDER BY c.id LIMIT $3`, after, cluster, limit, deleting)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.Tenant, error) { return scanTenant(row) })
}

// Activate opens a PROVISIONING company whose database, the reserved one or another, is at a version; an ACTIVE one stays
// as it is.
func (s *Store) Activate(ctx context.Context, actor string, id uuid.UUID, database *uuid.UUID, schemaVersion string) (*registryv1.Tenant, error) {
	err := s.changeState(ctx, id, transition{actor: actor, action: "company.activated",
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_PROVISIONING}, to: registryv1.CompanyState_COMPANY_STATE_ACTIVE,
		writes: func(b *pgx.Batch) {
			b.Queue("UPDATE tenant_databases SET schema_version = $2, id = coalesce($3, id) WHERE company_id = $1", id, schemaVersion, database)
		}})
	if database != nil && pg.Violated(err) == databaseKey {
		return nil, databaseTaken("database_id", *database).Because(err)
	}
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// Fail gives a PROVISIONING company up: its slug and its owner's e-mail are free, and its cluster has room again. A
// FAILED one stays as it is.
func (s *Store) Fail(ctx context.Context, actor string, id uuid.UUID, reason string) (*registryv1.Tenant, error) {
	err := s.changeState(ctx, id, transition{actor: actor, action: "company.failed", reason: reason,
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_PROVISIONING}, to: registryv1.CompanyState_COMPANY_STATE_FAILED,
		writes: func(b *pgx.Batch) {
			b.Queue("DELETE FROM users WHERE company_id = $1", id)
			b.Queue("UPDATE clusters SET tenants = tenants - 1 WHERE name = (SELECT cluster FROM tenant_databases WHERE company_id = $1)", id)
		}})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// RecordSchemaVersion notes what version a tenant's database is at, and tells the gateways when that is news.
// FAILED_PRECONDITION `DATABASE_CHANGED` when the company has another database.
func (s *Store) RecordSchemaVersion(ctx context.Context, id, database uuid.UUID, version string) error {
	return pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		c, err := lockCompany(ctx, tx, id)
		if err != nil {
			return err
		}
		news, err := setVersion(ctx, tx, id, database, version)
		// A company that is being made has no route yet.
		if err != nil || !news || c.GetState() == registryv1.CompanyState_COMPANY_STATE_PROVISIONING {
			return err
		}
		return appendRoute(ctx, tx, id)
	})
}

// Version is what version a company's database is at.
type Version struct {
	CompanyID, DatabaseID uuid.UUID
	SchemaVersion         string
}

// RecordSchemaVersions is RecordSchemaVersion of many at once. It leaves out, and returns, companies that have another
// database or none.
func (s *Store) RecordSchemaVersions(ctx context.Context, versions []Version) (others []uuid.UUID, err error) {
	companies, databases, texts := make([]uuid.UUID, len(versions)), make([]uuid.UUID, len(versions)), make([]string, len(versions))
	for i, v := range versions {
		companies[i], databases[i], texts[i] = v.CompanyID, v.DatabaseID, v.SchemaVersion
	}
	const given = "unnest($1::uuid[], $2::uuid[], $3::text[]) v (company_id, database_id, schema_version)"
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		// In one order, or two of these could wait for each other.
		rows, err := tx.Query(ctx, "SELECT id FROM companies WHERE id = ANY($1) AND state <> 'PROVISIONING' ORDER BY id FOR UPDATE", companies)
		if err != nil {
			return err
		}
		locked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, "SELECT v.company_id FROM "+given+` WHERE v.company_id <> ALL($4) OR NOT EXISTS
			(SELECT FROM tenant_databases d WHERE d.company_id = v.company_id AND d.id = v.database_id)`, companies, databases, texts, locked); err != nil {
			return err
		}
		if others, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID]); err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, "UPDATE tenant_databases d SET schema_version = v.schema_version FROM "+given+` WHERE d.company_id = v.company_id AND d.id = v.database_id
			AND d.schema_version <> v.schema_version AND d.company_id = ANY($4) RETURNING d.company_id`, companies, databases, texts, locked); err != nil {
			return err
		}
		news, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		return appendRoutes(ctx, tx, news)
	})
	return others, err
}

// setVersion notes what version the database of a locked company is at, and whether that is news: FAILED_PRECONDITION
// `DATABASE_CHANGED`.
func setVersion(ctx context.Context, tx pgx.Tx, id, database uuid.UUID, version string) (news bool, err error) {
	// The statement that waited for the company's lock saw its database as it was before.
	var now uuid.UUID
	var before string
	if err := tx.QueryRow(ctx, "SELECT id, schema_version FROM tenant_databases WHERE company_id = $1", id).Scan(&now, &before); err != nil {
		return false, err
	}
	if now != database {
		return false, databaseChanged(id)
	}
	if before == version {
		return false, nil
	}
	_, err = tx.Exec(ctx, "UPDATE tenant_databases SET schema_version = $2 WHERE company_id = $1", id, version)
	return true, err
}

func reservationNotFound(requestID string) error {
	return fault.New(codes.NotFound, fault.ReservationNotFound, "nothing was reserved by request %q", requestID).With("request_id", requestID)
}
