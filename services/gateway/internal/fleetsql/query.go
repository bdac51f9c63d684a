package fleetsql

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// grace is how much longer than PostgreSQL's own timeout, which a statement can lift for itself, a tenant gets.
const grace = 2 * time.Second

// query is what is asked of each tenant.
type query struct {
	*Service
	sql     string
	params  [][]byte
	formats []int16
	rows    int
	timeout time.Duration
}

// read runs the query on one tenant and puts what came into m. The connection is given back before anyone sends m.
func (q *query) read(ctx context.Context, r *routes.Route, m *gatewayv1.FleetSqlServiceQueryResponse) error {
	target, err := q.target(r)
	if err != nil {
		return err
	}
	turn := q.turn(target)
	if err := turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer turn.Release(1)
	conn, err := q.pools.Acquire(ctx, target)
	if err != nil {
		return err
	}
	// Release rolls back: nothing here ever commits.
	defer conn.Release()
	limited, cancel := context.WithTimeout(ctx, q.timeout+grace)
	defer cancel()
	err = q.run(limited, conn.PgConn(), m)
	var e *pgconn.PgError
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case limited.Err() != nil, errors.As(err, &e) && e.Code == pgerrcode.QueryCanceled:
		return fault.New(codes.DeadlineExceeded, fault.StatementTimeout, "the statement ran for longer than %s and was cancelled", q.timeout).Because(err)
	}
	return sqlFault(err)
}

// run runs the query in a transaction that is read-only and has its snapshot, after which PostgreSQL lets nobody make it
// anything else.
func (q *query) run(ctx context.Context, conn *pgconn.PgConn, m *gatewayv1.FleetSqlServiceQueryResponse) error {
	begin := fmt.Sprintf("BEGIN READ ONLY; SET LOCAL statement_timeout = %d; SELECT 1", max(1, q.timeout.Milliseconds()))
	if _, err := conn.Exec(ctx, begin).ReadAll(); err != nil {
		return err
	}
	statement, err := conn.Prepare(ctx, "", q.sql, nil)
	if err != nil {
		return err
	}
	// COMMIT, SET, DO and the like tell no columns.
	if len(statement.Fields) == 0 {
		return fault.New(codes.InvalidArgument, fault.StatementNotReadOnly,
			"the statement returns no rows: a fleet query is a SELECT, VALUES, TABLE, SHOW or EXPLAIN")
	}
	m.Columns = columns(statement.Fields)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	reader := conn.ExecPrepared(reading, "", q.params, q.formats, nil)
	size := 0
	for reader.NextRow() {
		row, n := rowOf(reader.Values())
		if size += n; len(m.GetRows()) == q.rows || size > tenantBytes {
			m.Truncated = true
			stop() // PostgreSQL is told to send no more.
			break
		}
		m.Rows = append(m.Rows, row)
	}
	_, err = reader.Close()
	if m.GetTruncated() {
		return ctx.Err()
	}
	if err == nil && conn.TxStatus() != 'T' {
		err = fault.New(codes.InvalidArgument, fault.StatementNotReadOnly, "the statement ended the read-only transaction that it ran in")
	}
	return err
}

// sqlFault makes a fault of what went wrong with a statement.
func sqlFault(err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) || pg.IsUnavailable(err) {
		return fault.New(codes.Unavailable, fault.DatabaseUnavailable, "the connection to the company's database broke").Because(err)
	}
	// A fault's code is not sent, as the call as a whole did not fail.
	out := fault.New(codes.InvalidArgument, fault.SQLError, "%s (SQLSTATE %s)", e.Message, e.Code).With("sqlstate", e.Code).Because(err)
	if e.Position > 0 {
		out = out.With("position", strconv.Itoa(int(e.Position)))
	}
	for name, value := range map[string]string{"detail": e.Detail, "hint": e.Hint} {
		if value != "" {
			out = out.With(name, value)
		}
	}
	return out
}
