package sqlapi

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/proto/packed"
)

// stream sends a result as it comes: PostgreSQL is read no faster than the caller reads. It implements pgsession.Results.
type stream struct {
	send   func(*gatewayv1.QueryResponse) error
	binary bool
	packed bool
	most   uint32          // rows to send; 0 means all
	ctx    context.Context // ends with the call's limit
	next   *gatewayv1.QueryResponse
	wire   []byte // its rows, as they are sent
	rows   uint32
	tag    string
	// truncated means that there were more rows than were to be sent.
	truncated bool
	// unsent is why a message could not be sent: there can be no other.
	unsent error
}

// begin readies it for a result, which has to be sent before the context ends.
func (s *stream) begin(ctx context.Context) {
	s.ctx = ctx
	s.Restart()
}

// Restart forgets what was not sent yet.
func (s *stream) Restart() {
	s.empty()
	s.rows, s.truncated = 0, false
}

func (s *stream) empty() { s.next, s.wire = &gatewayv1.QueryResponse{}, s.wire[:0] }

// Columns comes before the rows.
func (s *stream) Columns(_ int, fields []pgconn.FieldDescription) error {
	s.next.Columns = columns(fields)
	return nil
}

// Row sends what there is when it is enough for a message.
func (s *stream) Row(_ int, values [][]byte) error {
	if s.most > 0 && s.rows == s.most {
		s.truncated = true
		return nil
	}
	s.rows++
	if s.packed {
		s.wire = packed.Append(s.wire, values)
	} else {
		s.wire = appendRow(s.wire, values, s.binary)
	}
	if len(s.wire) < messageBytes {
		return nil
	}
	m := s.whole()
	if s.unsent = within(s.ctx, func() error { return s.send(m) }); s.unsent == nil {
		s.empty() // It was copied.
	}
	return s.unsent
}

// whole is the next message with its rows, which protobuf appends as they are: those of a million rows as messages of
// their own would be most of what such a call costs.
func (s *stream) whole() *gatewayv1.QueryResponse {
	switch {
	case len(s.wire) == 0:
	case s.packed:
		s.next.PackedRows = s.wire
	default:
		s.next.ProtoReflect().SetUnknown(s.wire)
	}
	return s.next
}

// within sends a message for as long as the context lasts: a caller that reads no more would hold the connection for as
// long as it likes. The message is given up with the call, whose end has Send return.
func within(ctx context.Context, send func() error) error {
	sent := make(chan error, 1)
	go func() { sent <- send() }()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Done takes the command tag.
func (s *stream) Done(_ int, tag string, _ bool) error {
	s.tag = tag
	return refuseCopy(pgconn.NewCommandTag(tag))
}

// last is what was not sent yet, with the command tag.
func (s *stream) last() *gatewayv1.QueryResponse {
	s.next.CommandTag, s.next.Truncated = s.tag, s.truncated
	return s.whole()
}
