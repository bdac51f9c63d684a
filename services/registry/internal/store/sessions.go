package store

import (
	"context"
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

// SessionLife is how long a session lasts that is not refreshed.
const SessionLife = 30 * 24 * time.Hour

// OpenSession opens a session of a user with its first refresh token.
func (s *Store) OpenSession(ctx context.Context, actor string, u *User, refresh credential.Hash) (uuid.UUID, error) {
	id, err := newID()
	if err != nil {
		return uuid.Nil, err
	}
	return id, pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO sessions (id, user_id, expires_at) VALUES ($1, $2, $3)", id, u.ID, time.Now().Add(SessionLife)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)", refresh[:], id); err != nil {
			return err
		}
		return appendAudit(ctx, tx, event{actor: actor, action: "session.opened", company: u.Company, subject: u.UserId,
			details: map[string]string{"session_id": id.String()}})
	})
}

// RotateRefresh trades a refresh token for another and returns its session and user. The second use of a token revokes
// the session: whether the thief or the owner comes second, the other one's tokens end. UNAUTHENTICATED
// `REFRESH_TOKEN_INVALID` or `REFRESH_TOKEN_REUSED`; FAILED_PRECONDITION `COMPANY_NOT_ACTIVE`, and the token is still
// good then.
func (s *Store) RotateRefresh(ctx context.Context, old, next credential.Hash) (session uuid.UUID, u *User, err error) {
	var refused error
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		refused = nil
		var userID uuid.UUID
		var used, open bool
		err := tx.QueryRow(ctx, `SELECT s.id, s.user_id, t.used_at IS NOT NULL, s.revoked_at IS NULL AND s.expires_at > now()
			FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.hash = $1 FOR UPDATE OF t, s`, old[:]).Scan(&session, &userID, &used, &open)
		switch {
		case none(err):
			refused = invalidRefresh()
			return nil
		case err != nil:
			return err
		}
		if u, err = scanUser(tx.QueryRow(ctx, selectUser+" WHERE u.id = $1", userID)); err != nil {
			return err
		}
		switch {
		case used && open:
			refused = fault.New(codes.Unauthenticated, fault.RefreshTokenReused, "the refresh token was used before; its session has ended, log in again")
			if _, err := revokeSessions(ctx, tx, userID, []uuid.UUID{session}); err != nil {
				return err
			}
			return appendAudit(ctx, tx, event{actor: u.actor(), action: "session.reused", company: u.Company, subject: u.UserId,
				details: map[string]string{"session_id": session.String()}})
		case !open, u.GetDisabled():
			refused = invalidRefresh()
			return nil
		case !MayLogIn(u.CompanyState):
			refused = NotActive(u.CompanyState)
			return nil
		}
		if _, err := tx.Exec(ctx, "UPDATE refresh_tokens SET used_at = now() WHERE hash = $1", old[:]); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)", next[:], session); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE sessions SET refreshed_at = now(), expires_at = $2 WHERE id = $1", session, time.Now().Add(SessionLife))
		return err
	})
	if err == nil {
		err = refused
	}
	return session, u, err
}

func (u *User) actor() string { return "user/" + u.GetUserId() }

func invalidRefresh() error {
	return fault.New(codes.Unauthenticated, fault.RefreshTokenInvalid, "the refresh token is not valid; log in again")
}

// MayLogIn tells whether a company's people and programs have a way in: what they call in MAINTENANCE waits.
func MayLogIn(state registryv1.CompanyState) bool {
	return state == registryv1.CompanyState_COMPANY_STATE_ACTIVE || state == registryv1.CompanyState_COMPANY_STATE_MAINTENANCE
}

// NotActive is the fault of someone whose company is not open.
func NotActive(state registryv1.CompanyState) error {
	return fault.New(codes.FailedPrecondition, fault.CompanyNotActive, "the company is %s", stateName(state)).With("state", stateName(state))
}

// CloseByRefresh ends the session of any of its refresh tokens; an unknown one ends nothing.
func (s *Store) CloseByRefresh(ctx context.Context, refresh credential.Hash) error {
	return pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		var session, user uuid.UUID
		err := tx.QueryRow(ctx, "SELECT s.id, s.user_id FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.hash = $1", refresh[:]).Scan(&session, &user)
		if none(err) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = revokeSessions(ctx, tx, user, []uuid.UUID{session})
		return err
	})
}

// RevokeSessions ends a user's sessions, or those named of them, and returns how many were open.
func (s *Store) RevokeSessions(ctx context.Context, actor string, u *User, sessions []uuid.UUID) (revoked int, err error) {
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		if revoked, err = revokeSessions(ctx, tx, u.ID, sessions); err != nil || revoked == 0 {
			return err
		}
		return appendAudit(ctx, tx, event{actor: actor, action: "session.revoked", company: u.Company, subject: u.UserId})
	})
	return revoked, err
}

func revokeSessions(ctx context.Context, tx pgx.Tx, user uuid.UUID, sessions []uuid.UUID) (int, error) {
	rows, err := tx.Query(ctx, `UPDATE sessions SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
		AND ($2::uuid[] IS NULL OR id = ANY($2)) RETURNING id`, user, sessions)
	if err != nil {
		return 0, err
	}
	ended, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, err
	}
	return len(ended), appendRevoked(ctx, tx, ended, nil)
}

// SessionUser returns the user of an open session with its user's and company's state as they are now, or nil.
func (s *Store) SessionUser(ctx context.Context, session uuid.UUID) (*User, error) {
	u, err := scanUser(s.pool.QueryRow(ctx, selectUser+` JOIN sessions s ON s.user_id = u.id
		WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > now() AND u.disabled_at IS NULL`, session))
	if none(err) {
		return nil, nil //nolint:nilnil // No open session is not a failure of the store.
	}
	return u, err
}

// ListSessions returns a user's open sessions, newest first.
func (s *Store) ListSessions(ctx context.Context, user uuid.UUID) ([]*registryv1.Session, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, user_id, created_at, refreshed_at, expires_at FROM sessions
		WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now() ORDER BY id DESC`, user)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.Session, error) {
		var id, user uuid.UUID
		var created, refreshed, expires time.Time
		err := row.Scan(&id, &user, &created, &refreshed, &expires)
		return &registryv1.Session{SessionId: id.String(), UserId: user.String(), CreateTime: timestamppb.New(created),
			RefreshTime: timestamppb.New(refreshed), ExpireTime: timestamppb.New(expires)}, err
	})
}
