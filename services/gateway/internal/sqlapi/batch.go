package sqlapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// Batch implements the contract: the statements are sent at once, between a BEGIN and a COMMIT, so it is one round trip
// however many they are. Where some may return rows the COMMIT takes another: PostgreSQL could be done with it before it
// is seen that they are too many.
func (s *Service) Batch(ctx context.Context, r *gatewayv1.BatchRequest) (*gatewayv1.BatchResponse, error) {
	call, err := opening(ctx, r.GetTransaction())
	if err != nil {
		return nil, err
	}
	call.End = "COMMIT"
	for i, st := range r.GetStatements() {
		one, err := statement(st, fmt.Sprintf("statements[%d].params", i), r.GetResultFormat(), st.GetMaxRows())
		if err == nil && one.Text.Ends() {
			err = fault.New(codes.FailedPrecondition, fault.TransactionLeftOpen, "a statement of the batch ends its transaction: a batch is one, all or nothing")
		}
		if err != nil {
			return nil, atStatement(err, i)
		}
		call.Statements = append(call.Statements, one)
	}
	commit := pgsession.Call{}
	if slices.ContainsFunc(call.Statements, func(st pgsession.Statement) bool { return st.Text.ReturnsRows() }) {
		commit.End, call.End = call.End, ""
	}
	out := batch{binary: r.GetResultFormat() == gatewayv1.Format_FORMAT_BINARY, statements: r.GetStatements(), results: make([]*gatewayv1.StatementResult, len(r.GetStatements()))}
	err = s.with(ctx, r.GetCompany(), func(ctx context.Context, session *pgsession.Session) error {
		out.Restart()
		err := session.Run(ctx, call, &out)
		if err == nil && commit.End != "" {
			err = session.Run(ctx, commit, &out)
		}
		var failed *pgsession.StatementError
		if errors.As(err, &failed) && failed.Index >= 0 {
			return atStatement(err, failed.Index)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &gatewayv1.BatchResponse{Results: out.results}, nil
}

// batch collects the results of a batch. It implements pgsession.Results.
type batch struct {
	binary     bool
	statements []*gatewayv1.Statement
	results    []*gatewayv1.StatementResult
	size       int
}

// Restart forgets all results.
func (b *batch) Restart() {
	b.size = 0
	for i := range b.results {
		b.results[i] = &gatewayv1.StatementResult{}
	}
}

// Columns comes before a statement's rows.
func (b *batch) Columns(i int, fields []pgconn.FieldDescription) error {
	b.results[i].Columns = columns(fields)
	return nil
}

// Row keeps a row, unless all of them together are too large for a message.
func (b *batch) Row(i int, values [][]byte) error {
	if most := b.statements[i].GetMaxRows(); most > 0 && len(b.results[i].GetRows()) == int(most) {
		b.results[i].Truncated = true
		return nil
	}
	row, n := rowOf(values, b.binary)
	if b.size += n; b.size > batchBytes {
		return fault.New(codes.ResourceExhausted, fault.ResultTooLarge, "the results of a batch may hold %d bytes; Query streams more", batchBytes)
	}
	b.results[i].Rows = append(b.results[i].Rows, row)
	return nil
}

// Done takes a statement's command tag.
func (b *batch) Done(i int, text string, _ bool) error {
	tag := pgconn.NewCommandTag(text)
	b.results[i].CommandTag, b.results[i].RowsAffected = tag.String(), tag.RowsAffected()
	return refuseCopy(tag)
}

// atStatement says which statement failed.
func atStatement(err error, index int) error {
	if f := sqlFault(err); f != nil {
		return f.With("statement_index", strconv.Itoa(index))
	}
	return err
}
