package sqlapi

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// Batch implements the contract: the statements are sent at once, between a BEGIN and a COMMIT, so it is one round trip
// however many they are.
func (s *Service) Batch(ctx context.Context, r *gatewayv1.BatchRequest) (*gatewayv1.BatchResponse, error) {
	for i, st := range r.GetStatements() {
		if err := checkCopy(st.GetSql()); err != nil {
			return nil, atStatement(err, i)
		}
	}
	out := &gatewayv1.BatchResponse{}
	err := s.with(ctx, r.GetCompany(), func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := exec(ctx, conn, "BEGIN"); err != nil {
			return err
		}
		if err := run(ctx, conn, r, out); err != nil {
			return err
		}
		return exec(ctx, conn, "COMMIT")
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func exec(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	_, err := conn.Exec(ctx, sql).ReadAll()
	return err
}

func run(ctx context.Context, conn *pgconn.PgConn, r *gatewayv1.BatchRequest, out *gatewayv1.BatchResponse) error {
	batch := &pgconn.Batch{}
	for _, st := range r.GetStatements() {
		batch.ExecParams(st.GetSql(), parameters(st.GetParams()), nil, formats(st.GetParams()), resultFormats(r.GetResultFormat()))
	}
	results := conn.ExecBatch(ctx, batch)
	binary := r.GetResultFormat() == gatewayv1.Format_FORMAT_BINARY
	size := 0
	var refused error
	for results.NextResult() {
		reader := results.ResultReader()
		result := &gatewayv1.StatementResult{Columns: columns(reader.FieldDescriptions())}
		for reader.NextRow() {
			row, n := rowOf(reader, binary)
			if size += n; size > batchBytes {
				refused = fault.New(codes.ResourceExhausted, fault.ResultTooLarge, "the results of a batch may hold %d bytes; Query streams more", batchBytes)
				break
			}
			result.Rows = append(result.Rows, row)
		}
		tag, err := reader.Close()
		if err != nil {
			break // The batch's own Close tells it.
		}
		if refused == nil {
			refused = refuseCopy(tag)
		}
		result.CommandTag, result.RowsAffected = tag.String(), tag.RowsAffected()
		out.Results = append(out.Results, result)
		if refused != nil {
			break
		}
	}
	err := results.Close()
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return atStatement(err, len(out.GetResults()))
	case conn.TxStatus() != 'T':
		// A COMMIT or ROLLBACK among the statements ended the transaction that is all or nothing.
		return fault.New(codes.FailedPrecondition, fault.TransactionLeftOpen, "a statement of the batch ended its transaction: a batch is one, all or nothing")
	}
	return nil
}

// atStatement says which statement failed.
func atStatement(err error, index int) error {
	if f := sqlFault(err); f != nil {
		return f.With("statement_index", strconv.Itoa(index))
	}
	return err
}
