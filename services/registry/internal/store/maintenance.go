package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

const (
	inMaintenance = registryv1.CompanyState_COMPANY_STATE_MAINTENANCE
	// registryActor is who ends what nobody ended.
	registryActor = "service/registry"
	// overdueBatch is how many companies one look opens again at most.
	overdueBatch = 100
)

// held is who gets a company in MAINTENANCE, and for how long by the database's clock.
type held struct {
	holder   string
	duration time.Duration
}

func (h *held) columns() (holder *string, duration *time.Duration) {
	if h == nil {
		return nil, nil
	}
	return &h.holder, &h.duration
}

// holding is who has a company in MAINTENANCE.
type holding struct {
	holder  string
	until   time.Time
	overdue bool
}

// BeginMaintenance puts an ACTIVE company in MAINTENANCE for a while. From the same holder it moves the end of one that is
// in it. FAILED_PRECONDITION `MAINTENANCE_HELD`, `COMPANY_STATE_INVALID`.
func (s *Store) BeginMaintenance(ctx context.Context, actor string, id uuid.UUID, holder string, duration time.Duration) (*registryv1.Tenant, error) {
	err := s.changeState(ctx, id, transition{actor: actor, action: "company.maintenance_begun", reason: holder, held: &held{holder, duration},
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_ACTIVE},
		choose: func(ctx context.Context, tx pgx.Tx) (registryv1.CompanyState, error) {
			before, err := heldBy(ctx, tx, id)
			if err != nil || before == nil {
				return inMaintenance, err
			}
			if before.holder != holder {
				return inMaintenance, heldByAnother(id, before)
			}
			_, err = tx.Exec(ctx, "UPDATE companies SET maintenance_until = clock_timestamp() + $2::interval WHERE id = $1", id, duration)
			return inMaintenance, err
		}})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// EndMaintenance makes a company ACTIVE again that its holder put in MAINTENANCE, and notes the version of its database
// with it, unless that is empty; a company in any other state keeps it. FAILED_PRECONDITION `MAINTENANCE_HELD`,
// `DATABASE_CHANGED`, and nothing is changed.
func (s *Store) EndMaintenance(ctx context.Context, actor string, id uuid.UUID, holder string, database uuid.UUID, version string) (*registryv1.Tenant, error) {
	open := transition{actor: actor, action: "company.maintenance_ended", from: []registryv1.CompanyState{inMaintenance}, to: registryv1.CompanyState_COMPANY_STATE_ACTIVE}
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		c, err := lockCompany(ctx, tx, id)
		if err != nil {
			return err
		}
		before, err := heldBy(ctx, tx, id)
		if err != nil {
			return err
		}
		if before != nil && before.holder != holder {
			return heldByAnother(id, before)
		}
		news := false
		if version != "" {
			if news, err = setVersion(ctx, tx, id, database, version); err != nil {
				return err
			}
		}
		switch {
		case before != nil:
			return change(ctx, tx, id, c.GetState(), open)
		case news && c.GetState() != registryv1.CompanyState_COMPANY_STATE_PROVISIONING:
			return appendRoute(ctx, tx, id)
		default:
			return nil
		}
	})
	if err != nil {
		return nil, err
	}
	return s.Tenant(ctx, id)
}

// EndOverdueMaintenance makes companies ACTIVE again whose time in MAINTENANCE is over, and returns how many.
func (s *Store) EndOverdueMaintenance(ctx context.Context) (ended int, err error) {
	rows, err := s.pool.Query(ctx, "SELECT id FROM companies WHERE maintenance_until <= now() ORDER BY maintenance_until LIMIT $1", overdueBatch)
	if err != nil {
		return 0, err
	}
	overdue, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, err
	}
	for _, id := range overdue {
		err := s.changeState(ctx, id, transition{actor: registryActor, action: "company.maintenance_expired",
			from: []registryv1.CompanyState{inMaintenance}, to: registryv1.CompanyState_COMPANY_STATE_ACTIVE,
			check: func(ctx context.Context, tx pgx.Tx) error {
				before, err := heldBy(ctx, tx, id)
				if err == nil && !before.overdue {
					return errNotOverdue // Its holder lives, and has moved the end.
				}
				return err
			}})
		// One that was suspended or ended meanwhile keeps its state.
		if err != nil && !errors.Is(err, errNotOverdue) && !fault.HasReason(err, fault.CompanyStateInvalid) {
			return ended, err
		}
		if err == nil {
			ended++
		}
	}
	return ended, nil
}

var errNotOverdue = errors.New("not overdue")

// heldBy is who has a locked company in MAINTENANCE; nil when it is in another state.
func heldBy(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*holding, error) {
	h := &holding{}
	err := tx.QueryRow(ctx, "SELECT maintenance_holder, maintenance_until, maintenance_until <= clock_timestamp() FROM companies WHERE id = $1 AND state = 'MAINTENANCE'", id).
		Scan(&h.holder, &h.until, &h.overdue)
	if none(err) {
		return nil, nil //nolint:nilnil // Nobody's is no failure.
	}
	return h, err
}

func heldByAnother(id uuid.UUID, h *holding) error {
	return fault.New(codes.FailedPrecondition, fault.MaintenanceHeld, "the company is in maintenance for %s, until %s", h.holder, h.until.UTC().Format(time.RFC3339)).
		With("company_id", id.String()).With("holder", h.holder).RetryIn(time.Second)
}
