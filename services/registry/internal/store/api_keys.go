package store

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

const selectAPIKey = "SELECT id, company_id, name, prefix, roles, created_at, expires_at, revoked_at, last_used_at FROM api_keys"

func scanAPIKey(row pgx.Row) (*registryv1.ApiKey, error) {
	k := &registryv1.ApiKey{}
	var id, company uuid.UUID
	var created time.Time
	var expires, revoked, used *time.Time
	if err := row.Scan(&id, &company, &k.Name, &k.Prefix, &k.Roles, &created, &expires, &revoked, &used); err != nil {
		return nil, err
	}
	k.ApiKeyId, k.CompanyId, k.CreateTime = id.String(), company.String(), timestamppb.New(created)
	k.ExpireTime, k.RevokeTime, k.LastUsedTime = timestamp(expires), timestamp(revoked), timestamp(used)
	return k, nil
}

// CreateAPIKey keeps a key's hash and how it begins.
func (s *Store) CreateAPIKey(ctx context.Context, actor string, company uuid.UUID, name string, roles []string, key credential.APIKey, expires *time.Time) (*registryv1.ApiKey, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	var out *registryv1.ApiKey
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO api_keys (id, company_id, name, prefix, hash, roles, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			id, company, name, key.Prefix, key.Hash[:], roles, expires); err != nil {
			return err
		}
		if err := appendAudit(ctx, tx, event{actor: actor, action: "api_key.created", company: company, subject: id.String(),
			details: map[string]string{"name": name, "prefix": key.Prefix, "roles": strings.Join(roles, " ")}}); err != nil {
			return err
		}
		out, err = scanAPIKey(tx.QueryRow(ctx, selectAPIKey+" WHERE id = $1", id))
		return err
	})
	return out, err
}

// ListAPIKeys returns a company's keys, newest first.
func (s *Store) ListAPIKeys(ctx context.Context, company uuid.UUID) ([]*registryv1.ApiKey, error) {
	rows, err := s.pool.Query(ctx, selectAPIKey+" WHERE company_id = $1 ORDER BY id DESC", company)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.ApiKey, error) { return scanAPIKey(row) })
}

// APIKey returns a key: NOT_FOUND `API_KEY_NOT_FOUND`.
func (s *Store) APIKey(ctx context.Context, id uuid.UUID) (*registryv1.ApiKey, error) {
	k, err := scanAPIKey(s.pool.QueryRow(ctx, selectAPIKey+" WHERE id = $1", id))
	if none(err) {
		return nil, fault.New(codes.NotFound, fault.APIKeyNotFound, "there is no API key %s", id).With("api_key_id", id.String())
	}
	return k, err
}

// RevokeAPIKey ends a key; a revoked one stays as it is.
func (s *Store) RevokeAPIKey(ctx context.Context, actor string, id uuid.UUID) (*registryv1.ApiKey, error) {
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		var company uuid.UUID
		err := tx.QueryRow(ctx, "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING company_id", id).Scan(&company)
		if none(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := appendAudit(ctx, tx, event{actor: actor, action: "api_key.revoked", company: company, subject: id.String()}); err != nil {
			return err
		}
		return appendRevoked(ctx, tx, nil, []uuid.UUID{id})
	})
	if err != nil {
		return nil, err
	}
	return s.APIKey(ctx, id)
}

// ResolvedKey is whose a key is.
type ResolvedKey struct {
	ID, Company uuid.UUID
	Roles       []string
	Expires     *time.Time
}

// APIKeyByHash returns whose a key is that works, of a company that is open, or nil, and notes its use, at most once a
// minute.
func (s *Store) APIKeyByHash(ctx context.Context, hash credential.Hash) (*ResolvedKey, error) {
	k := &ResolvedKey{}
	var used *time.Time
	err := s.pool.QueryRow(ctx, `SELECT k.id, k.company_id, k.roles, k.expires_at, k.last_used_at FROM api_keys k JOIN companies c ON c.id = k.company_id
		WHERE k.hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) AND c.state IN ('ACTIVE', 'MAINTENANCE')`, hash[:]).
		Scan(&k.ID, &k.Company, &k.Roles, &k.Expires, &used)
	if none(err) {
		return nil, nil //nolint:nilnil // A key that does not work is not a failure of the store.
	}
	if err == nil && (used == nil || time.Since(*used) > time.Minute) {
		_, err = s.pool.Exec(ctx, "UPDATE api_keys SET last_used_at = now() WHERE id = $1", k.ID)
	}
	return k, err
}
