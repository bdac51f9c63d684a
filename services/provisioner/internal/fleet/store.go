package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
)

const rolloutPrefix, resultPrefix = "ROLLOUT_STATE_", "TENANT_RESULT_STATE_"

// Rollout is one with what the contract does not show.
type Rollout struct {
	*provisionerv1.Rollout
	ID                            uuid.UUID
	Force                         bool
	LockTimeout, StatementTimeout time.Duration
	// LastResult is the sequence of the newest result.
	LastResult int64
}

// Ended tells whether nothing more will happen.
func (r *Rollout) Ended() bool {
	switch r.GetState() {
	case provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, provisionerv1.RolloutState_ROLLOUT_STATE_FAILED, provisionerv1.RolloutState_ROLLOUT_STATE_CANCELLED:
		return true
	default:
		return false
	}
}

// Store is the rollouts in the provisioner's database.
type Store struct {
	pool   *pgxpool.Pool
	holder string
}

// NewStore returns the store behind a pool. holder names this run of this copy.
func NewStore(pool *pgxpool.Pool, holder string) *Store { return &Store{pool, holder} }

const selectRollout = `SELECT r.id, r.release, l.core_version, r.state, r.selector, r.concurrency, r.lock_timeout_ms, r.statement_timeout_ms, r.force, r.actor,
	r.total, r.running, r.succeeded, r.failed, r.skipped, r.last_result, r.created_at, r.ended_at FROM rollouts r JOIN releases l ON l.hash = r.release`

func scanRollout(row pgx.Row) (*Rollout, error) {
	r := &Rollout{Rollout: &provisionerv1.Rollout{Selector: &provisionerv1.Selector{}}}
	var state string
	var selector []byte
	var lock, statement int64
	var created time.Time
	var ended *time.Time
	err := row.Scan(&r.ID, &r.Release, &r.ToVersion, &state, &selector, &r.Concurrency, &lock, &statement, &r.Force, &r.Actor,
		&r.Total, &r.Running, &r.Succeeded, &r.Failed, &r.Skipped, &r.LastResult, &created, &ended)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(selector, r.Selector); err != nil {
		return nil, err
	}
	r.RolloutId, r.CreateTime = r.ID.String(), timestamppb.New(created)
	r.State = provisionerv1.RolloutState(provisionerv1.RolloutState_value[rolloutPrefix+state])
	r.LockTimeout, r.StatementTimeout = time.Duration(lock)*time.Millisecond, time.Duration(statement)*time.Millisecond
	r.Pending = max(0, r.GetTotal()-r.GetRunning()-r.GetSucceeded()-r.GetFailed()-r.GetSkipped())
	if ended != nil {
		r.EndTime, r.Pending, r.Running = timestamppb.New(*ended), 0, 0
	}
	return r, nil
}

// Get returns a rollout: NOT_FOUND `ROLLOUT_NOT_FOUND`.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (*Rollout, error) {
	r, err := scanRollout(s.pool.QueryRow(ctx, selectRollout+" WHERE r.id = $1", id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(codes.NotFound, fault.RolloutNotFound, "there is no rollout %s", id).With("rollout_id", id.String())
	}
	return r, err
}

// Start records a rollout. One with the same request id is returned instead, and so is one that runs with the same
// release and selector; while another runs it is FAILED_PRECONDITION `ROLLOUT_RUNNING`.
func (s *Store) Start(ctx context.Context, q *provisionerv1.StartRolloutRequest, release, actor string, lockTimeout, statementTimeout time.Duration) (*Rollout, error) {
	selector, err := protojson.Marshal(q.GetSelector())
	if err != nil {
		return nil, err
	}
	if q.GetRequestId() != "" {
		r, err := scanRollout(s.pool.QueryRow(ctx, selectRollout+" WHERE r.request_id = $1", q.GetRequestId()))
		if !errors.Is(err, pgx.ErrNoRows) {
			return r, err
		}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	_, err = s.pool.Exec(ctx, `INSERT INTO rollouts (id, request_id, release, selector, concurrency, lock_timeout_ms, statement_timeout_ms, force, actor)
		VALUES ($1, nullif($2, ''), $3, $4, $5, $6, $7, $8, $9)`, id, q.GetRequestId(), release, selector, q.GetConcurrency(),
		lockTimeout.Milliseconds(), statementTimeout.Milliseconds(), q.GetForce(), actor)
	switch pg.Violated(err) {
	case "":
		if err != nil {
			return nil, err
		}
		return s.Get(ctx, id)
	case "rollouts_request_id_key":
		return scanRollout(s.pool.QueryRow(ctx, selectRollout+" WHERE r.request_id = $1", q.GetRequestId()))
	}
	same, err := scanRollout(s.pool.QueryRow(ctx, selectRollout+" WHERE r.state IN ('RUNNING', 'PAUSED') AND r.release = $1 AND r.selector = $2", release, selector))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(codes.FailedPrecondition, fault.RolloutRunning, "another rollout is running: wait for its end").RetryIn(time.Second)
	}
	return same, err
}

// List returns rollouts, newest first, before an id.
func (s *Store) List(ctx context.Context, before uuid.UUID, limit int) ([]*provisionerv1.Rollout, error) {
	rows, err := s.pool.Query(ctx, selectRollout+" WHERE ($1 = '00000000-0000-0000-0000-000000000000'::uuid OR r.id < $1) ORDER BY r.id DESC LIMIT $2", before, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*provisionerv1.Rollout, error) {
		r, err := scanRollout(row)
		if err != nil {
			return nil, err
		}
		return r.Rollout, nil
	})
}

// claim leases a running rollout that nobody works on, or keeps one.
func (s *Store) claim(ctx context.Context) (*Rollout, error) {
	var id uuid.UUID
	err := s.pool.QueryRow(ctx, `UPDATE rollouts SET locked_by = $1, lease_until = now() + $2::interval, running = 0
		WHERE id = (SELECT id FROM rollouts WHERE state = 'RUNNING' AND lease_until < now() ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id`,
		s.holder, lease.Life).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // Nothing to do is no failure.
	}
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, id)
}

func (s *Store) renew(ctx context.Context, id uuid.UUID) (bool, error) {
	tag, err := s.pool.Exec(ctx, "UPDATE rollouts SET lease_until = now() + $3::interval WHERE id = $1 AND locked_by = $2 AND state = 'RUNNING'", id, s.holder, lease.Life)
	return tag.RowsAffected() == 1, err
}

func (s *Store) release(ctx context.Context, id uuid.UUID) error {
	_, err := s.pool.Exec(ctx, "UPDATE rollouts SET lease_until = now() - interval '1 second', locked_by = '', running = 0 WHERE id = $1 AND locked_by = $2", id, s.holder)
	return err
}

func (s *Store) setTotal(ctx context.Context, id uuid.UUID, total int) error {
	_, err := s.pool.Exec(ctx, "UPDATE rollouts SET total = $2 WHERE id = $1", id, total)
	return err
}

func (s *Store) begun(ctx context.Context, id uuid.UUID) error {
	_, err := s.pool.Exec(ctx, "UPDATE rollouts SET running = running + 1 WHERE id = $1", id)
	return err
}

// end ends a rollout by its counts.
func (s *Store) end(ctx context.Context, id uuid.UUID) error {
	_, err := s.pool.Exec(ctx, `UPDATE rollouts SET state = CASE WHEN failed > 0 THEN 'FAILED' ELSE 'SUCCEEDED' END, ended_at = now(),
		total = succeeded + failed + skipped, running = 0 WHERE id = $1 AND state = 'RUNNING' AND locked_by = $2`, id, s.holder)
	return err
}

// record writes a tenant's result and counts it, once: a tenant that has one already keeps it. The rollout's row is
// locked meanwhile, so sequences become visible in their order.
func (s *Store) record(ctx context.Context, id uuid.UUID, r *provisionerv1.TenantResult) error {
	return pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		var sequence int64
		if err := tx.QueryRow(ctx, "UPDATE rollouts SET last_result = last_result + 1, running = greatest(running - 1, 0) WHERE id = $1 RETURNING last_result", id).Scan(&sequence); err != nil {
			return err
		}
		e := r.GetError()
		tag, err := tx.Exec(ctx, `INSERT INTO rollout_results (rollout_id, company_id, sequence, slug, cluster, state, from_version, to_version, files, duration_ns,
			reason, message, set_name, file, statement, sqlstate) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT DO NOTHING`,
			id, r.GetCompanyId(), sequence, r.GetSlug(), r.GetCluster(), r.GetState().String()[len(resultPrefix):], r.GetFromVersion(), r.GetToVersion(), r.GetFiles(),
			r.GetDuration().AsDuration().Nanoseconds(), e.GetReason(), e.GetMessage(), e.GetSet(), e.GetFile(), e.GetStatement(), e.GetSqlstate())
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		column := map[provisionerv1.TenantResultState]string{
			provisionerv1.TenantResultState_TENANT_RESULT_STATE_SUCCEEDED: "succeeded",
			provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED:    "failed",
			provisionerv1.TenantResultState_TENANT_RESULT_STATE_SKIPPED:   "skipped",
		}[r.GetState()]
		_, err = tx.Exec(ctx, "UPDATE rollouts SET "+column+" = "+column+" + 1, total = greatest(total, succeeded + failed + skipped + 1) WHERE id = $1", id)
		return err
	})
}

// without returns those of the companies that have no result yet.
func (s *Store) without(ctx context.Context, id uuid.UUID, companies []string) (map[string]bool, error) {
	rows, err := s.pool.Query(ctx, `SELECT c::text FROM unnest($2::uuid[]) c WHERE NOT EXISTS
		(SELECT FROM rollout_results r WHERE r.rollout_id = $1 AND r.company_id = c)`, id, companies)
	if err != nil {
		return nil, err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	out := make(map[string]bool, len(left))
	for _, c := range left {
		out[c] = true
	}
	return out, err
}

const selectResult = `SELECT company_id::text, slug, cluster, state, from_version, to_version, files, duration_ns, reason, message, set_name, file, statement, sqlstate,
	ended_at, sequence FROM rollout_results`

func scanResult(row pgx.Row) (*provisionerv1.TenantResult, int64, error) {
	r, e := &provisionerv1.TenantResult{}, &provisionerv1.MigrationError{}
	var state string
	var duration, sequence int64
	var ended time.Time
	err := row.Scan(&r.CompanyId, &r.Slug, &r.Cluster, &state, &r.FromVersion, &r.ToVersion, &r.Files, &duration, &e.Reason, &e.Message, &e.Set, &e.File,
		&e.Statement, &e.Sqlstate, &ended, &sequence)
	r.State = provisionerv1.TenantResultState(provisionerv1.TenantResultState_value[resultPrefix+state])
	r.Duration, r.EndTime = durationpb.New(time.Duration(duration)), timestamppb.New(ended)
	if e.GetReason() != "" {
		r.Error = e
	}
	return r, sequence, err
}

// Results returns results of a rollout in order of company after one, in the given states or in all.
func (s *Store) Results(ctx context.Context, id, after uuid.UUID, states []provisionerv1.TenantResultState, limit int) ([]*provisionerv1.TenantResult, error) {
	names := []string{}
	for _, st := range states {
		names = append(names, st.String()[len(resultPrefix):])
	}
	rows, err := s.pool.Query(ctx, selectResult+" WHERE rollout_id = $1 AND company_id > $2 AND ($3 = '{}'::text[] OR state = ANY($3)) ORDER BY company_id LIMIT $4", id, after, names, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*provisionerv1.TenantResult, error) {
		r, _, err := scanResult(row)
		return r, err
	})
}

// News returns results of a rollout after a sequence, in order, and the sequence of the last.
func (s *Store) News(ctx context.Context, id uuid.UUID, after int64, limit int) (out []*provisionerv1.TenantResult, last int64, err error) {
	rows, err := s.pool.Query(ctx, selectResult+" WHERE rollout_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3", id, after, limit)
	if err != nil {
		return nil, after, err
	}
	last = after
	out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r *provisionerv1.TenantResult, err error) {
		r, last, err = scanResult(row)
		return r, err
	})
	return out, last, err
}

// Latest returns a company's latest result of any rollout, or nil.
func (s *Store) Latest(ctx context.Context, company string) (*provisionerv1.TenantResult, error) {
	r, _, err := scanResult(s.pool.QueryRow(ctx, selectResult+" WHERE company_id = $1 ORDER BY ended_at DESC LIMIT 1", company))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // No result is no failure.
	}
	return r, err
}
