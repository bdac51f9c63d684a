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
	"github.com/tenantry/tenantry/services/provisioner/internal/jobs"
	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
)

const rolloutPrefix = "ROLLOUT_STATE_"

// Rollout is one with what the contract does not show.
type Rollout struct {
	*provisionerv1.Rollout
	ID                            uuid.UUID
	LockTimeout, StatementTimeout time.Duration
	// WaveGrowth is by how much each wave is greater than the one before.
	WaveGrowth int
	// LastResult is the sequence of the newest result.
	LastResult int64
	// waveBase is how many results there were when the wave began.
	waveBase int
}

// Message is what the contract shows; nil of nil.
func (r *Rollout) Message() *provisionerv1.Rollout {
	if r == nil {
		return nil
	}
	return r.Rollout
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
	jobs   *jobs.Queue
	holder string
}

// NewStore returns the store behind a pool. holder names this run of this copy.
func NewStore(pool *pgxpool.Pool, q *jobs.Queue, holder string) *Store {
	return &Store{pool, q, holder}
}

// rollOut is the job of working on a rollout.
type rollOut struct {
	RolloutID uuid.UUID `json:"rollout_id"`
}

// Kind implements jobs.Args.
func (rollOut) Kind() string { return "roll_out" }

// The rate is that of the last 200 results, if they are not old.
const selectRollout = `SELECT r.id, r.release, l.core_version, r.state, r.state_reason, r.selector, r.concurrency, r.lock_timeout_ms, r.statement_timeout_ms, r.force, r.actor,
	r.total, r.running, r.succeeded, r.failed, r.skipped, r.last_result, r.created_at, r.ended_at,
	r.canary_size, r.canary_soak_ms, r.wave_growth, r.budget_count, r.budget_percent, r.wave, r.wave_size, r.wave_base, r.soak_until, r.findings, r.pause, r.verify,
	coalesce((SELECT count(*) / greatest(extract(epoch FROM now() - min(ended_at)), 0.1) FROM
		(SELECT ended_at FROM rollout_results WHERE rollout_id = r.id ORDER BY sequence DESC LIMIT 200) recent WHERE ended_at > now() - interval '30 seconds'), 0)::float8
	FROM rollouts r JOIN releases l ON l.hash = r.release`

func scanRollout(row pgx.Row) (*Rollout, error) {
	r := &Rollout{Rollout: &provisionerv1.Rollout{Selector: &provisionerv1.Selector{}, FailureBudget: &provisionerv1.FailureBudget{}}}
	var state string
	var selector, findings []byte
	var lock, statement, soak int64
	var created time.Time
	var ended, soakUntil *time.Time
	err := row.Scan(&r.ID, &r.Release, &r.ToVersion, &state, &r.StateReason, &selector, &r.Concurrency, &lock, &statement, &r.Force, &r.Actor,
		&r.Total, &r.Running, &r.Succeeded, &r.Failed, &r.Skipped, &r.LastResult, &created, &ended,
		&r.CanarySize, &soak, &r.WaveGrowth, &r.FailureBudget.Count, &r.FailureBudget.Percent, &r.Wave, &r.WaveSize, &r.waveBase, &soakUntil, &findings, &r.Pause, &r.Verify, &r.Rate)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(selector, r.Selector); err != nil {
		return nil, err
	}
	if r.Findings, err = unmarshalFindings(findings); err != nil {
		return nil, err
	}
	r.RolloutId, r.CreateTime, r.CanarySoak = r.ID.String(), timestamppb.New(created), durationpb.New(time.Duration(soak)*time.Millisecond)
	r.State = provisionerv1.RolloutState(provisionerv1.RolloutState_value[rolloutPrefix+state])
	r.LockTimeout, r.StatementTimeout = time.Duration(lock)*time.Millisecond, time.Duration(statement)*time.Millisecond
	r.Pending = max(0, r.GetTotal()-r.GetRunning()-r.GetSucceeded()-r.GetFailed()-r.GetSkipped())
	if soakUntil != nil && r.GetState() == provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING {
		r.SoakUntil = timestamppb.New(*soakUntil)
	}
	switch {
	case ended != nil:
		r.EndTime, r.Running, r.Rate = timestamppb.New(*ended), 0, 0
	case r.GetState() != provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING:
		r.Rate = 0
	case r.GetRate() > 0:
		r.Remaining = durationpb.New(time.Duration(float64(r.GetPending()+r.GetRunning()) / r.GetRate() * float64(time.Second)))
	}
	return r, nil
}

// Get returns a rollout: NOT_FOUND `ROLLOUT_NOT_FOUND`.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (*Rollout, error) {
	r, err := scanRollout(s.pool.QueryRow(ctx, selectRollout+" WHERE r.id = $1", id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, rolloutNotFound(id)
	}
	return r, err
}

func rolloutNotFound(id uuid.UUID) error {
	return fault.New(codes.NotFound, fault.RolloutNotFound, "there is no rollout %s", id).With("rollout_id", id.String())
}

// ByRequest returns the rollout that a request started, or nil.
func (s *Store) ByRequest(ctx context.Context, requestID string) (*Rollout, error) {
	if requestID == "" {
		return nil, nil //nolint:nilnil // None is no failure.
	}
	r, err := scanRollout(s.pool.QueryRow(ctx, selectRollout+" WHERE r.request_id = $1", requestID))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // None is no failure.
	}
	return r, err
}

// Start records a rollout, and asks for it to be worked on. One with the same request id is returned instead, and so is one that runs with the same
// release and selector; while another runs it is FAILED_PRECONDITION `ROLLOUT_RUNNING`.
//
// All of the request is set: see Defaults.
func (s *Store) Start(ctx context.Context, q *provisionerv1.StartRolloutRequest, release, actor string, findings []*provisionerv1.Finding) (*Rollout, error) {
	selector, err := protojson.Marshal(q.GetSelector())
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	found, err := marshalFindings(findings)
	if err != nil {
		return nil, err
	}
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO rollouts (id, request_id, release, selector, concurrency, lock_timeout_ms, statement_timeout_ms, force, actor,
			canary_size, canary_soak_ms, wave_growth, budget_count, budget_percent, findings, pause, verify)
			VALUES ($1, nullif($2, ''), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`, id, q.GetRequestId(), release, selector, q.GetConcurrency(),
			q.GetLockTimeout().AsDuration().Milliseconds(), q.GetStatementTimeout().AsDuration().Milliseconds(), q.GetForce(), actor,
			q.GetCanarySize(), q.GetCanarySoak().AsDuration().Milliseconds(), q.GetWaveGrowth(), q.GetFailureBudget().GetCount(), q.GetFailureBudget().GetPercent(), found, q.GetPause(), q.GetVerify())
		if err != nil {
			return err
		}
		return s.jobs.InsertTx(ctx, tx, rollOut{id})
	})
	switch pg.Violated(err) {
	case "":
		if err != nil {
			return nil, err
		}
		return s.Get(ctx, id)
	case "rollouts_request_id_key":
		return s.ByRequest(ctx, q.GetRequestId())
	}
	same, err := scanRollout(s.pool.QueryRow(ctx, selectRollout+" WHERE r.state IN ('RUNNING', 'PAUSED') AND r.release = $1 AND r.selector = $2", release, selector))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, anotherRuns()
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

func anotherRuns() error {
	return fault.New(codes.FailedPrecondition, fault.RolloutRunning, "another rollout is running or paused: wait for its end, or cancel it").RetryIn(time.Second)
}

// left lists rollouts that should be worked on and are not.
func (s *Store) left(ctx context.Context) ([]uuid.UUID, error) {
	rows, err := s.pool.Query(ctx, "SELECT id FROM rollouts WHERE state = 'RUNNING' AND lease_until < now()")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// claim leases a running rollout that nobody works on; nil when it is not that.
func (s *Store) claim(ctx context.Context, id uuid.UUID) (*Rollout, error) {
	tag, err := s.pool.Exec(ctx, `UPDATE rollouts SET locked_by = $2, lease_until = now() + $3::interval, running = 0
		WHERE id = $1 AND state = 'RUNNING' AND lease_until < now()`, id, s.holder, lease.Life)
	if err != nil || tag.RowsAffected() == 0 {
		return nil, err
	}
	return s.Get(ctx, id)
}

func (s *Store) renew(ctx context.Context, id uuid.UUID) (bool, error) {
	tag, err := s.pool.Exec(ctx, "UPDATE rollouts SET lease_until = now() + $3::interval WHERE id = $1 AND locked_by = $2", id, s.holder, lease.Life)
	return tag.RowsAffected() == 1, err
}

func (s *Store) release(ctx context.Context, id uuid.UUID) error {
	_, err := s.pool.Exec(ctx, "UPDATE rollouts SET lease_until = now() - interval '1 second', locked_by = '', running = 0 WHERE id = $1 AND locked_by = $2", id, s.holder)
	return err
}

// runs tells whether a rollout is to be worked on, which an operator may have changed.
func (s *Store) runs(ctx context.Context, id uuid.UUID) (runs bool, err error) {
	err = s.pool.QueryRow(ctx, "SELECT state = 'RUNNING' FROM rollouts WHERE id = $1", id).Scan(&runs)
	return runs, err
}

func (s *Store) setTotal(ctx context.Context, id uuid.UUID, total int) error {
	_, err := s.pool.Exec(ctx, "UPDATE rollouts SET total = $2 WHERE id = $1", id, total)
	return err
}

// beginWave notes the wave under way; size 0 means the rest.
func (s *Store) beginWave(ctx context.Context, id uuid.UUID, wave, size int) error {
	_, err := s.pool.Exec(ctx, `UPDATE rollouts SET wave = $2, wave_size = CASE WHEN $3 > 0 THEN $3 ELSE greatest(total - succeeded - failed - skipped, 0) END,
		wave_base = succeeded + failed + skipped,
		soak_until = NULL WHERE id = $1`, id, wave, size)
	return err
}

// soak notes how long the canary has to soak, from its end on.
func (s *Store) soak(ctx context.Context, id uuid.UUID, soak time.Duration) (until time.Time, err error) {
	err = s.pool.QueryRow(ctx, "UPDATE rollouts SET soak_until = coalesce(soak_until, now() + $2::interval) WHERE id = $1 RETURNING soak_until", id, soak).Scan(&until)
	return until, err
}

// end ends a rollout: by its counts, or, for a reason, as FAILED. errHalted says that an operator wanted it to stop before
// that, and nobody noticed, or that another copy has it.
func (s *Store) end(ctx context.Context, id uuid.UUID, reason string) error {
	done, err := s.pool.Exec(ctx, `UPDATE rollouts SET state = CASE WHEN failed > 0 OR $3 <> '' THEN 'FAILED' ELSE 'SUCCEEDED' END, state_reason = $3, ended_at = now(),
		total = CASE WHEN $3 = '' THEN succeeded + failed + skipped ELSE total END, running = 0 WHERE id = $1 AND state = 'RUNNING' AND locked_by = $2`, id, s.holder, reason)
	if err == nil && done.RowsAffected() == 0 {
		return errHalted
	}
	return err
}

// change moves a rollout that an operator wants in another state. One that is in it already stays as it is; from an
// ended one it is FAILED_PRECONDITION `ROLLOUT_ENDED`.
func (s *Store) change(ctx context.Context, id uuid.UUID, sql string, to provisionerv1.RolloutState, reason string) (*Rollout, error) {
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		r, err := scanRollout(tx.QueryRow(ctx, selectRollout+" WHERE r.id = $1 FOR UPDATE OF r", id))
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return rolloutNotFound(id)
		case err != nil:
			return err
		case r.GetState() == to:
			return nil
		case r.Ended():
			return fault.New(codes.FailedPrecondition, fault.RolloutEnded, "the rollout has ended: %s", r.GetState().String()[len(rolloutPrefix):]).
				With("rollout_id", id.String()).With("state", r.GetState().String())
		}
		if _, err := tx.Exec(ctx, sql, id, to.String()[len(rolloutPrefix):], reason); err != nil {
			return err
		}
		if to == provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING {
			return s.jobs.InsertTx(ctx, tx, rollOut{id})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, id)
}

// Pause lets what runs end and begins nothing more: `ROLLOUT_ENDED`, `ROLLOUT_NOT_FOUND`, as Resume and Cancel.
func (s *Store) Pause(ctx context.Context, id uuid.UUID, actor string) (*Rollout, error) {
	return s.change(ctx, id, "UPDATE rollouts SET state = $2, state_reason = $3 WHERE id = $1", provisionerv1.RolloutState_ROLLOUT_STATE_PAUSED, "paused by "+actor)
}

// Resume goes on with a paused rollout.
func (s *Store) Resume(ctx context.Context, id uuid.UUID) (*Rollout, error) {
	return s.change(ctx, id, "UPDATE rollouts SET state = $2, state_reason = $3 WHERE id = $1", provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING, "")
}

// Cancel lets what runs end and leaves the rest as it is.
func (s *Store) Cancel(ctx context.Context, id uuid.UUID, actor string) (*Rollout, error) {
	return s.change(ctx, id, "UPDATE rollouts SET state = $2, state_reason = $3, ended_at = now() WHERE id = $1", provisionerv1.RolloutState_ROLLOUT_STATE_CANCELLED, "cancelled by "+actor)
}

// Retry takes an ended rollout up again, without the results of what failed. One that is under way is returned:
// FAILED_PRECONDITION `ROLLOUT_RUNNING` while another is.
func (s *Store) Retry(ctx context.Context, id uuid.UUID) (*Rollout, error) {
	err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		r, err := scanRollout(tx.QueryRow(ctx, selectRollout+" WHERE r.id = $1 FOR UPDATE OF r", id))
		if errors.Is(err, pgx.ErrNoRows) {
			return rolloutNotFound(id)
		}
		if err != nil || !r.Ended() {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM rollout_results WHERE rollout_id = $1 AND state = 'FAILED'", id); err != nil {
			return err
		}
		// It was seen to begin with: it goes on behind the canary if that had succeeded.
		if _, err := tx.Exec(ctx, `UPDATE rollouts SET state = 'RUNNING', state_reason = '', ended_at = NULL, failed = 0, running = 0, soak_until = NULL,
			wave = CASE WHEN succeeded > 0 THEN greatest(wave, 1) ELSE 0 END, wave_size = 0 WHERE id = $1`, id); err != nil {
			return err
		}
		return s.jobs.InsertTx(ctx, tx, rollOut{id})
	})
	if pg.Violated(err) == "rollouts_one_runs_key" {
		return nil, anotherRuns()
	}
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, id)
}
