package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// RoleOwner is the role that a company always has someone with.
const RoleOwner = "owner"

// User is a login with what only the registry may see.
type User struct {
	*registryv1.User
	ID, Company uuid.UUID
	// PasswordHash is empty for a user without a password.
	PasswordHash string
	// CompanyState is where the user's company stands.
	CompanyState registryv1.CompanyState
}

const selectUser = `SELECT u.id, u.company_id, u.email, u.name, u.roles, u.disabled_at IS NOT NULL, coalesce(u.password_hash, ''),
	u.created_at, u.updated_at, c.state FROM users u JOIN companies c ON c.id = u.company_id`

func scanUser(row pgx.Row) (*User, error) {
	u := &User{User: &registryv1.User{}}
	var created, updated time.Time
	var state string
	if err := row.Scan(&u.ID, &u.Company, &u.Email, &u.Name, &u.Roles, &u.Disabled, &u.PasswordHash, &created, &updated, &state); err != nil {
		return nil, err
	}
	u.UserId, u.CompanyId, u.HasPassword = u.ID.String(), u.Company.String(), u.PasswordHash != ""
	u.CreateTime, u.UpdateTime, u.CompanyState = timestamppb.New(created), timestamppb.New(updated), stateOf(state)
	return u, nil
}

func userNotFound(id uuid.UUID) error {
	return fault.New(codes.NotFound, fault.UserNotFound, "there is no user %s", id).With("user_id", id.String())
}

// User returns a user: NOT_FOUND `USER_NOT_FOUND`.
func (s *Store) User(ctx context.Context, id uuid.UUID) (*User, error) {
	u, err := scanUser(s.pool.QueryRow(ctx, selectUser+" WHERE u.id = $1", id))
	if none(err) {
		return nil, userNotFound(id)
	}
	return u, err
}

// UserByEmail returns the user with an e-mail, in whatever case, or nil.
func (s *Store) UserByEmail(ctx context.Context, email string) (*User, error) {
	u, err := scanUser(s.pool.QueryRow(ctx, selectUser+" WHERE u.email = lower($1)", email))
	if none(err) {
		return nil, nil //nolint:nilnil // A login must not tell an unknown e-mail from a wrong password; nil is neither.
	}
	return u, err
}

// ListUsers returns a company's users in order of id after one.
func (s *Store) ListUsers(ctx context.Context, company, after uuid.UUID, limit int) ([]*registryv1.User, error) {
	rows, err := s.pool.Query(ctx, selectUser+" WHERE u.company_id = $1 AND u.id > $2 ORDER BY u.id LIMIT $3", company, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.User, error) {
		u, err := scanUser(row)
		if err != nil {
			return nil, err
		}
		return u.User, nil
	})
}

// CreateUser adds a login: ALREADY_EXISTS `EMAIL_TAKEN`. A company that is FAILED or DELETED is NOT_FOUND
// `COMPANY_NOT_FOUND`, since nobody would ever free the e-mail again.
func (s *Store) CreateUser(ctx context.Context, actor string, company uuid.UUID, email, name string, roles []string, passwordHash string) (*User, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO users (id, company_id, email, name, password_hash, roles)
			SELECT $1, c.id, lower($3), $4, nullif($5, ''), $6 FROM companies c WHERE c.id = $2 AND c.state NOT IN ('FAILED', 'DELETED') FOR KEY SHARE`,
			id, company, email, name, passwordHash, roles)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return companyNotFound(company.String())
		}
		return appendAudit(ctx, tx, event{actor: actor, action: "user.created", company: company, subject: id.String(),
			details: map[string]string{"email": strings.ToLower(email), "roles": strings.Join(roles, " ")}})
	})
	if pg.Violated(err) == "users_email_key" {
		return nil, emailTaken(email).Because(err)
	}
	if err != nil {
		return nil, err
	}
	return s.User(ctx, id)
}

// UserChange is what to change of a user; nil fields stay.
type UserChange struct {
	Email, Name, PasswordHash *string
	Roles                     []string
	Disable                   bool
	// Action is what the audit event says was done.
	Action string
}

// ChangeUser changes a user. Other roles, a new password and being disabled end the user's sessions, as their tokens
// would go on otherwise. ALREADY_EXISTS `EMAIL_TAKEN`, NOT_FOUND `USER_NOT_FOUND`, FAILED_PRECONDITION `LAST_OWNER`.
func (s *Store) ChangeUser(ctx context.Context, actor string, id uuid.UUID, change UserChange) (*User, error) {
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		// The company first: two owners who disable each other wait here, and the second finds that it is the last.
		var company uuid.UUID
		err := tx.QueryRow(ctx, "SELECT c.id FROM companies c JOIN users u ON u.company_id = c.id WHERE u.id = $1 FOR UPDATE OF c", id).Scan(&company)
		if none(err) {
			return userNotFound(id)
		}
		if err != nil {
			return err
		}
		u, err := scanUser(tx.QueryRow(ctx, selectUser+" WHERE u.id = $1", id))
		if err != nil {
			return err
		}
		return changeUser(ctx, tx, actor, u, change)
	})
	if pg.Violated(err) == "users_email_key" {
		return nil, emailTaken(*change.Email).Because(err)
	}
	if err != nil {
		return nil, err
	}
	return s.User(ctx, id)
}

func changeUser(ctx context.Context, tx pgx.Tx, actor string, u *User, change UserChange) error {
	details := map[string]string{}
	if change.Email != nil && strings.ToLower(*change.Email) != u.GetEmail() {
		details["email"] = strings.ToLower(*change.Email)
	}
	if change.Name != nil && *change.Name != u.GetName() {
		details["name"] = *change.Name
	}
	roles := change.Roles != nil && !slices.Equal(change.Roles, u.GetRoles())
	if roles {
		details["roles"] = strings.Join(change.Roles, " ")
	}
	disable := change.Disable && !u.GetDisabled()
	if len(details) == 0 && !disable && change.PasswordHash == nil {
		return nil
	}
	if _, err := tx.Exec(ctx, `UPDATE users SET email = coalesce(lower($2), email), name = coalesce($3, name), roles = coalesce($4, roles),
		password_hash = coalesce($5, password_hash), disabled_at = CASE WHEN $6 THEN now() ELSE disabled_at END, updated_at = now() WHERE id = $1`,
		u.ID, change.Email, change.Name, change.Roles, change.PasswordHash, disable); err != nil {
		return err
	}
	var owned bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM users WHERE company_id = $1 AND disabled_at IS NULL AND $2 = ANY(roles))", u.Company, RoleOwner).
		Scan(&owned); err != nil {
		return err
	}
	if !owned {
		return fault.New(codes.FailedPrecondition, fault.LastOwner, "the company would be left without an owner")
	}
	if err := appendAudit(ctx, tx, event{actor: actor, action: change.Action, company: u.Company, subject: u.UserId, details: details}); err != nil {
		return err
	}
	if !roles && !disable && change.PasswordHash == nil {
		return nil
	}
	_, err := revokeSessions(ctx, tx, u.ID, nil)
	return err
}
