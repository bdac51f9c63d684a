package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// event is one audit event to write.
type event struct {
	actor, action string
	company       uuid.UUID // uuid.Nil for none
	subject       string
	details       map[string]string
}

func appendAudit(ctx context.Context, tx pgx.Tx, e event) error {
	var b pgx.Batch
	e.queue(&b)
	return tx.SendBatch(ctx, &b).Close()
}

// queue writes the event within a batch.
func (e event) queue(b *pgx.Batch) {
	var company *uuid.UUID
	if e.company != uuid.Nil {
		company = &e.company
	}
	if e.details == nil {
		e.details = map[string]string{}
	}
	b.Queue("INSERT INTO audit_events (actor, action, company_id, subject, details) VALUES ($1, $2, $3, $4, $5)",
		e.actor, e.action, company, e.subject, e.details)
}

// RecordEvent writes what was done on somebody's behalf, about a company unless it is uuid.Nil: NOT_FOUND
// `COMPANY_NOT_FOUND`.
func (s *Store) RecordEvent(ctx context.Context, actor, action string, company uuid.UUID, subject string, details map[string]string) error {
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		return appendAudit(ctx, tx, event{actor: actor, action: action, company: company, subject: subject, details: details})
	})
	if pg.Violated(err) == "audit_events_company_id_fkey" {
		return companyNotFound(company.String())
	}
	return err
}

// ListEvents returns audit events, newest first: those before an id (0 means from the newest), of one company unless it
// is uuid.Nil, and of one action unless it is empty.
func (s *Store) ListEvents(ctx context.Context, company uuid.UUID, action string, before int64, limit int) ([]*registryv1.AuditEvent, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, created_at, actor, action, coalesce(company_id::text, ''), subject, details FROM audit_events
		WHERE ($1 = '00000000-0000-0000-0000-000000000000'::uuid OR company_id = $1) AND ($2 = '' OR action = $2) AND ($3 = 0 OR id < $3)
		ORDER BY id DESC LIMIT $4`, company, action, before, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.AuditEvent, error) {
		e := &registryv1.AuditEvent{}
		var at time.Time
		err := row.Scan(&e.EventId, &at, &e.Actor, &e.Action, &e.CompanyId, &e.Subject, &e.Details)
		e.Time = timestamppb.New(at)
		return e, err
	})
}
