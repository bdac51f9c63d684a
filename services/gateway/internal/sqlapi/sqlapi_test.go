package sqlapi

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestCopyFromTheClientIsKnownWhateverComesBeforeIt(t *testing.T) {
	t.Parallel()
	for sql, refused := range map[string]bool{
		"COPY t FROM STDIN":                         true,
		"  \n-- x\ncopy t(a) from\n stdin csv":      true,
		"/* a /* b */ c */ COPY t FROM STDIN":       true,
		" ; -- x\n;COPY t FROM STDIN":               true,
		"COPY t FROM '/etc/passwd'":                 false, // PostgreSQL's to refuse
		"COPY t TO STDOUT":                          false, // refused by its tag
		"SELECT 'COPY t FROM STDIN'":                false,
		"/* COPY t FROM STDIN */ SELECT 1":          false,
		"SELECT 1 -- COPY t FROM STDIN":             false,
		"/* never closed COPY t FROM STDIN":         false,
		"":                                          false,
		"--":                                        false,
		"INSERT INTO copies SELECT * FROM stdin_of": false,
	} {
		_, err := inspect(sql)
		require.Equal(t, refused, err != nil, sql)
	}
	require.Error(t, refuseCopy(pgconn.NewCommandTag("COPY 3")))
	require.NoError(t, refuseCopy(pgconn.NewCommandTag("SELECT 3")))
}

func TestFieldsOfRowsAreNullTextOrBytes(t *testing.T) {
	t.Parallel()
	require.True(t, valueOf(nil, false).GetNull())
	require.Empty(t, valueOf([]byte{}, false).GetText())
	require.IsType(t, &gatewayv1.Value_Text{}, valueOf([]byte{}, false).GetValue())
	require.Equal(t, []byte{0xff}, valueOf([]byte{0xff}, false).GetBinary(), "what is no UTF-8 cannot be a string")
	require.Equal(t, []byte("a"), valueOf([]byte("a"), true).GetBinary())
	require.Equal(t, "int8", typeName(20))
	require.Equal(t, "16999", typeName(16999))
}

func TestAnSQLSTATEBecomesWhatTheCallerCanDo(t *testing.T) {
	t.Parallel()
	for sqlstate, want := range map[string]codes.Code{
		"23505": codes.AlreadyExists, "42501": codes.PermissionDenied, "23503": codes.FailedPrecondition, "40001": codes.Aborted, "40P01": codes.Aborted,
		"57014": codes.Canceled, "53100": codes.ResourceExhausted, "42601": codes.InvalidArgument, "22P02": codes.InvalidArgument, "XX000": codes.Internal,
	} {
		f := sqlFault(&pgconn.PgError{Code: sqlstate, Message: "m", Position: 3, Detail: "d"})
		require.Equal(t, want, f.Code, sqlstate)
		require.Equal(t, fault.SQLError, f.Reason)
		require.Equal(t, sqlstate, f.Metadata["sqlstate"])
		require.Equal(t, "3", f.Metadata["position"])
		require.Equal(t, "d", f.Metadata["detail"])
	}
	for _, err := range []error{&pgconn.PgError{Code: "57P01"}, errors.New("unexpected EOF")} {
		f := sqlFault(err)
		require.Equal(t, fault.DatabaseUnavailable, f.Reason)
		require.Equal(t, codes.Unavailable, f.Code)
		require.Positive(t, f.RetryAfter)
	}
}
