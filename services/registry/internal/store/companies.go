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
	"github.com/tenantry/tenantry/services/internal/tenant"
)

const statePrefix = "COMPANY_STATE_"

// stateName is a state as the database has it.
func stateName(s registryv1.CompanyState) string { return s.String()[len(statePrefix):] }

func stateOf(name string) registryv1.CompanyState {
	return registryv1.CompanyState(registryv1.CompanyState_value[statePrefix+name])
}

// selectCompany reads what scanCompany scans.
const selectCompany = `SELECT c.id, c.slug, c.name, c.email, c.phone, c.address, c.country_code, coalesce(c.usage_type, ''), c.state,
	c.state_reason, d.cluster, d.id, d.schema_version, ARRAY(SELECT p.plugin FROM company_plugins p WHERE p.company_id = c.id ORDER BY 1),
	c.created_at, c.updated_at FROM companies c JOIN tenant_databases d ON d.company_id = c.id`

func scanCompany(row pgx.Row) (*registryv1.Company, error) {
	c := &registryv1.Company{}
	var id, database uuid.UUID
	var state string
	var created, updated time.Time
	err := row.Scan(&id, &c.Slug, &c.Name, &c.Email, &c.Phone, &c.Address, &c.CountryCode, &c.UsageType, &state, &c.StateReason,
		&c.Cluster, &database, &c.SchemaVersion, &c.Plugins, &created, &updated)
	if err != nil {
		return nil, err
	}
	c.CompanyId, c.Database, c.State = id.String(), tenant.DatabaseName(database), stateOf(state)
	c.CreateTime, c.UpdateTime = timestamppb.New(created), timestamppb.New(updated)
	return c, nil
}

// CompanyID finds the company of an id or slug: NOT_FOUND `COMPANY_NOT_FOUND` when there is none. A slug is that of a
// company that is neither FAILED nor DELETED.
func (s *Store) CompanyID(ctx context.Context, company string) (uuid.UUID, error) {
	return companyID(ctx, s.pool, company)
}

func companyID(ctx context.Context, db querier, company string) (uuid.UUID, error) {
	query := "SELECT id FROM companies WHERE slug = $1 AND state NOT IN ('FAILED', 'DELETED')"
	var key any = company
	if id, err := uuid.Parse(company); err == nil {
		query, key = "SELECT id FROM companies WHERE id = $1", id
	}
	var id uuid.UUID
	err := db.QueryRow(ctx, query, key).Scan(&id)
	if none(err) {
		return uuid.Nil, companyNotFound(company)
	}
	return id, err
}

// Company returns a company: NOT_FOUND `COMPANY_NOT_FOUND`.
func (s *Store) Company(ctx context.Context, id uuid.UUID) (*registryv1.Company, error) {
	return company(ctx, s.pool, id)
}

func company(ctx context.Context, db querier, id uuid.UUID) (*registryv1.Company, error) {
	c, err := scanCompany(db.QueryRow(ctx, selectCompany+" WHERE c.id = $1", id))
	if none(err) {
		return nil, companyNotFound(id.String())
	}
	return c, err
}

// ListCompanies returns companies in order of id, which is that of creation, after an id, in the given states, or in all
// but DELETED when none is given, whose name or slug holds a text.
func (s *Store) ListCompanies(ctx context.Context, after uuid.UUID, states []registryv1.CompanyState, contains string, limit int) ([]*registryv1.Company, error) {
	names := []string{}
	for _, st := range states {
		names = append(names, stateName(st))
	}
	rows, err := s.pool.Query(ctx, selectCompany+` WHERE c.id > $1 AND CASE WHEN $2 = '{}'::text[] THEN c.state <> 'DELETED' ELSE c.state = ANY($2) END
		AND ($3 = '' OR strpos(lower(c.name), lower($3)) > 0 OR strpos(c.slug, lower($3)) > 0) ORDER BY c.id LIMIT $4`, after, names, contains, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.Company, error) { return scanCompany(row) })
}

// UpdateCompany sets the fields named: slug, name, email, phone, address, country_code. ALREADY_EXISTS `SLUG_TAKEN`.
func (s *Store) UpdateCompany(ctx context.Context, actor string, id uuid.UUID, fields map[string]string) (*registryv1.Company, error) {
	var out *registryv1.Company
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		before, err := lockCompany(ctx, tx, id)
		if err != nil {
			return err
		}
		values := map[string]string{"slug": before.Slug, "name": before.Name, "email": before.Email, "phone": before.Phone,
			"address": before.Address, "country_code": before.CountryCode}
		details := map[string]string{}
		for name, value := range fields {
			if values[name] != value {
				values[name], details[name] = value, value
			}
		}
		if len(details) == 0 {
			out = before
			return nil
		}
		_, err = tx.Exec(ctx, `UPDATE companies SET slug = $2, name = $3, email = $4, phone = $5, address = $6, country_code = $7, updated_at = now()
			WHERE id = $1`, id, values["slug"], values["name"], values["email"], values["phone"], values["address"], values["country_code"])
		if err != nil {
			return err
		}
		if err := appendAudit(ctx, tx, event{actor: actor, action: "company.updated", company: id, details: details}); err != nil {
			return err
		}
		if _, ok := details["slug"]; ok {
			if err := appendRoute(ctx, tx, id); err != nil {
				return err
			}
		}
		out, err = company(ctx, tx, id)
		return err
	})
	if pg.Violated(err) == "companies_slug_key" {
		return nil, slugTaken(fields["slug"]).Because(err)
	}
	return out, err
}

func slugTaken(slug string) *fault.Error {
	return fault.New(codes.AlreadyExists, fault.SlugTaken, "the slug %q is another company's", slug).With("slug", slug)
}

// lockCompany returns a company that nobody else changes until the transaction ends.
func lockCompany(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*registryv1.Company, error) {
	c, err := scanCompany(tx.QueryRow(ctx, selectCompany+" WHERE c.id = $1 FOR UPDATE OF c", id))
	if none(err) {
		return nil, companyNotFound(id.String())
	}
	return c, err
}

// Suspend closes a company that is ACTIVE or in MAINTENANCE; a SUSPENDED one stays as it is. FAILED_PRECONDITION
// `COMPANY_STATE_INVALID`.
func (s *Store) Suspend(ctx context.Context, actor string, id uuid.UUID, reason string) (*registryv1.Company, error) {
	return s.changeCompany(ctx, id, transition{actor: actor, action: "company.suspended", reason: reason,
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_ACTIVE, registryv1.CompanyState_COMPANY_STATE_MAINTENANCE},
		to:   registryv1.CompanyState_COMPANY_STATE_SUSPENDED})
}

// Resume opens a SUSPENDED company; an ACTIVE one stays as it is. FAILED_PRECONDITION `COMPANY_STATE_INVALID`.
func (s *Store) Resume(ctx context.Context, actor string, id uuid.UUID) (*registryv1.Company, error) {
	return s.changeCompany(ctx, id, transition{actor: actor, action: "company.resumed",
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_SUSPENDED}, to: registryv1.CompanyState_COMPANY_STATE_ACTIVE})
}

// transition is one change of a company's state.
type transition struct {
	actor, action, reason string
	from                  []registryv1.CompanyState
	// to is the new state, unless choose tells it of the company, which is locked by then.
	to     registryv1.CompanyState
	choose func(ctx context.Context, tx pgx.Tx) (registryv1.CompanyState, error)
	// purge is when the database of a DELETING company may go; nil in every other state.
	purge *time.Time
	// held is who gets a company in MAINTENANCE, and for how long; nil for every other state.
	held *held
	// check is what else must hold, looked at in the same transaction before anything is changed; nil for nothing.
	check func(ctx context.Context, tx pgx.Tx) error
	// also is done in the same transaction, before the company is changed; nil for nothing.
	also func(ctx context.Context, tx pgx.Tx) error
	// writes are sent with the change itself, in one round trip; nil for none.
	writes func(b *pgx.Batch)
}

// changeState locks a company and changes its state. One that is in the new state already is left as it is.
func (s *Store) changeState(ctx context.Context, id uuid.UUID, t transition) error {
	return pg.Tx(ctx, s.pool, func(tx pgx.Tx) error { return lockAndChange(ctx, tx, id, t) })
}

// changeCompany is changeState, and returns the company as that left it.
func (s *Store) changeCompany(ctx context.Context, id uuid.UUID, t transition) (out *registryv1.Company, err error) {
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		if err := lockAndChange(ctx, tx, id, t); err != nil {
			return err
		}
		out, err = company(ctx, tx, id)
		return err
	})
	return out, err
}

func lockAndChange(ctx context.Context, tx pgx.Tx, id uuid.UUID, t transition) error {
	c, err := lockCompany(ctx, tx, id)
	if err != nil {
		return err
	}
	if t.choose != nil {
		if t.to, err = t.choose(ctx, tx); err != nil {
			return err
		}
	}
	if c.GetState() == t.to {
		return nil
	}
	return change(ctx, tx, id, c.GetState(), t)
}

// change is the one place where a company's state changes, from one that the transition allows. The company is locked.
func change(ctx context.Context, tx pgx.Tx, id uuid.UUID, from registryv1.CompanyState, t transition) error {
	if !slices.Contains(t.from, from) {
		var want []string
		for _, st := range t.from {
			want = append(want, stateName(st))
		}
		return fault.New(codes.FailedPrecondition, fault.CompanyStateInvalid, "the company is %s, want %s", stateName(from), strings.Join(want, " or ")).
			With("state", stateName(from))
	}
	if t.check != nil {
		if err := t.check(ctx, tx); err != nil {
			return err
		}
	}
	if t.also != nil {
		if err := t.also(ctx, tx); err != nil {
			return err
		}
	}
	var b pgx.Batch
	holder, duration := t.held.columns()
	b.Queue(`UPDATE companies SET state = $2, state_reason = $3, updated_at = now(), purge_at = $4,
		state_before = CASE WHEN $4::timestamptz IS NOT NULL THEN state END, maintenance_holder = $5, maintenance_until = clock_timestamp() + $6::interval WHERE id = $1`,
		id, stateName(t.to), t.reason, t.purge, holder, duration)
	if t.writes != nil {
		t.writes(&b)
	}
	details := map[string]string{"from": stateName(from), "to": stateName(t.to)}
	if t.reason != "" {
		details["reason"] = t.reason
	}
	event{actor: t.actor, action: t.action, company: id, details: details}.queue(&b)
	events := queueRoutes(&b, []uuid.UUID{id})
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return appendEvents(ctx, tx, *events)
}
