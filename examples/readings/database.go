package main

import (
	"context"
	"errors"
	"io"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// database runs SQL in the database of the company that the call of the context is for.
type database struct{ sql gatewayv1.SqlServiceClient }

// all runs statements in one transaction.
func (d database) all(ctx context.Context, statements ...*gatewayv1.Statement) error {
	_, err := d.sql.Batch(ctx, &gatewayv1.BatchRequest{Statements: statements})
	return err
}

// query runs a statement and calls row with each row, as text.
func (d database) query(ctx context.Context, row func(columns []string) error, sql string, params ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.sql.Query(ctx, &gatewayv1.QueryRequest{Sql: sql, Params: values(params)})
	if err != nil {
		return err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, r := range part.GetRows() {
			columns := make([]string, len(r.GetValues()))
			for i, v := range r.GetValues() {
				columns[i] = v.GetText()
			}
			if err := row(columns); err != nil {
				return err
			}
		}
	}
}

func statement(sql string, params ...string) *gatewayv1.Statement {
	return &gatewayv1.Statement{Sql: sql, Params: values(params)}
}

func values(params []string) []*gatewayv1.Value {
	out := make([]*gatewayv1.Value, len(params))
	for i, p := range params {
		out[i] = &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: p}}
	}
	return out
}

// refuse is an error with a reason for programs, as Tenantry's own errors have.
func refuse(code codes.Code, reason, text string) error {
	st, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "readings"})
	if err != nil {
		return status.Error(code, text)
	}
	return st.Err()
}
