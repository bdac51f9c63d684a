package sqlapi

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// sqlFault makes a fault of what went wrong with a statement: PostgreSQL's own message with SQLSTATE and position, or
// that its server went away.
func sqlFault(err error) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		// The connection broke in mid-statement; whether the statement was done is not known.
		return fault.New(codes.Unavailable, fault.DatabaseUnavailable, "the connection to the company's database broke").RetryIn(time.Second).Because(err)
	}
	if pg.IsUnavailable(err) {
		return fault.New(codes.Unavailable, fault.DatabaseUnavailable, "the company's database went away: %s", e.Message).
			With("sqlstate", e.Code).RetryIn(time.Second).Because(err)
	}
	out := fault.New(codeOf(e.Code), fault.SQLError, "%s (SQLSTATE %s)", e.Message, e.Code).With("sqlstate", e.Code).Because(err)
	for name, value := range map[string]string{"detail": e.Detail, "hint": e.Hint, "constraint": e.ConstraintName, "table": e.TableName, "column": e.ColumnName} {
		if value != "" {
			out = out.With(name, value)
		}
	}
	if e.Position > 0 {
		out = out.With("position", strconv.Itoa(int(e.Position)))
	}
	if m := atParameter.FindStringSubmatch(e.Where); m != nil {
		out.Text = fmt.Sprintf("parameter %s: %s", m[1], out.Text)
		out = out.With("parameter", m[1])
	}
	if e.Code == pgerrcode.SerializationFailure || e.Code == pgerrcode.DeadlockDetected {
		out = out.RetryIn(10 * time.Millisecond)
	}
	return out
}

// atParameter knows how PostgreSQL says that it could not read a parameter, unless it speaks another language.
var atParameter = regexp.MustCompile(`^unnamed portal parameter (\$[0-9]+)`)

// codeOf is the gRPC code of a SQLSTATE: what the caller can do about it. Mistakes in the statement or its values are
// INVALID_ARGUMENT.
func codeOf(sqlstate string) codes.Code {
	switch {
	case sqlstate == pgerrcode.UniqueViolation, sqlstate == pgerrcode.ExclusionViolation:
		return codes.AlreadyExists
	case sqlstate == pgerrcode.InsufficientPrivilege:
		return codes.PermissionDenied
	case pgerrcode.IsIntegrityConstraintViolation(sqlstate), sqlstate == pgerrcode.ActiveSQLTransaction, sqlstate == pgerrcode.ReadOnlySQLTransaction,
		sqlstate == pgerrcode.ObjectNotInPrerequisiteState, sqlstate == pgerrcode.InFailedSQLTransaction, sqlstate == pgerrcode.InvalidSavepointSpecification:
		return codes.FailedPrecondition
	case pgerrcode.IsTransactionRollback(sqlstate), sqlstate == pgerrcode.LockNotAvailable:
		return codes.Aborted
	case sqlstate == pgerrcode.QueryCanceled:
		return codes.Canceled
	case pgerrcode.IsInsufficientResources(sqlstate), pgerrcode.IsProgramLimitExceeded(sqlstate):
		return codes.ResourceExhausted
	case pgerrcode.IsInternalError(sqlstate), pgerrcode.IsSystemError(sqlstate):
		return codes.Internal
	default:
		return codes.InvalidArgument
	}
}
