package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/pg"
)

const resultPrefix = "TENANT_RESULT_STATE_"

// record writes tenants' results and counts them, once: a tenant that has one already keeps it. running is how many are
// under way. The rollout's row is locked meanwhile, so sequences become visible in their order.
func (s *Store) record(ctx context.Context, id uuid.UUID, results []*provisionerv1.TenantResult, running int) error {
	if len(results) == 0 {
		_, err := s.pool.Exec(ctx, "UPDATE rollouts SET running = $2 WHERE id = $1 AND locked_by = $3", id, running, s.holder)
		return err
	}
	return pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		var sequence int64
		if err := tx.QueryRow(ctx, "SELECT last_result FROM rollouts WHERE id = $1 FOR UPDATE", id).Scan(&sequence); err != nil {
			return err
		}
		b := &pgx.Batch{}
		for i, r := range results {
			e := r.GetError()
			b.Queue(`INSERT INTO rollout_results (rollout_id, company_id, sequence, slug, cluster, state, from_version, to_version, files, duration_ns,
				reason, message, set_name, file, statement, sqlstate, ended_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT DO NOTHING`,
				id, r.GetCompanyId(), sequence+int64(i)+1, r.GetSlug(), r.GetCluster(), r.GetState().String()[len(resultPrefix):], r.GetFromVersion(), r.GetToVersion(), r.GetFiles(),
				r.GetDuration().AsDuration().Nanoseconds(), e.GetReason(), e.GetMessage(), e.GetSet(), e.GetFile(), e.GetStatement(), e.GetSqlstate(), r.GetEndTime().AsTime())
		}
		b.Queue(`UPDATE rollouts SET last_result = $2, running = $3, succeeded = n.succeeded, failed = n.failed, skipped = n.skipped,
			total = greatest(total, n.succeeded + n.failed + n.skipped) FROM
			(SELECT rollouts.succeeded + count(*) FILTER (WHERE x.state = 'SUCCEEDED') AS succeeded, rollouts.failed + count(*) FILTER (WHERE x.state = 'FAILED') AS failed,
				rollouts.skipped + count(*) FILTER (WHERE x.state = 'SKIPPED') AS skipped
				FROM rollouts LEFT JOIN rollout_results x ON x.rollout_id = rollouts.id AND x.sequence > $4 WHERE rollouts.id = $1
				GROUP BY rollouts.succeeded, rollouts.failed, rollouts.skipped) n
			WHERE id = $1`, id, sequence+int64(len(results)), running, sequence)
		return tx.SendBatch(ctx, b).Close()
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
