package sqlapi

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// stream sends a result as it comes: PostgreSQL is read no faster than the caller reads. It implements pgsession.Results.
type stream struct {
	out    grpc.ServerStreamingServer[gatewayv1.QueryResponse]
	binary bool
	ctx    context.Context // ends with the call's limit
	next   *gatewayv1.QueryResponse
	size   int
	tag    string
}

// begin readies it for a result, which has to be sent before the context ends.
func (s *stream) begin(ctx context.Context) {
	s.ctx = ctx
	s.Restart()
}

// Restart forgets what was not sent yet.
func (s *stream) Restart() { s.next, s.size = &gatewayv1.QueryResponse{}, 0 }

// Columns comes before the rows.
func (s *stream) Columns(_ int, fields []pgconn.FieldDescription) error {
	s.next.Columns = columns(fields)
	return nil
}

// Row sends what there is when it is enough for a message.
func (s *stream) Row(_ int, values [][]byte) error {
	row, size := rowOf(values, s.binary)
	s.next.Rows = append(s.next.Rows, row)
	if s.size += size; s.size < messageBytes {
		return nil
	}
	sent, m := make(chan error, 1), s.next
	s.Restart()
	// A caller that reads no more would hold the connection for as long as it likes. The message is given up with the
	// call, whose end has Send return.
	go func() { sent <- s.out.Send(m) }()
	select {
	case err := <-sent:
		return err
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// Done takes the command tag.
func (s *stream) Done(_ int, tag string, _ bool) error {
	s.tag = tag
	return refuseCopy(pgconn.NewCommandTag(tag))
}

// end sends what is left, with the command tag.
func (s *stream) end() error {
	s.next.CommandTag = s.tag
	return s.out.Send(s.next)
}
