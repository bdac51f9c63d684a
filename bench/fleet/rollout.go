package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/bench/harness"
	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

// byCLI is how many databases the Atlas CLI migrates in a round: it is slow, and its rate does not depend on how many.
const byCLI = 100

// measureRollouts compares rollouts of two small files, and of nothing, with a bare loop over pgx and with the Atlas CLI.
// The peers have databases of their own, copies of the same template, on the same server.
func measureRollouts(ctx context.Context, b *bench) (err error) {
	n, err := b.fit(2*b.tenants+byCLI, perDatabase)
	if err != nil {
		return err
	}
	byCLI := min(byCLI, n/10)
	tenants := (n - byCLI) / 2
	s, err := newSets(b.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	if err := s.copyCore(); err != nil {
		return err
	}
	r, err := b.start(ctx, "--spares", "0", "--migrations", s.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	if _, _, err := r.crowd(ctx, tenants); err != nil {
		return err
	}
	template, err := r.Template(ctx)
	if err != nil {
		return err
	}
	loop, cli := peers("peer_loop", tenants), peers("peer_cli", byCLI)
	if _, err := rateOf(ctx, len(loop)+len(cli), func(ctx context.Context, i int) error {
		return r.clone(ctx, append(loop[:len(loop):len(loop)], cli...)[i], template)
	}); err != nil {
		return err
	}
	if err := b.report.Printf("  %d tenants, %d at once\n", tenants, atOnce); err != nil {
		return err
	}
	m := &migrations{bench: b, rig: r, sets: s, tenants: tenants, loop: loop, cli: cli}
	return m.measure(ctx)
}

// migrations are rounds of two files for our tenants and for the peers' databases.
type migrations struct {
	*bench
	*rig
	sets      *sets
	tenants   int
	loop, cli []string

	ours, byLoop, byCLI [2][]float64 // rates with two files, and with nothing to do
	begin               []float64    // seconds until StartRollout answered
}

func (m *migrations) measure(ctx context.Context) error {
	for range rounds {
		if err := m.round(ctx); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name       string
		goal       float64
		here, peer []float64
	}{
		{"rollout-rate", 0.75, m.ours[0], m.byLoop[0]},
		{"rollout-vs-atlas-cli", 5, m.ours[0], m.byCLI[0]},
		{"noop-sweep", 15, m.ours[1], m.byCLI[1]},
	} {
		comparison, err := harness.Compare(c.name, "tenants/s", c.goal, false, rounds, taken(c.here), taken(c.peer))
		if err != nil {
			return err
		}
		if err := m.report.Add(comparison); err != nil {
			return err
		}
	}
	return m.report.Printf("  StartRollout, which reads, lints and keeps the release, answered in %.2f s, not counted above\n  a bare loop that connects, reads the history and has nothing to do: %.1f tenants/s\n",
		harness.Median(m.begin), harness.Median(m.byLoop[1]))
}

// taken are figures that were taken.
func taken(figures []float64) func(int) (float64, error) {
	return func(round int) (float64, error) { return figures[round], nil }
}

// round has each side apply the same two files, and then nothing.
func (m *migrations) round(ctx context.Context) error {
	files, err := m.sets.add(ctx, 2)
	if err != nil {
		return err
	}
	keep := func(to *[2][]float64, i int, f func() (float64, error)) error {
		if err := m.rest(ctx, m.rig); err != nil {
			return err
		}
		rate, err := f()
		to[i] = append(to[i], rate)
		return err
	}
	return firstError(
		func() error { return keep(&m.ours, 0, func() (float64, error) { return m.rollOut(ctx) }) },
		func() error {
			return keep(&m.byLoop, 0, func() (float64, error) {
				return rateOf(ctx, len(m.loop), func(ctx context.Context, i int) error { return m.bare(ctx, m.loop[i], files) })
			})
		},
		func() error { return keep(&m.byCLI, 0, func() (float64, error) { return m.atlasCLI(ctx) }) },
		func() error { return keep(&m.ours, 1, func() (float64, error) { return m.rollOut(ctx) }) },
		func() error {
			return keep(&m.byLoop, 1, func() (float64, error) {
				return rateOf(ctx, len(m.loop), func(ctx context.Context, i int) error { return m.bare(ctx, m.loop[i], nil) })
			})
		},
		func() error { return keep(&m.byCLI, 1, func() (float64, error) { return m.atlasCLI(ctx) }) },
	)
}

func firstError(steps ...func() error) error {
	for _, f := range steps {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// rollOut rolls the sets out to every tenant and returns tenants a second, from StartRollout's answer to the end that the
// rollout has recorded.
func (m *migrations) rollOut(ctx context.Context) (float64, error) {
	asked := time.Now()
	r, err := m.rig.rollOut(ctx, m.tenants, nil)
	if err != nil {
		return 0, err
	}
	m.begin = append(m.begin, r.began.Sub(asked).Seconds())
	return float64(m.tenants) / r.ended.Sub(r.began).Seconds(), nil
}

// rolledOut is when a rollout began, as its caller was told, and when it ended.
type rolledOut struct{ began, ended time.Time }

// rollOut rolls out to some companies, or all for none, and fails unless exactly want succeeded.
func (r *rig) rollOut(ctx context.Context, want int, companies []string) (rolledOut, error) {
	request := &provisionerv1.StartRolloutRequest{Concurrency: atOnce}
	if companies != nil {
		request.Selector = &provisionerv1.Selector{Companies: companies}
	}
	started, err := r.rollouts.StartRollout(ctx, request)
	if err != nil {
		return rolledOut{}, err
	}
	out := rolledOut{began: time.Now()}
	for {
		got, err := r.rollouts.GetRollout(ctx, &provisionerv1.GetRolloutRequest{RolloutId: started.GetRollout().GetRolloutId()})
		if err != nil {
			return out, err
		}
		now := got.GetRollout()
		switch now.GetState() {
		case provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING:
		case provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED:
			if int(now.GetSucceeded()) != want {
				return out, fmt.Errorf("the rollout reached %d tenants, and not %d", now.GetSucceeded(), want)
			}
			out.ended = now.GetEndTime().AsTime()
			return out, nil
		default:
			return out, fmt.Errorf("the rollout is %s: %s", now.GetState(), now.GetStateReason())
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
}

// bare is the least that a careful migration is: a connection, the history read, and each file in one message that is one
// transaction with its revision.
func (m *migrations) bare(ctx context.Context, database string, files []file) error {
	dsn, err := m.DSN(database)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // All that counts was committed.
	rows, err := conn.Query(ctx, "SELECT version, hash FROM atlas_schema_revisions.atlas_schema_revisions", pgx.QueryExecModeExec)
	if err != nil {
		return err
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	for _, f := range files {
		if _, err := conn.Exec(ctx, fmt.Sprintf("BEGIN;\n%s;\nINSERT INTO atlas_schema_revisions.atlas_schema_revisions (version, description, type, applied, total, "+
			"executed_at, execution_time, hash, operator_version) VALUES ('%s', '%s', 2, 1, 1, now(), 0, 'hash', 'bench');\nCOMMIT", f.sql, f.version, f.description),
			pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

// atlasCLI brings the CLI's databases to the newest version and returns how many there were a second.
func (m *migrations) atlasCLI(ctx context.Context) (float64, error) {
	dir, err := filepath.Abs(m.sets.core())
	if err != nil {
		return 0, err
	}
	return rateOf(ctx, len(m.cli), func(ctx context.Context, i int) error {
		dsn, err := m.DSN(m.cli[i])
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(ctx, m.atlas, "migrate", "apply", "--dir", "file://"+dir, "--url", dsn).CombinedOutput()
		if err != nil {
			return fmt.Errorf("atlas migrate apply: %w\n%s", err, out)
		}
		return nil
	})
}
