package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// inUse are the states of companies that have a database in use.
var inUse = []registryv1.CompanyState{
	registryv1.CompanyState_COMPANY_STATE_ACTIVE, registryv1.CompanyState_COMPANY_STATE_SUSPENDED, registryv1.CompanyState_COMPANY_STATE_MAINTENANCE,
}

// BeginDeletion closes a company until a time from which on its database may be dropped. A DELETING one keeps its time.
// FAILED_PRECONDITION `COMPANY_STATE_INVALID`.
func (s *Store) BeginDeletion(ctx context.Context, actor string, id uuid.UUID, purge time.Time) (*registryv1.Tenant, error) {
	_, err := s.changeState(ctx, id, transition{actor: actor, action: "company.deleting", from: inUse,
		to: registryv1.CompanyState_COMPANY_STATE_DELETING, purge: &purge})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// CancelDeletion gives a DELETING company the state back that it had; one that had MAINTENANCE is ACTIVE. A company that is
// in use is left as it is. FAILED_PRECONDITION `PURGE_TIME_PASSED`, `COMPANY_STATE_INVALID`.
func (s *Store) CancelDeletion(ctx context.Context, actor string, id uuid.UUID) (*registryv1.Tenant, error) {
	var before string
	err := s.pool.QueryRow(ctx, "SELECT coalesce(state_before, state) FROM companies WHERE id = $1", id).Scan(&before)
	if none(err) {
		return nil, companyNotFound(id.String())
	}
	if err != nil {
		return nil, err
	}
	to := stateOf(before)
	if to == registryv1.CompanyState_COMPANY_STATE_MAINTENANCE || to == registryv1.CompanyState_COMPANY_STATE_DELETED || to == registryv1.CompanyState_COMPANY_STATE_FAILED {
		to = registryv1.CompanyState_COMPANY_STATE_ACTIVE
	}
	_, err = s.changeState(ctx, id, transition{actor: actor, action: "company.undeleted",
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_DELETING}, to: to, check: func(ctx context.Context, tx pgx.Tx) error {
			var late bool
			if err := tx.QueryRow(ctx, "SELECT purge_at <= clock_timestamp() FROM companies WHERE id = $1", id).Scan(&late); err != nil || !late {
				return err
			}
			return fault.New(codes.FailedPrecondition, fault.PurgeTimePassed, "the company's retention is over, and its database may be gone: restore it from a backup").
				With("company_id", id.String())
		}})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// EndDeletion makes a DELETING company DELETED: its slug and e-mails are free, its people and keys are gone, and its
// cluster has room again. FAILED_PRECONDITION `COMPANY_STATE_INVALID`, also before its time.
func (s *Store) EndDeletion(ctx context.Context, actor string, id uuid.UUID) (*registryv1.Tenant, error) {
	_, err := s.changeState(ctx, id, transition{actor: actor, action: "company.deleted",
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_DELETING}, to: registryv1.CompanyState_COMPANY_STATE_DELETED,
		check: func(ctx context.Context, tx pgx.Tx) error {
			var early bool
			if err := tx.QueryRow(ctx, "SELECT purge_at > clock_timestamp() FROM companies WHERE id = $1", id).Scan(&early); err != nil || !early {
				return err
			}
			return fault.New(codes.FailedPrecondition, fault.CompanyStateInvalid, "the company's retention is not over yet").With("company_id", id.String())
		},
		also: func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "UPDATE clusters SET tenants = tenants - 1 WHERE name = (SELECT cluster FROM tenant_databases WHERE company_id = $1)", id); err != nil {
				return err
			}
			return forgetPeople(ctx, tx, id)
		}})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// forgetPeople deletes a company's users, sessions and keys, and tells the gateways of those that worked.
func forgetPeople(ctx context.Context, tx pgx.Tx, company uuid.UUID) error {
	ids := func(sql string) ([]uuid.UUID, error) {
		rows, err := tx.Query(ctx, sql, company)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	}
	sessions, err := ids("SELECT s.id FROM sessions s JOIN users u ON u.id = s.user_id WHERE u.company_id = $1 AND s.revoked_at IS NULL AND s.expires_at > now()")
	if err != nil {
		return err
	}
	keys, err := ids("DELETE FROM api_keys WHERE company_id = $1 RETURNING id")
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM users WHERE company_id = $1", company); err != nil {
		return err
	}
	return appendRevoked(ctx, tx, sessions, keys)
}

// SwitchDatabase gives a company in use another database. It answers the same when it has that one already.
// FAILED_PRECONDITION `DATABASE_CHANGED`, `COMPANY_STATE_INVALID`; NOT_FOUND `CLUSTER_NOT_FOUND`.
func (s *Store) SwitchDatabase(ctx context.Context, actor, action string, id, from, to uuid.UUID, cluster, schemaVersion string) (*registryv1.Tenant, error) {
	err := s.whileInUse(ctx, id, func(ctx context.Context, tx pgx.Tx, before *registryv1.Tenant) error {
		switch before.GetDatabaseId() {
		case to.String():
			return nil
		case from.String():
		default:
			return fault.New(codes.FailedPrecondition, fault.DatabaseChanged, "the company has got another database meanwhile").With("company_id", id.String())
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
		if _, err := tx.Exec(ctx, "UPDATE tenant_databases SET id = $2, cluster = $3, schema_version = $4, password_version = 1 WHERE company_id = $1",
			id, to, cluster, schemaVersion); err != nil {
			return err
		}
		if err := appendAudit(ctx, tx, event{actor: actor, action: "company." + action, company: id,
			details: map[string]string{"from_database": from.String(), "to_database": to.String(), "cluster": cluster}}); err != nil {
			return err
		}
		return appendRoute(ctx, tx, id)
	})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// RecordEvent writes what was done on somebody's behalf.
func (s *Store) RecordEvent(ctx context.Context, actor, action string, company uuid.UUID, subject string, details map[string]string) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		return appendAudit(ctx, tx, event{actor: actor, action: action, company: company, subject: subject, details: details})
	})
}
