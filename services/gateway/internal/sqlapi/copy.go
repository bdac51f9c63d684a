package sqlapi

import (
	"regexp"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// fromClient is how COPY says that its rows come from the client. It would wait for them until the call's limit, as
// there is no way to send them; so such a statement is not sent at all. COPY that names a file or a program is
// PostgreSQL's to refuse.
var fromClient = regexp.MustCompile(`(?is)\bFROM\s+STDIN\b`)

// checkCopy refuses COPY from the client before it is sent.
func checkCopy(sql string) error {
	keyword := withoutComments(sql)
	if len(keyword) < 5 || !strings.EqualFold(keyword[:4], "COPY") || !fromClient.MatchString(keyword) {
		return nil
	}
	return copyRefused()
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

// withoutComments is a statement from its first keyword on: PostgreSQL lets white space and comments, which nest, come
// before it.
func withoutComments(sql string) string {
	for {
		sql = strings.TrimLeft(sql, " \t\r\n\f\v")
		switch {
		case strings.HasPrefix(sql, "--"):
			_, rest, _ := strings.Cut(sql, "\n")
			sql = rest
		case strings.HasPrefix(sql, "/*"):
			depth, i := 1, 2
			for ; depth > 0 && i < len(sql); i++ {
				switch {
				case strings.HasPrefix(sql[i:], "/*"):
					depth++
					i++
				case strings.HasPrefix(sql[i:], "*/"):
					depth--
					i++
				}
			}
			sql = sql[min(i, len(sql)):]
		default:
			return sql
		}
	}
}
