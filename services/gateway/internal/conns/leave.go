package conns

import (
	"context"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgproto3"
)

// leave ends an idle session, and waits until PostgreSQL has closed the connection: its process is gone from what the
// server counts only then. Pgconn's Close sends the same and does not wait, so that a budget that is full would be passed
// by connections that are on their way out.
func leave(ctx context.Context, conn net.Conn) {
	terminate, err := (&pgproto3.Terminate{}).Encode(nil)
	if err != nil {
		return
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return
		}
	}
	if _, err := conn.Write(terminate); err != nil {
		return // It is gone already.
	}
	_, _ = io.Copy(io.Discard, conn) // Whatever the server says now, and however it ends.
}
