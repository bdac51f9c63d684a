package pgsession

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Idle, InTransaction and Failed are the transaction's states, as PostgreSQL writes them.
const (
	Idle          byte = 'I'
	InTransaction byte = 'T'
	Failed        byte = 'E'
)

// ErrUnusable says that a connection was found unusable before anything of the call was sent: another one will do.
var ErrUnusable = errors.New("pgsession: the connection is unusable")

// ErrBroken says that the connection broke while a call was under way, which may or may not have been done.
var ErrBroken = errors.New("pgsession: the connection broke")

// Session is a connection that runs statements. It is for one goroutine at a time.
type Session struct {
	conn  *pgconn.PgConn
	front *pgproto3.Frontend
	watch ctxwatch.Handler
	// readable means that the server's settings are such that a statement's text can be read.
	readable bool

	tx     byte
	busy   bool
	broken error
	// left is what calls since the last reset may have left.
	left trace
	// exposed means that somebody used the connection itself.
	exposed bool
	// outdated means that the prepared statements must go before the next call.
	outdated bool
	profile  *profile
	// asked means that the profile was asked for.
	asked bool
	// resets are those so far.
	resets int
	owed   []owed

	statements statements
	runs       uint64
	steps      []step
}

// New returns a session on a connection that is fresh. watch is told when the context of a call ends while the call
// runs, and has to see to it that PostgreSQL ends the statement, or else the connection.
func New(conn *pgconn.PgConn, watch ctxwatch.Handler) *Session {
	return &Session{
		conn: conn, front: conn.Frontend(), watch: watch, tx: Idle, statements: newStatements(),
		readable: conn.ParameterStatus("standard_conforming_strings") == "on" && conn.ParameterStatus("client_encoding") == "UTF8",
	}
}

// Tx is the transaction's state.
func (s *Session) Tx() byte { return s.tx }

// PID is that of the server's process.
func (s *Session) PID() uint32 { return s.conn.PID() }

// Broken tells whether the connection is of no more use: it broke, or is in the middle of something.
func (s *Session) Broken() bool {
	return s.broken != nil || s.busy || s.conn.IsClosed() || s.conn.IsBusy()
}

// Busy tells whether a statement may be running.
func (s *Session) Busy() bool { return s.busy || s.conn.IsBusy() }

// Conn is the connection itself, for whoever speaks to it on his own. What the session knew of it is void.
func (s *Session) Conn() *pgconn.PgConn {
	s.exposed = true
	if s.settle() != nil {
		_ = s.conn.Conn().Close() // It must not read what was the session's to read.
	}
	return s.conn
}

// Forget has all prepared statements made again before the next call, as after a migration; and the profile.
func (s *Session) Forget() {
	s.outdated, s.asked, s.profile = true, false, nil
	s.left = max(s.left, something)
}

// Statement is one statement to run.
type Statement struct {
	// Text is the statement.
	Text Text
	// Params are the parameters' values; nil is NULL.
	Params [][]byte
	// ParamFormats are their formats, 0 for text and 1 for binary.
	ParamFormats []int16
	// ParamTypes are the OIDs of their types; PostgreSQL finds out those that are 0 or not there.
	ParamTypes []uint32
	// ResultFormats are those of the columns: none for text, one for all.
	ResultFormats []int16
	// MaxRows is after how many rows to stop; 0 means never.
	MaxRows uint32
}

// Call is what is sent at once, and answered in one round trip.
type Call struct {
	// Begin opens a transaction with this statement, if there is one.
	Begin string
	// Settings are set for the transaction, name and value.
	Settings [][2]string
	// Statements are run in their order.
	Statements []Statement
	// End ends the transaction with this statement, if there is one.
	End string
}

// Results takes what statements return.
type Results interface {
	// Columns says what the rows of the statement at an index have; it is called before the first row, and for a
	// statement that returns rows and has none. What it is given stays as it is.
	Columns(index int, columns []pgconn.FieldDescription) error
	// Row takes the values of one row, nil being NULL, which are there during the call alone.
	Row(index int, values [][]byte) error
	// Done says how the statement ended: with a command tag, or stopped by MaxRows with none.
	Done(index int, tag string, stopped bool) error
	// Restart says that what was told so far is void, as all is run again.
	Restart()
}

// StatementError is an error of one statement.
type StatementError struct {
	// Index is the statement's; -1 for the call's own.
	Index int
	// Err is what PostgreSQL said.
	Err *pgconn.PgError
}

func (e *StatementError) Error() string {
	return fmt.Sprintf("statement %d: %s", e.Index, e.Err.Error())
}

// Unwrap is what PostgreSQL said.
func (e *StatementError) Unwrap() error { return e.Err }

// Run runs a call. It fails with a *StatementError, with what out failed with, with ErrUnusable before anything was sent,
// and with ErrBroken. A call whose prepared statements turn out to be none any more, or of another shape, is run again.
func (s *Session) Run(ctx context.Context, call Call, out Results) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.Broken() {
		return fmt.Errorf("%w: %w", ErrUnusable, errors.Join(s.broken, errInUse))
	}
	stop := s.watching(ctx)
	defer stop()
	if err := s.settle(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	open := s.tx != Idle
	err := s.attempt(call, out)
	if !open && err.stale {
		s.outdated = true
		out.Restart()
		err = s.attempt(call, out)
	}
	return err.err
}

var errInUse = errors.New("closed, or in the middle of something")

// watching has watch told when the context ends, until what it returns is called.
func (s *Session) watching(ctx context.Context) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	told := make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(told)
		s.watch.HandleCancel(ctx)
	})
	return func() {
		if !unregister() {
			<-told
			s.watch.HandleUnwatchAfterCancel()
		}
	}
}

// fail notes that the connection broke.
func (s *Session) fail(err error) error {
	s.broken = err
	s.busy = false
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// Check looks, without asking the server, whether it is still there.
func (s *Session) Check(patience time.Duration) error {
	if s.Broken() {
		return errInUse
	}
	conn := s.conn.Conn()
	if len(s.owed) > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(settleTimeout)); err != nil {
			return err
		}
		if err := s.settle(); err != nil {
			return err
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for {
		message, err := s.front.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return conn.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return s.fail(err)
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			return s.fail(pgconn.ErrorResponseToPgError(m))
		case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
			s.left = max(s.left, something)
		}
	}
}
