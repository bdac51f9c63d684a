// Package jobs carries the provisioner's durable work, by River, in its own database: what is to be done survives the copy
// that was to do it, and any copy may do it.
//
// It does not say who owns what is worked on. River learns of a copy's death late, and may then run a job twice; so work
// on a signup, a rollout or a database is leased besides, by a row of its own, and a job that finds the lease taken ends.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

const (
	// schema holds River's tables.
	schema = "river"
	// keep is how long ended jobs can be looked at.
	keep = 24 * time.Hour
	// attempts is how often a job is tried before whoever asked for it has to ask again.
	attempts = 5
)

// Args are what a job is about. Kind names the kind of job; the fields travel as JSON.
type Args = river.JobArgs

// Queue is the work of one copy: register handlers with Handle and Every, then Open it.
type Queue struct {
	pool     *pgxpool.Pool
	log      *zap.Logger
	workers  *river.Workers
	queues   map[string]river.QueueConfig
	periodic []*river.PeriodicJob
	client   *river.Client[pgx.Tx]
}

// New returns a queue in the database behind a pool.
func New(pool *pgxpool.Pool, log *zap.Logger) *Queue {
	return &Queue{pool: pool, log: log, workers: river.NewWorkers(), queues: map[string]river.QueueConfig{}}
}

// worker runs one kind of job.
type worker[A Args] struct {
	river.WorkerDefaults[A]
	timeout time.Duration
	work    func(ctx context.Context, args A) error
}

func (w *worker[A]) Work(ctx context.Context, job *river.Job[A]) error { return w.work(ctx, job.Args) }
func (w *worker[A]) Timeout(*river.Job[A]) time.Duration               { return w.timeout }

// Handle registers what does a kind of job: at most so many at once in this copy, each for at most as long as timeout. It
// must bear being run twice, at once or one after the other.
func Handle[A Args](q *Queue, atOnce int, timeout time.Duration, work func(ctx context.Context, args A) error) {
	var a A
	river.AddWorker(q.workers, &worker[A]{timeout: timeout, work: work})
	q.queues[a.Kind()] = river.QueueConfig{MaxWorkers: atOnce}
}

// Every has a job done again and again, by one of the copies, and once soon after a start.
func Every[A Args](q *Queue, period time.Duration, args A) {
	q.periodic = append(q.periodic, river.NewPeriodicJob(river.PeriodicInterval(period),
		func() (river.JobArgs, *river.InsertOpts) { return args, insertOpts(args, period) }, &river.PeriodicJobOpts{RunOnStart: true}))
}

func insertOpts(args Args, within time.Duration) *river.InsertOpts {
	o := &river.InsertOpts{Queue: args.Kind(), MaxAttempts: attempts}
	if within > 0 {
		o.UniqueOpts = river.UniqueOpts{ByArgs: true, ByPeriod: within}
	}
	return o
}

// Open readies the queue for Insert and Run.
func (q *Queue) Open() (err error) {
	q.client, err = river.NewClient(riverpgxv5.New(q.pool), &river.Config{
		Schema: schema, Workers: q.workers, Queues: q.queues, PeriodicJobs: q.periodic, ErrorHandler: errorHandler{q.log},
		Logger:                      slog.New(zapslog.NewHandler(quiet(q.log).Core())),
		CompletedJobRetentionPeriod: keep, CancelledJobRetentionPeriod: keep, DiscardedJobRetentionPeriod: 7 * keep,
	})
	if err != nil {
		return fmt.Errorf("jobs: %w", err)
	}
	return nil
}

// quiet leaves out what River says of each start and stop.
func quiet(log *zap.Logger) *zap.Logger {
	return log.Named("river").WithOptions(zap.IncreaseLevel(zap.WarnLevel))
}

// Run does jobs until the context ends, which ends theirs, and waits for them.
func (q *Queue) Run(ctx context.Context) error {
	if err := q.client.Start(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("jobs: %w", err)
	}
	<-q.client.Stopped()
	return nil
}

// Insert asks for a job. One like it that was asked for within the same stretch of time is not asked for again; 0 asks
// whatever else there is.
func (q *Queue) Insert(ctx context.Context, args Args, within time.Duration) error {
	if _, err := q.client.Insert(ctx, args, insertOpts(args, within)); err != nil {
		return fmt.Errorf("jobs: ask for %s: %w", args.Kind(), err)
	}
	return nil
}

// InsertTx asks for a job that is there if the transaction commits.
func (q *Queue) InsertTx(ctx context.Context, tx pgx.Tx, args Args) error {
	if _, err := q.client.InsertTx(ctx, tx, args, insertOpts(args, 0)); err != nil {
		return fmt.Errorf("jobs: ask for %s: %w", args.Kind(), err)
	}
	return nil
}

// errorHandler tells of jobs that failed; River tries them again.
type errorHandler struct{ log *zap.Logger }

func (h errorHandler) HandleError(ctx context.Context, job *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		h.log.Warn("a job failed", zap.String("kind", job.Kind), zap.ByteString("args", job.EncodedArgs), zap.Int("attempt", job.Attempt), zap.Error(err))
	}
	return nil
}

func (h errorHandler) HandlePanic(_ context.Context, job *rivertype.JobRow, value any, trace string) *river.ErrorHandlerResult {
	h.log.Error("a job panicked", zap.String("kind", job.Kind), zap.ByteString("args", job.EncodedArgs), zap.Any("panic", value), zap.String("trace", trace))
	return nil
}

func migrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	return m, nil
}

// Migrate makes River's tables, or brings them up to date.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := migrator(pool)
	if err != nil {
		return err
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("jobs: make River's tables: %w", err)
	}
	return nil
}

// Check is FAILED_PRECONDITION `SCHEMA_OUTDATED` when River's tables are missing or old.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := migrator(pool)
	if err != nil {
		return err
	}
	got, err := m.Validate(ctx, nil)
	if err != nil {
		return fmt.Errorf("jobs: look at River's tables: %w", err)
	}
	if !got.OK {
		return fault.New(codes.FailedPrecondition, fault.SchemaOutdated, "the provisioner's database has no tables for its jobs, or old ones: run `tenantry migrate central`")
	}
	return nil
}
