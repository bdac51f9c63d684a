package sqlapi

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// step does one step of an open transaction and returns the last part of its answer. Its error ends the stream.
func (t *transaction) step(ctx context.Context, r *gatewayv1.TransactRequest) (*gatewayv1.TransactResponse, error) {
	switch step := r.GetStep().(type) {
	case *gatewayv1.TransactRequest_Statement:
		return t.statement(ctx, step.Statement)
	case *gatewayv1.TransactRequest_Savepoint:
		return t.control(ctx, "SAVEPOINT "+pg.Quote(step.Savepoint.GetName()))
	case *gatewayv1.TransactRequest_RollbackTo:
		return t.control(ctx, "ROLLBACK TO SAVEPOINT "+pg.Quote(step.RollbackTo.GetName()))
	case *gatewayv1.TransactRequest_Release:
		return t.control(ctx, "RELEASE SAVEPOINT "+pg.Quote(step.Release.GetName()))
	default:
		return nil, fault.Invalid("step", "got begin again, want it once")
	}
}

// statement runs a statement and sends its rows as they come.
func (t *transaction) statement(ctx context.Context, r *gatewayv1.Statement) (*gatewayv1.TransactResponse, error) {
	st, err := statement(r, "statement.params", t.format, r.GetMaxRows())
	if err == nil && (st.Text.Opens() || st.Text.Ends()) {
		err = fault.New(codes.InvalidArgument, fault.TransactionControl,
			"the statement was not run, as it would open or end a transaction: commit and rollback are steps of their own")
	}
	if err != nil {
		return t.answer(&gatewayv1.TransactResponse{}, sqlFault(err)), nil
	}
	out := &stream{binary: t.format == gatewayv1.Format_FORMAT_BINARY, most: r.GetMaxRows(), send: func(m *gatewayv1.QueryResponse) error {
		return t.stream.Send(&gatewayv1.TransactResponse{Result: m})
	}}
	failed, err := t.do(ctx, pgsession.Call{Statements: []pgsession.Statement{st}}, out)
	switch {
	case out.unsent != nil:
		return nil, cause(ctx, out.unsent)
	case err != nil:
		return nil, err
	case failed != nil:
		return t.answer(&gatewayv1.TransactResponse{}, failed), nil
	}
	answer := t.answer(&gatewayv1.TransactResponse{Result: out.last()}, nil)
	answer.End.RowsAffected = pgconn.NewCommandTag(out.tag).RowsAffected()
	return answer, nil
}

// control runs a statement of the gateway's own.
func (t *transaction) control(ctx context.Context, sql string) (*gatewayv1.TransactResponse, error) {
	failed, err := t.do(ctx, pgsession.Call{Statements: []pgsession.Statement{{Text: pgsession.Inspect(sql)}}}, &execution{})
	if err != nil {
		return nil, err
	}
	return t.answer(&gatewayv1.TransactResponse{}, failed), nil
}

// do runs one call within the limit to a statement. It returns what failed in a transaction that is still there, and an
// error when there is none any more.
func (t *transaction) do(ctx context.Context, call pgsession.Call, out pgsession.Results) (*fault.Error, error) {
	limited, cancel := context.WithTimeoutCause(ctx, t.limits.Statement, errLimit)
	defer cancel()
	if s, ok := out.(*stream); ok {
		s.begin(limited)
	}
	err := t.session.Run(limited, call, out)
	var failed *fault.Error
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && errors.Is(context.Cause(limited), errLimit):
		failed = t.tooLong(err)
	case err != nil:
		failed = sqlFault(err)
	}
	switch {
	case failed != nil && t.session.Broken():
		return nil, failed
	case call.End == "" && t.session.Tx() == pgsession.Idle:
		return nil, fault.New(codes.FailedPrecondition, fault.TransactionEnded, "the statement ended the transaction, whether kept or not").Because(err)
	}
	return failed, nil
}

// answer makes a message the last part of a step's answer.
func (t *transaction) answer(m *gatewayv1.TransactResponse, failed *fault.Error) *gatewayv1.TransactResponse {
	m.End = &gatewayv1.StepEnd{Status: gatewayv1.TransactionStatus_TRANSACTION_STATUS_OPEN, Error: stepError(failed)}
	if t.session.Tx() == pgsession.Failed {
		m.End.Status = gatewayv1.TransactionStatus_TRANSACTION_STATUS_ABORTED
	}
	return m
}

func stepError(f *fault.Error) *gatewayv1.StepError {
	if f == nil {
		return nil
	}
	e := &gatewayv1.StepError{Code: int32(f.Code), Reason: f.Reason, Message: f.Text, Metadata: f.Metadata}
	if f.RetryAfter > 0 {
		e.RetryAfter = durationpb.New(f.RetryAfter)
	}
	return e
}

// close ends the transaction, gives the connection back, and then answers. What was not kept although that was wanted is
// the call's error, too.
func (t *transaction) close(ctx context.Context, keep bool) error {
	end := &gatewayv1.StepEnd{Status: gatewayv1.TransactionStatus_TRANSACTION_STATUS_ROLLED_BACK}
	call := pgsession.Call{End: "ROLLBACK"}
	aborted := t.session.Tx() == pgsession.Failed
	if keep && !aborted {
		call.End = "COMMIT"
		end.Status = gatewayv1.TransactionStatus_TRANSACTION_STATUS_COMMITTED
	}
	failed, err := t.do(ctx, call, &execution{})
	switch {
	case err != nil && call.End == "COMMIT" && ctx.Err() == nil:
		// Nobody may be told to just try again.
		return fault.New(codes.Unavailable, fault.DatabaseUnavailable, "the connection broke during the commit: whether the transaction was kept is not known").Because(err)
	case err != nil:
		return err
	case failed != nil:
		end.Status = gatewayv1.TransactionStatus_TRANSACTION_STATUS_ROLLED_BACK
	case keep && aborted:
		failed = fault.New(codes.Aborted, fault.TransactionRolledBack, "the transaction had been aborted by an error, and was rolled back instead of committed")
	}
	t.conn.Release()
	end.Error = stepError(failed)
	answering, cancel := context.WithTimeoutCause(ctx, t.limits.Idle, errIdle)
	defer cancel()
	if err := within(answering, func() error { return t.stream.Send(&gatewayv1.TransactResponse{End: end}) }); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return nil
}
