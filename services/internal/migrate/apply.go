package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// Options say how to apply a set. The zero value applies all of it.
type Options struct {
	// ToVersion stops after this version; empty means the newest. A version that the set has not is NOT_FOUND
	// `VERSION_NOT_FOUND`; one that was passed already applies nothing.
	ToVersion string
	// DryRun reads and tells, and changes nothing.
	DryRun bool
	// RevisionsSchema is the schema of the history; empty means DefaultRevisionsSchema.
	RevisionsSchema string
	// LockTimeout is the longest wait for a lock, that of a table as well as that of the migration itself; 0 means 5
	// seconds. Waiting is tried again a few times.
	LockTimeout time.Duration
	// StatementTimeout is the longest run of one statement; 0 means no limit.
	StatementTimeout time.Duration
}

const (
	defaultLockTimeout = 5 * time.Second
	// lockAttempts is how often a file is begun that could not get a table's lock.
	lockAttempts = 4
)

// Applied is a file that was applied.
type Applied struct {
	File
	Duration time.Duration
}

// Result is what Apply did.
type Result struct {
	// From and To are the newest versions before and after; in a dry run, To is what it would be. Empty means none.
	From, To string
	// Applied are the files applied, in order, also those before one that failed.
	Applied []Applied
	// Pending are the files left.
	Pending []File
}

// Apply applies what is left of a set to the database that conn is connected to, as the role that it is connected as.
// The connection must be in no transaction. Its settings are those that it was opened with, afterwards and for each file.
//
// Each file is one transaction together with its revision, so whatever happens the database stands at the end of a file;
// with `-- atlas:txmode none` each statement is one, and the next Apply goes on behind the last that was recorded.
//
// Errors: FAILED_PRECONDITION `CHECKSUM_MISMATCH` and `HISTORY_NOT_LINEAR`, before anything is applied; NOT_FOUND
// `VERSION_NOT_FOUND`; FAILED_PRECONDITION `MIGRATION_FAILED` with metadata set, file, statement, sqlstate, position;
// ABORTED `LOCK_TIMEOUT` with the same metadata. The result tells what was applied before.
func Apply(ctx context.Context, conn *pgx.Conn, s *Set, opts Options) (Result, error) {
	a := &applier{conn: conn, set: s, opts: opts, history: history{schema: opts.RevisionsSchema}}
	if a.history.schema == "" {
		a.history.schema = DefaultRevisionsSchema
	}
	if a.opts.LockTimeout == 0 {
		a.opts.LockTimeout = defaultLockTimeout
	}
	if opts.ToVersion != "" && !s.Has(opts.ToVersion) {
		return Result{}, fault.New(codes.NotFound, fault.VersionNotFound, "set %s has no version %s", s.name, opts.ToVersion).
			With("set", s.name).With("version", opts.ToVersion)
	}
	// Most databases of a fleet are up to date most of the time: find that out without the lock.
	result, todo, err := a.plan(ctx)
	if err != nil || opts.DryRun || len(todo) == 0 {
		return result, err
	}
	if err := a.lock(ctx); err != nil {
		return result, err
	}
	defer a.unlock(ctx)
	// Someone may have been at it while we waited.
	if result, todo, err = a.plan(ctx); err != nil || len(todo) == 0 {
		return result, err
	}
	if err := a.history.create(ctx, conn); err != nil {
		return result, err
	}
	return a.run(ctx, result, todo)
}

// Status tells where a database stands, without changing anything. Errors are as Apply's.
func Status(ctx context.Context, conn *pgx.Conn, s *Set, revisionsSchema string) (Result, error) {
	return Apply(ctx, conn, s, Options{DryRun: true, RevisionsSchema: revisionsSchema})
}

// Version is the newest version that a database has whole, whatever set it is of; empty when it has none.
func Version(ctx context.Context, conn *pgx.Conn, revisionsSchema string) (string, error) {
	h := history{schema: revisionsSchema}
	if h.schema == "" {
		h.schema = DefaultRevisionsSchema
	}
	if err := h.read(ctx, conn); err != nil {
		return "", err
	}
	return h.current(), nil
}

type applier struct {
	conn    *pgx.Conn
	set     *Set
	opts    Options
	history history
}

// plan reads the history and returns what is to be done now.
func (a *applier) plan(ctx context.Context) (Result, []File, error) {
	if err := a.history.read(ctx, a.conn); err != nil {
		return Result{}, nil, err
	}
	from := a.history.current()
	result := Result{From: from, To: from}
	pending, err := a.history.pending(a.set)
	if err != nil {
		return result, nil, err
	}
	end := len(pending)
	if a.opts.ToVersion != "" {
		end = 0
		for end < len(pending) && pending[end].Version <= a.opts.ToVersion {
			end++
		}
	}
	result.Pending = pending
	if a.opts.DryRun {
		if end > 0 {
			result.To = pending[end-1].Version
		}
		return result, nil, nil
	}
	return result, pending[:end], nil
}

// run applies files one after the other.
func (a *applier) run(ctx context.Context, result Result, todo []File) (Result, error) {
	for _, f := range todo {
		begun := time.Now()
		if err := a.file(ctx, f); err != nil {
			return result, err
		}
		result.Applied = append(result.Applied, Applied{f, time.Since(begun)})
		result.To = f.Version
		result.Pending = result.Pending[1:]
	}
	return result, nil
}

// file applies one file, and again when it could not get a lock.
func (a *applier) file(ctx context.Context, f File) error {
	apply := a.transaction
	if f.noTx {
		apply = a.statements
	}
	for attempt := 1; ; attempt++ {
		err := apply(ctx, f)
		if err == nil || attempt == lockAttempts || !fault.HasReason(err, fault.LockTimeout) {
			return err
		}
		select {
		case <-time.After(time.Duration(attempt)*200*time.Millisecond + rand.N(200*time.Millisecond)):
		case <-ctx.Done():
			return err
		}
	}
}

// transaction applies a file and writes its revision in one transaction and one round trip.
func (a *applier) transaction(ctx context.Context, f File) error {
	b := script{}
	for _, s := range append(slices.Clone(clean), "BEGIN", a.lockTimeout("SET LOCAL"), a.statementTimeout("SET LOCAL"), "SET LOCAL "+clientCheck) {
		b.add(s)
	}
	first := len(b.starts)
	for _, s := range f.statements {
		b.add(s)
	}
	b.add(clean[0]) // The history is closed to a role that the file took.
	// The time is not known before it has passed: PostgreSQL fills it in.
	b.add(strings.Replace(a.history.record(f, progress{applied: len(f.statements)}), "clock_timestamp(), 0,",
		"transaction_timestamp(), (1000000000 * extract(epoch FROM clock_timestamp() - transaction_timestamp()))::bigint,", 1))
	b.add("COMMIT")
	failed, err := b.run(ctx, a.conn)
	if err == nil {
		return nil
	}
	if back := a.rollback(ctx); back != nil {
		err = errors.Join(err, back)
	}
	statement, offset := "", 0
	if i := failed - first; i >= 0 && i < len(f.statements) {
		statement, offset = f.statements[i], b.starts[failed]
	}
	return a.failure(f, statement, offset, err)
}

// rollback ends a transaction that was left open.
func (a *applier) rollback(ctx context.Context) error {
	if a.conn.IsClosed() || a.conn.PgConn().TxStatus() == 'I' {
		return nil
	}
	_, err := a.conn.Exec(ctx, "ROLLBACK")
	return err
}

// statements applies a file without a transaction around it: each statement is one by itself, and its revision comes
// after it. A statement that was applied and not recorded, because the process died between, is applied again: write
// such files so that this does no harm (IF NOT EXISTS). An index that was being built needs no such care, see build. In
// a transaction that the file itself begins, the revisions are a part of it.
func (a *applier) statements(ctx context.Context, f File) error {
	for _, s := range append(slices.Clone(clean), a.lockTimeout("SET"), a.statementTimeout("SET"), "SET "+clientCheck) {
		if err := a.exec(ctx, s); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
	}
	// An earlier try may have come part of the way.
	if err := a.history.read(ctx, a.conn); err != nil {
		return err
	}
	begun := time.Now()
	applied := a.history.partial(f)
	for applied < len(f.statements) {
		statement := f.statements[applied]
		if err := a.statement(ctx, f, applied); err != nil {
			failure := a.failure(f, statement, 0, err)
			if err := a.rollback(ctx); err != nil {
				return errors.Join(failure, err)
			}
			if err := a.history.read(ctx, a.conn); err != nil {
				return errors.Join(failure, err)
			}
			a.note(ctx, f, progress{a.history.partial(f), time.Since(begun), err.Error(), statement})
			return failure
		}
		applied++
		if err := a.exec(ctx, a.history.record(f, progress{applied: applied, took: time.Since(begun)})); err != nil {
			return fmt.Errorf("migrate: record %s: %w", f.Name, err)
		}
	}
	if len(f.statements) == 0 {
		if err := a.exec(ctx, a.history.record(f, progress{})); err != nil {
			return fmt.Errorf("migrate: record %s: %w", f.Name, err)
		}
	}
	if a.conn.PgConn().TxStatus() != 'I' {
		err := fault.New(codes.FailedPrecondition, fault.MigrationFailed, "set %s: file %s begins a transaction and does not end it: add COMMIT", a.set.name, f.Name).
			With("set", a.set.name).With("file", f.Name)
		return errors.Join(err, a.rollback(ctx))
	}
	return nil
}

func (a *applier) statement(ctx context.Context, f File, i int) error {
	if ix, ok := f.builds[i]; ok {
		if done, err := a.build(ctx, f, i, ix); err != nil || done {
			return err
		}
	}
	return a.exec(ctx, f.statements[i])
}

// interrupted is what the history says of an index whose building has begun, until it has ended.
const interrupted = "Tenantry: this was begun, and has not ended yet"

// build readies the building of an index while its table is in use, which is no transaction: a try that failed leaves an
// index that is never used and is in the way of the next, which is dropped here, and one that ended without anyone to
// record it is done. It tells whether that is so.
func (a *applier) build(ctx context.Context, f File, i int, ix index) (done bool, err error) {
	var name string
	var valid bool
	err = a.conn.QueryRow(ctx, `SELECT c.oid::regclass::text, x.indisvalid FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid AND c.relkind = 'i'
		WHERE x.indrelid = to_regclass($1) AND CASE WHEN $2 = '' THEN NOT x.indisvalid ELSE c.relname = (parse_ident($2))[1] END
		AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.datname = current_database()) LIMIT 1`,
		pgx.QueryExecModeExec, ix.table, ix.name).Scan(&name, &valid)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return false, err
	case valid && a.history.interrupted(f, f.statements[i]):
		return true, nil
	case !valid:
		if err := a.exec(ctx, "DROP INDEX CONCURRENTLY "+name); err != nil {
			return false, err
		}
	}
	return false, a.exec(ctx, a.history.record(f, progress{applied: i, failure: interrupted, statement: f.statements[i]}))
}

// exec runs one statement without parameters, which may be any.
func (a *applier) exec(ctx context.Context, sql string) error {
	_, err := a.conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// clean undoes what an earlier file set for the session, such as the empty search_path of a dump: each file finds what
// it would find if it were applied alone.
var clean = []string{"RESET SESSION AUTHORIZATION", "RESET ALL"}

// clientCheck has PostgreSQL end a statement whose client is gone, which it would notice at the end of it otherwise: when the
// process was killed, one that takes an hour would keep the lock from the next try for that long.
const clientCheck = "client_connection_check_interval = '1s'"

func (a *applier) lockTimeout(set string) string {
	return fmt.Sprintf("%s lock_timeout = %d", set, a.opts.LockTimeout.Milliseconds())
}

func (a *applier) statementTimeout(set string) string {
	return fmt.Sprintf("%s statement_timeout = %d", set, a.opts.StatementTimeout.Milliseconds())
}

// note writes into the history why a file without a transaction stopped, for `atlas migrate status`. The error that is
// returned says more, so failing to note it is not another.
func (a *applier) note(ctx context.Context, f File, p progress) {
	if ctx.Err() == nil && !a.conn.IsClosed() {
		_ = a.exec(ctx, a.history.record(f, p))
	}
}

// failure makes the fault of a statement that PostgreSQL refused. offset is where the statement begins in what was sent.
func (a *applier) failure(f File, statement string, offset int, err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return fmt.Errorf("migrate: set %s: file %s: %w", a.set.name, f.Name, err)
	}
	code, reason := codes.FailedPrecondition, fault.MigrationFailed
	if e.Code == pgerrcode.LockNotAvailable {
		code, reason = codes.Aborted, fault.LockTimeout
	}
	out := fault.New(code, reason, "set %s: file %s: %s (SQLSTATE %s)", a.set.name, f.Name, e.Message, e.Code).
		With("set", a.set.name).With("file", f.Name).With("statement", statement).With("sqlstate", e.Code).Because(err)
	if position := int(e.Position) - offset; e.Position > 0 && position > 0 {
		out = out.With("position", strconv.Itoa(position))
	}
	return out
}

// lock takes the lock of the CLI for this session. It is asked for again and again instead of being waited for, because
// a waiting statement is a transaction, and CREATE INDEX CONCURRENTLY waits for those.
func (a *applier) lock(ctx context.Context) error {
	deadline := time.Now().Add(lockAttempts * a.opts.LockTimeout)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		var got bool
		if err := a.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", pgx.QueryExecModeExec, lockKey).Scan(&got); err != nil {
			return fmt.Errorf("migrate: take the lock: %w", err)
		}
		if got {
			return nil
		}
		if time.Now().After(deadline) {
			return fault.New(codes.Aborted, fault.LockTimeout, "set %s: another migration of this database has not ended", a.set.name).
				With("set", a.set.name).RetryIn(a.opts.LockTimeout)
		}
		select {
		case <-time.After(wait + rand.N(wait)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unlock gives the lock back and the session its settings, also when the context has ended; a connection on which that fails is closed, which gives
// it back as well.
func (a *applier) unlock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), defaultLockTimeout)
	defer cancel()
	if err := a.exec(ctx, fmt.Sprintf("%s; SELECT pg_advisory_unlock(%d)", strings.Join(clean, "; "), lockKey)); err != nil {
		_ = a.conn.Close(ctx)
	}
}

// script is several statements that are sent at once.
type script struct {
	text   strings.Builder
	length int   // in characters, as PostgreSQL counts positions
	starts []int // of each statement, in characters
	silent []int // statements with nothing to complete
}

func (b *script) add(statement string) {
	statement = strings.TrimRight(strings.TrimSpace(statement), ";")
	if statement == "" {
		b.silent = append(b.silent, len(b.starts))
	}
	b.starts = append(b.starts, b.length)
	// A comment at the end must not swallow what comes next.
	text := statement + "\n;\n"
	b.text.WriteString(text)
	b.length += utf8.RuneCountInString(text)
}

// run sends the script and returns the index of the statement that failed.
func (b *script) run(ctx context.Context, conn *pgx.Conn) (failed int, err error) {
	results := conn.PgConn().Exec(ctx, b.text.String())
	completed := 0
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err == nil {
			completed++
		}
	}
	err = results.Close()
	var e *pgconn.PgError
	switch {
	case err == nil:
		return 0, nil
	case completed == 0 && errors.As(err, &e) && e.Position > 0:
		// The text is parsed as a whole before any of it is run.
		i, found := slices.BinarySearch(b.starts, int(e.Position)-1)
		if !found {
			i--
		}
		return i, err
	}
	for _, i := range b.silent {
		if i <= completed {
			completed++
		}
	}
	return min(completed, len(b.starts)-1), err
}

// Revisions is the schema of the history of a plugin's set: `atlas_plugin_` and the plugin's name with _ for -.
func Revisions(plugin string) string { return "atlas_plugin_" + strings.ReplaceAll(plugin, "-", "_") }
