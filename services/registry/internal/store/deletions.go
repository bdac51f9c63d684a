package store

import (
	"context"
	"slices"
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
	err := s.changeState(ctx, id, transition{actor: actor, action: "company.deleting", from: inUse,
		to: registryv1.CompanyState_COMPANY_STATE_DELETING, purge: &purge})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// CancelDeletion gives a DELETING company the state back that it had; one that had MAINTENANCE is ACTIVE. A company that is
// in use is left as it is. FAILED_PRECONDITION `PURGE_TIME_PASSED`, `COMPANY_STATE_INVALID`.
func (s *Store) CancelDeletion(ctx context.Context, actor string, id uuid.UUID) (*registryv1.Tenant, error) {
	err := s.changeState(ctx, id, transition{actor: actor, action: "company.undeleted",
		from:   []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_DELETING},
		choose: func(ctx context.Context, tx pgx.Tx) (registryv1.CompanyState, error) { return stateToKeep(ctx, tx, id) },
		check: func(ctx context.Context, tx pgx.Tx) error {
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

// stateToKeep is where a company stands when it is not deleted after all: where it stood before, or where it stands. What
// needed it still has ended by then, so MAINTENANCE is not given back.
func stateToKeep(ctx context.Context, tx pgx.Tx, id uuid.UUID) (registryv1.CompanyState, error) {
	var state string
	var before *string
	if err := tx.QueryRow(ctx, "SELECT state, state_before FROM companies WHERE id = $1", id).Scan(&state, &before); err != nil {
		return 0, err
	}
	switch {
	case before != nil && stateOf(*before) != registryv1.CompanyState_COMPANY_STATE_MAINTENANCE:
		return stateOf(*before), nil
	case before == nil && slices.Contains(inUse, stateOf(state)):
		return stateOf(state), nil
	default:
		return registryv1.CompanyState_COMPANY_STATE_ACTIVE, nil
	}
}

// EndDeletion makes a DELETING company DELETED: its slug and e-mails are free, its people and keys are gone, and its
// cluster has room again. FAILED_PRECONDITION `COMPANY_STATE_INVALID`, also before its time.
func (s *Store) EndDeletion(ctx context.Context, actor string, id uuid.UUID) (*registryv1.Tenant, error) {
	err := s.changeState(ctx, id, transition{actor: actor, action: "company.deleted",
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
	// No session can be opened for a locked user, so none escapes.
	if _, err := ids("SELECT id FROM users WHERE company_id = $1 FOR UPDATE"); err != nil {
		return err
	}
	sessions, err := ids("SELECT s.id FROM sessions s JOIN users u ON u.id = s.user_id WHERE u.company_id = $1 AND s.revoked_at IS NULL AND s.expires_at > now()")
	if err != nil {
		return err
	}
	keys, err := ids("SELECT id FROM api_keys WHERE company_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())")
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM api_keys WHERE company_id = $1", company); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM users WHERE company_id = $1", company); err != nil {
		return err
	}
	return appendRevoked(ctx, tx, sessions, keys)
}
