package sqlapi

import (
	"context"
	"errors"
	"io"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

// Causes of a transaction's end that are the gateway's.
var (
	errIdle             = errors.New("the gateway's limit to waiting for a step")
	errTransactionLimit = errors.New("the gateway's limit to a transaction")
)

// Transact implements the contract. However it ends, the connection is released; one with a transaction that is open is
// rolled back by that.
func (s *Service) Transact(stream grpc.BidiStreamingServer[gatewayv1.TransactRequest, gatewayv1.TransactResponse]) error {
	ctx, cancel := context.WithTimeoutCause(stream.Context(), s.limits.Transaction, errTransactionLimit)
	defer cancel()
	t := &transaction{Service: s, stream: stream, received: make(chan received)}
	// It ends with the call, whose end has Recv return.
	go t.receive(ctx)
	err := t.run(ctx)
	switch {
	case errors.Is(err, errIdle):
		return fault.New(codes.DeadlineExceeded, fault.TransactionIdle, "there was no next step, or nobody read the answer, for %s: the transaction was rolled back", s.limits.Idle).Because(err)
	case errors.Is(err, errTransactionLimit):
		return fault.New(codes.DeadlineExceeded, fault.TransactionTimeout, "the transaction took longer than %s and was rolled back", s.limits.Transaction).Because(err)
	case errors.Is(err, errLimit):
		return fault.New(codes.DeadlineExceeded, fault.StatementTimeout, "nobody read the rows for %s: the transaction was rolled back", s.limits.Statement).Because(err)
	}
	return err
}

// transaction is one call of Transact.
type transaction struct {
	*Service
	stream   grpc.BidiStreamingServer[gatewayv1.TransactRequest, gatewayv1.TransactResponse]
	received chan received
	format   gatewayv1.Format

	company uuid.UUID
	conn    *conns.Conn
	session *pgsession.Session
}

// received is what came from the caller: a step, or why there will be none.
type received struct {
	step *gatewayv1.TransactRequest
	err  error
}

// receive receives one step ahead of what is done.
func (t *transaction) receive(ctx context.Context) {
	for {
		step, err := t.stream.Recv()
		select {
		case t.received <- received{step, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// run does the steps.
func (t *transaction) run(ctx context.Context) error {
	step, err := t.next(ctx, nil)
	if errors.Is(err, io.EOF) {
		return fault.Invalid("step", "got the end of the stream, want begin first")
	}
	if err != nil {
		return err
	}
	if step.GetBegin() == nil {
		return fault.Invalid("step", "got another step, want begin first")
	}
	if err := t.open(ctx, step.GetBegin()); err != nil {
		return err
	}
	defer t.conn.Release()
	answer := t.answer(&gatewayv1.TransactResponse{}, nil)
	for {
		step, err := t.next(ctx, answer)
		if errors.Is(err, io.EOF) {
			return fault.New(codes.FailedPrecondition, fault.TransactionLeftOpen, "the stream ended without commit or rollback: the transaction was rolled back")
		}
		if err != nil {
			return err
		}
		if err := t.remains(ctx); err != nil {
			return err
		}
		if step.GetCommit() != nil || step.GetRollback() != nil {
			return t.close(ctx, step.GetCommit() != nil)
		}
		if answer, err = t.step(ctx, step); err != nil {
			return err
		}
	}
}

// next sends the answer to a step, if there is one, and waits for the next.
func (t *transaction) next(ctx context.Context, answer *gatewayv1.TransactResponse) (*gatewayv1.TransactRequest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.limits.Idle, errIdle)
	defer cancel()
	if answer != nil {
		if err := within(ctx, func() error { return t.stream.Send(answer) }); err != nil {
			return nil, err
		}
	}
	select {
	case r := <-t.received:
		return r.step, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// remains tells whether the caller would get a transaction now, save for maintenance, which waits for those that are open.
func (t *transaction) remains(ctx context.Context) error {
	if err := t.good(identity.FromContext(ctx)); err != nil {
		return err
	}
	if err := t.routes.Remains(ctx, t.company); err != nil {
		return cause(ctx, err)
	}
	return nil
}

// open has a connection and opens the transaction on it.
func (t *transaction) open(ctx context.Context, r *gatewayv1.Begin) error {
	call, err := opening(ctx, r.GetTransaction())
	if err != nil {
		return err
	}
	t.format = r.GetResultFormat()
	err = t.acquire(ctx, r.GetCompany(), func(route *routes.Route, conn *conns.Conn) error {
		t.company, t.conn, t.session = route.CompanyID, conn, conn.Session()
		failed, err := t.do(ctx, call, &execution{})
		if err == nil && failed != nil {
			err = failed
		}
		if err != nil {
			conn.Release()
			t.conn = nil
		}
		return err
	})
	if t.conn == nil {
		return cause(ctx, err)
	}
	return err
}

// cause is why the context ended, if it did, and else the error.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
