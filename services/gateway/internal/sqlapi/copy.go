package sqlapi

import (
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// inspect reads a statement's text. COPY from the client is refused: there is no way to send its rows, and it would wait
// for them until the call's limit. COPY that names a file or a program is PostgreSQL's to refuse.
func inspect(sql string) (pgsession.Text, error) {
	text := pgsession.Inspect(sql)
	if text.CopiesIn() {
		return text, copyRefused()
	}
	return text, nil
}

// refuseCopy refuses what a COPY to the client would have sent, and was left out.
func refuseCopy(tag pgconn.CommandTag) error {
	if !strings.HasPrefix(tag.String(), "COPY ") {
		return nil
	}
	return copyRefused()
}

func copyRefused() error {
	return fault.New(codes.InvalidArgument, fault.SQLError, "COPY is not for SqlService: insert rows with Batch, and read them with Query").
		With("sqlstate", pgerrcode.FeatureNotSupported)
}
