package pgsession

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// step is one statement that was sent and waits for its answer.
type step struct {
	index    int // in the call; -1 for the call's own
	text     *Text
	prepared *prepared
	bound    bool
	told     bool // its columns
	left     trace
}

// outcome is how an attempt ended.
type outcome struct {
	err error
	// stale means that a prepared statement was not what it had been, that nothing was done, and that the same call with
	// new ones will do.
	stale bool
}

// flushAside is how much must be sent before the answers to it are read at the same time: PostgreSQL may have to wait
// for its answers to be read.
const flushAside = 32 << 10

// attempt sends a call and reads its answer.
func (s *Session) attempt(call Call, out Results) outcome {
	s.runs++
	s.steps = s.steps[:0]
	open := s.tx != Idle
	readies := 0
	if s.tx == Failed && call.Begin != "" {
		s.front.SendQuery(&pgproto3.Query{String: "ROLLBACK"})
		readies++
		open = false
	}
	if (!open || s.tx == InTransaction) && s.mustForget(call) {
		s.front.SendQuery(&pgproto3.Query{String: "DEALLOCATE ALL"})
		readies++
		s.statements.clear()
		s.outdated = false
	}
	size := s.send(call, open)
	s.busy = true
	flushed := s.flush(size)
	for range readies {
		if err := s.skip(); err != nil {
			return outcome{err: errors.Join(s.fail(err), flushed())}
		}
	}
	result := s.answers(out)
	if err := flushed(); err != nil && s.broken == nil {
		result = outcome{err: s.fail(err)}
	}
	s.busy = false
	s.forgetUnmade()
	return result
}

// mustForget tells whether the prepared statements have to go before the call.
func (s *Session) mustForget(call Call) bool {
	if s.outdated {
		return true
	}
	return len(s.statements.byKey) > 0 && slices.ContainsFunc(call.Statements, func(st Statement) bool { return st.Text.leaves(s.profile) == anything })
}

// flush sends what is buffered. What it returns waits for that.
func (s *Session) flush(size int) func() error {
	if size < flushAside {
		err := s.front.Flush()
		return func() error { return err }
	}
	done := make(chan error, 1)
	go func() { done <- s.front.Flush() }()
	return func() error { return <-done }
}

// send buffers the messages of a call, and tells about how many bytes they are.
func (s *Session) send(call Call, open bool) (size int) {
	if call.Begin != "" {
		s.sendStatement(-1, &Statement{Text: Text{sql: call.Begin}}, false)
	}
	if len(call.Settings) > 0 {
		var sql strings.Builder
		st := Statement{}
		for i, setting := range call.Settings {
			sql.WriteString([]string{"SELECT ", ", "}[min(i, 1)])
			fmt.Fprintf(&sql, "pg_catalog.set_config($%d, $%d, true)", 2*i+1, 2*i+2)
			st.Params = append(st.Params, []byte(setting[0]), []byte(setting[1]))
		}
		st.Text.sql = sql.String()
		s.sendStatement(-1, &st, open)
	}
	for i := range call.Statements {
		st := &call.Statements[i]
		s.sendStatement(i, st, open)
		size += len(st.Text.sql) + 64
		for _, p := range st.Params {
			size += len(p) + 4
		}
	}
	if call.End != "" {
		s.sendStatement(-1, &Statement{Text: Text{sql: call.End}}, false)
	}
	s.front.SendSync(&pgproto3.Sync{})
	if len(call.Statements) < 2 {
		return 0 // PostgreSQL reads all of it before it answers.
	}
	return size
}

// sendStatement buffers one statement's messages. In a transaction that is open none is kept prepared: one that had
// changed could not be run again there.
func (s *Session) sendStatement(index int, st *Statement, open bool) {
	left := nothing
	if index >= 0 {
		if left = st.Text.leaves(s.profile); !s.readable {
			left = anything
		}
	}
	var p *prepared
	if open || left == anything {
		p = &prepared{key: keyOf(st.Text.sql, nil)}
	} else {
		var gone []string
		p, gone = s.statements.get(keyOf(st.Text.sql, st.ParamTypes), s.runs)
		for _, name := range gone {
			// Were one of these left out because of an earlier error, its name would still not be given again.
			s.front.SendClose(&pgproto3.Close{ObjectType: 'S', Name: name})
		}
	}
	if !p.there && (p.name == "" || p.sent != s.runs) {
		p.sent = s.runs
		s.front.SendParse(&pgproto3.Parse{Name: p.name, Query: st.Text.sql, ParameterOIDs: st.ParamTypes})
		s.front.SendDescribe(&pgproto3.Describe{ObjectType: 'S', Name: p.name})
	}
	s.front.SendBind(&pgproto3.Bind{PreparedStatement: p.name, ParameterFormatCodes: st.ParamFormats, Parameters: st.Params, ResultFormatCodes: st.ResultFormats})
	s.front.SendExecute(&pgproto3.Execute{MaxRows: st.MaxRows})
	s.steps = append(s.steps, step{index: index, text: &st.Text, prepared: p, left: left})
}

// skip reads the answer to something of the session's own, which must not fail.
func (s *Session) skip() error {
	for {
		message, err := s.front.Receive()
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			s.tx = m.TxStatus
			return nil
		}
	}
}

// answers reads the answers to the steps.
func (s *Session) answers(out Results) outcome {
	a := answering{Session: s, out: out}
	defer a.end()
	for {
		message, err := s.front.Receive()
		if err != nil {
			if fatal := a.failure; fatal != nil && fatal.Err.SeverityUnlocalized != "ERROR" {
				return outcome{err: errors.Join(s.fail(err), fatal)}
			}
			return outcome{err: s.fail(err)}
		}
		if row, ok := message.(*pgproto3.DataRow); ok {
			a.row(row.Values)
			continue
		}
		if ready, ok := message.(*pgproto3.ReadyForQuery); ok {
			s.tx = ready.TxStatus
			break
		}
		if err := a.message(message); err != nil {
			return outcome{err: s.fail(err)}
		}
	}
	switch {
	case a.refused != nil:
		return outcome{err: a.refused}
	case a.failure != nil:
		return outcome{err: a.failure, stale: a.stale}
	}
	return outcome{}
}

// forgetUnmade takes out the statements that this run was to make and that an error kept from being made.
func (s *Session) forgetUnmade() {
	for i := range s.steps {
		if p := s.steps[i].prepared; !p.there {
			s.statements.remove(p)
		}
		s.steps[i] = step{}
	}
}

// answering is the reading of one call's answers.
type answering struct {
	*Session
	out     Results
	at      int // the step whose answers come
	failure *StatementError
	stale   bool
	// refused is what out failed with; the rest is read and left out.
	refused error
}

// end lets the connection go on after what was refused was cancelled.
func (a *answering) end() {
	if a.refused != nil {
		a.watch.HandleUnwatchAfterCancel()
	}
}

func (a *answering) row(values [][]byte) {
	st := &a.steps[a.at]
	if st.index < 0 || a.refused != nil {
		return
	}
	if a.tell(st); a.refused == nil {
		a.refuse(a.out.Row(st.index, values))
	}
}

// tell tells a statement's columns, once.
func (a *answering) tell(st *step) {
	if !st.told {
		st.told = true
		a.refuse(a.out.Columns(st.index, st.prepared.columns))
	}
}

func (a *answering) refuse(err error) {
	if err != nil && a.refused == nil {
		a.refused = err
		a.watch.HandleCancel(context.Background())
	}
}

func (a *answering) message(message pgproto3.BackendMessage) error {
	switch m := message.(type) {
	case *pgproto3.NoticeResponse, *pgproto3.ParameterDescription, *pgproto3.CloseComplete, *pgproto3.CopyData, *pgproto3.CopyDone, *pgproto3.CopyOutResponse:
		return nil
	case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		a.left = max(a.left, something)
		return nil
	case *pgproto3.ErrorResponse:
		a.fails(pgconn.ErrorResponseToPgError(m))
		return nil
	default:
		if a.at >= len(a.steps) {
			return fmt.Errorf("pgsession: %T after the last statement's end", message)
		}
		return a.step(&a.steps[a.at], message)
	}
}

func (a *answering) step(st *step, message pgproto3.BackendMessage) error {
	switch m := message.(type) {
	case *pgproto3.ParseComplete:
		st.prepared.there = st.prepared.name != ""
	case *pgproto3.RowDescription:
		st.prepared.columns = describe(m)
	case *pgproto3.NoData:
		st.prepared.columns = nil
	case *pgproto3.BindComplete:
		st.bound = true
		a.left = max(a.left, st.left)
	case *pgproto3.CommandComplete:
		a.done(st, string(m.CommandTag), false)
	case *pgproto3.EmptyQueryResponse:
		a.done(st, "", false)
	case *pgproto3.PortalSuspended:
		a.done(st, "", true)
	case *pgproto3.CopyInResponse:
		// Nobody sends the rows. The Sync that was sent already is lost to COPY.
		a.front.Send(&pgproto3.CopyFail{Message: "there is no COPY from the client here"})
		a.front.SendSync(&pgproto3.Sync{})
		return a.front.Flush()
	default:
		return fmt.Errorf("pgsession: %T is not an answer to a statement", message)
	}
	return nil
}

func (a *answering) done(st *step, tag string, stopped bool) {
	if st.index >= 0 {
		if st.left == nothing && !stopped && tag != "" && tag != "SHOW" && !strings.HasPrefix(tag, "SELECT ") {
			a.left = max(a.left, something) // It was not what it seemed.
		}
		if a.refused == nil && st.prepared.columns != nil {
			a.tell(st)
		}
		if a.refused == nil {
			a.refuse(a.out.Done(st.index, tag, stopped))
		}
	}
	a.at++
}

// fails notes an error, which ends all of the call.
func (a *answering) fails(err *pgconn.PgError) {
	if a.failure != nil {
		return
	}
	a.failure = &StatementError{Index: -1, Err: err}
	if a.at >= len(a.steps) {
		return
	}
	st := &a.steps[a.at]
	a.failure.Index = st.index
	a.left = max(a.left, st.left) // Planning may have called a function already.
	if st.bound {
		return
	}
	// Nothing of the statement was run. The first is one that is gone, the second a name that somebody else took.
	a.stale = err.Code == pgerrcode.InvalidSQLStatementName || err.Code == pgerrcode.DuplicatePreparedStatement ||
		err.Code == pgerrcode.FeatureNotSupported && err.Routine == "RevalidateCachedQuery"
}

func describe(m *pgproto3.RowDescription) []pgconn.FieldDescription {
	out := make([]pgconn.FieldDescription, len(m.Fields))
	for i, f := range m.Fields {
		out[i] = pgconn.FieldDescription{Name: string(f.Name), TableOID: f.TableOID, TableAttributeNumber: f.TableAttributeNumber,
			DataTypeOID: f.DataTypeOID, DataTypeSize: f.DataTypeSize, TypeModifier: f.TypeModifier, Format: f.Format}
	}
	return out
}
