package fleetsql

import (
	"strconv"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// types knows the names of PostgreSQL's own types.
var types = pgtype.NewMap()

func columns(fields []pgconn.FieldDescription) []*gatewayv1.Column {
	out := make([]*gatewayv1.Column, len(fields))
	for i, f := range fields {
		name := strconv.FormatUint(uint64(f.DataTypeOID), 10)
		if t, ok := types.TypeForOID(f.DataTypeOID); ok {
			name = t.Name
		}
		out[i] = &gatewayv1.Column{Name: f.Name, TypeOid: f.DataTypeOID, TypeName: name}
	}
	return out
}

// rowOf copies a row, whose bytes are the next one's, and tells about how many it takes.
func rowOf(raw [][]byte) (*gatewayv1.Row, int) {
	row, size := &gatewayv1.Row{Values: make([]*gatewayv1.Value, len(raw))}, 2
	for i, b := range raw {
		size += len(b) + 4
		switch {
		case b == nil:
			row.Values[i] = &gatewayv1.Value{Value: &gatewayv1.Value_Null{Null: true}}
		case !utf8.Valid(b): // of a database with another encoding
			row.Values[i] = &gatewayv1.Value{Value: &gatewayv1.Value_Binary{Binary: append([]byte{}, b...)}}
		default:
			row.Values[i] = &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: string(b)}}
		}
	}
	return row, size
}
