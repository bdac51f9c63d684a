package signup

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
)

const (
	// lookEvery is how often is looked for attempts that nobody works on, and askAgain how often a job is asked for to
	// finish one: a copy that dies delays its signups by these and the life of a lease at most.
	lookEvery = time.Second
	askAgain  = 5 * time.Second
	// askEvery is how often a caller's repeat looks whether another copy is done.
	askEvery = 50 * time.Millisecond
)

// attempt is a signup under way: a row that is made before anything else is.
type attempt struct {
	requestID         string
	company, database uuid.UUID
	source            source
	copyOf            *uuid.UUID // the company whose database is copied; nil for none
}

// source is where an attempt's database comes from.
type source string

const (
	undecided source = ""
	cloned    source = "CLONE" // of the template, or a copy of another tenant
	spare     source = "SPARE"
)

// attempts is the table of them. holder names this run of this copy.
type attempts struct {
	pool   *pgxpool.Pool
	holder string
}

// begin records an attempt, or takes over one that nobody works on. ok is false while another copy has it.
func (a attempts) begin(ctx context.Context, requestID string, copyOf *uuid.UUID) (got attempt, ok bool, err error) {
	company, err := uuid.NewV7()
	if err != nil {
		return got, false, err
	}
	database, err := uuid.NewV7()
	if err != nil {
		return got, false, err
	}
	got.requestID = requestID
	err = a.pool.QueryRow(ctx, `INSERT INTO attempts AS a (request_id, company_id, database_id, locked_by, lease_until, copy_of) VALUES ($1, $2, $3, $4, now() + $5::interval, $6)
		ON CONFLICT (request_id) DO UPDATE SET locked_by = excluded.locked_by, lease_until = excluded.lease_until
		WHERE a.lease_until < now() OR a.locked_by = excluded.locked_by RETURNING company_id, database_id, source, copy_of`,
		requestID, company, database, a.holder, lease.Life, copyOf).Scan(&got.company, &got.database, &got.source, &got.copyOf)
	if errors.Is(err, pgx.ErrNoRows) {
		return got, false, nil
	}
	return got, err == nil, err
}

// renew keeps an attempt; false when it is another's by now.
func (a attempts) renew(ctx context.Context, requestID string) (bool, error) {
	tag, err := a.pool.Exec(ctx, "UPDATE attempts SET lease_until = now() + $3::interval WHERE request_id = $1 AND locked_by = $2", requestID, a.holder, lease.Life)
	return tag.RowsAffected() == 1, err
}

// release leaves an attempt to whoever comes next.
func (a attempts) release(ctx context.Context, requestID string) error {
	_, err := a.pool.Exec(ctx, "UPDATE attempts SET lease_until = now() - interval '1 second', locked_by = '' WHERE request_id = $1 AND locked_by = $2", requestID, a.holder)
	return err
}

// end forgets an attempt, whose company is open or of which nothing is left.
func (a attempts) end(ctx context.Context, requestID string) error {
	_, err := a.pool.Exec(ctx, "DELETE FROM attempts WHERE request_id = $1 AND locked_by = $2", requestID, a.holder)
	return err
}

// takeOver takes over an attempt that nobody works on; ok is false when there is none.
func (a attempts) takeOver(ctx context.Context, requestID string) (got attempt, ok bool, err error) {
	got.requestID = requestID
	err = a.pool.QueryRow(ctx, `UPDATE attempts SET locked_by = $2, lease_until = now() + $3::interval WHERE request_id = $1 AND lease_until < now()
		RETURNING company_id, database_id, source, copy_of`, requestID, a.holder, lease.Life).Scan(&got.company, &got.database, &got.source, &got.copyOf)
	if errors.Is(err, pgx.ErrNoRows) {
		return got, false, nil
	}
	return got, err == nil, err
}

// orphans lists some attempts that nobody works on.
func (a attempts) orphans(ctx context.Context, limit int) ([]string, error) {
	rows, err := a.pool.Query(ctx, "SELECT request_id FROM attempts WHERE lease_until < now() ORDER BY lease_until LIMIT $1", limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// clones notes that a database is being made under an id, before it is.
func (a attempts) clones(ctx context.Context, requestID string, database uuid.UUID) error {
	tag, err := a.pool.Exec(ctx, "UPDATE attempts SET source = 'CLONE', database_id = $3 WHERE request_id = $1 AND locked_by = $2", requestID, a.holder, database)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("the signup is another copy's by now")
	}
	return err
}
