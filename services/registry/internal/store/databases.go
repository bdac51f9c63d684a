package store

import (
	"context"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// databaseKey is what keeps two companies, even a DELETED one and another, from one database.
const databaseKey = "tenant_databases_pkey"

func databaseTaken(field string, id uuid.UUID) *fault.Error {
	return fault.Invalid(field, "got %s, which is or was another company's, want a database that is nobody's", id)
}

func databaseChanged(company uuid.UUID) error {
	return fault.New(codes.FailedPrecondition, fault.DatabaseChanged, "the company has got another database meanwhile").With("company_id", company.String())
}

// RecordPasswordVersion notes which derivation of its password the role of a company's database has, and tells the gateways.
// FAILED_PRECONDITION `DATABASE_CHANGED`, `COMPANY_STATE_INVALID`; INVALID_ARGUMENT when it is neither the one that is
// recorded nor the next.
func (s *Store) RecordPasswordVersion(ctx context.Context, actor string, id, database uuid.UUID, version int32) error {
	return s.whileInUse(ctx, id, func(ctx context.Context, tx pgx.Tx, before *registryv1.Tenant) error {
		switch recorded := before.GetPasswordVersion(); {
		case before.GetDatabaseId() != database.String():
			return databaseChanged(id)
		case version == recorded:
			return nil
		case version != recorded+1:
			return fault.Invalid("password_version", "got %d, want %d, which is recorded, or the next", version, recorded)
		}
		if _, err := tx.Exec(ctx, "UPDATE tenant_databases SET password_version = $2 WHERE company_id = $1", id, version); err != nil {
			return err
		}
		if err := appendAudit(ctx, tx, event{actor: actor, action: "company.password_rotated", company: id,
			details: map[string]string{"password_version": strconv.Itoa(int(version))}}); err != nil {
			return err
		}
		return appendRoute(ctx, tx, id)
	})
}

// SwitchDatabase gives a company in use another database. It answers the same when it has that one already.
// FAILED_PRECONDITION `DATABASE_CHANGED`, `COMPANY_STATE_INVALID`; NOT_FOUND `CLUSTER_NOT_FOUND`; INVALID_ARGUMENT when the
// database is another company's.
func (s *Store) SwitchDatabase(ctx context.Context, actor, action string, id, from, to uuid.UUID, cluster, schemaVersion string) (*registryv1.Tenant, error) {
	err := s.whileInUse(ctx, id, func(ctx context.Context, tx pgx.Tx, before *registryv1.Tenant) error {
		switch before.GetDatabaseId() {
		case to.String():
			return nil
		case from.String():
		default:
			return databaseChanged(id)
		}
		if _, err := tx.Exec(ctx, "UPDATE clusters SET tenants = tenants - 1 WHERE name = $1", before.GetCluster()); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, "UPDATE clusters SET tenants = tenants + 1 WHERE name = $1", cluster)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return clusterNotFound(cluster)
		}
		if _, err := tx.Exec(ctx, "UPDATE tenant_databases SET id = $2, cluster = $3, schema_version = $4, password_version = $5 WHERE company_id = $1",
			id, to, cluster, schemaVersion, credential.FirstPasswordVersion); err != nil {
			return err
		}
		if err := appendAudit(ctx, tx, event{actor: actor, action: "company." + action, company: id,
			details: map[string]string{"from_database": from.String(), "to_database": to.String(), "cluster": cluster}}); err != nil {
			return err
		}
		return appendRoute(ctx, tx, id)
	})
	if pg.Violated(err) == databaseKey {
		return nil, databaseTaken("to_database_id", to).Because(err)
	}
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}
