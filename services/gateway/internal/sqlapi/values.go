package sqlapi

import (
	"strconv"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// Formats of PostgreSQL's protocol.
const (
	textFormat   int16 = 0
	binaryFormat int16 = 1
)

func resultFormats(f gatewayv1.Format) []int16 {
	if f == gatewayv1.Format_FORMAT_BINARY {
		return []int16{binaryFormat}
	}
	return []int16{textFormat}
}

// types knows the names of PostgreSQL's own types.
var types = pgtype.NewMap()

func columns(fields []pgconn.FieldDescription) []*gatewayv1.Column {
	out := make([]*gatewayv1.Column, len(fields))
	for i, f := range fields {
		out[i] = &gatewayv1.Column{Name: f.Name, TypeOid: f.DataTypeOID, TypeName: typeName(f.DataTypeOID)}
	}
	return out
}

// typeName is a type's name, or its OID for one of the tenant's own.
func typeName(oid uint32) string {
	if t, ok := types.TypeForOID(oid); ok {
		return t.Name
	}
	return strconv.FormatUint(uint64(oid), 10)
}

// rowOf copies a row, and tells about how many bytes it takes.
func rowOf(raw [][]byte, binary bool) (*gatewayv1.Row, int) {
	row := &gatewayv1.Row{Values: make([]*gatewayv1.Value, len(raw))}
	size := 2
	for i, b := range raw {
		size += len(b) + 4
		row.Values[i] = valueOf(b, binary)
	}
	return row, size
}

// valueOf copies a value: the reader's bytes are the next row's. Text that is not UTF-8, of a database with another
// encoding, cannot be a protobuf string.
func valueOf(b []byte, binary bool) *gatewayv1.Value {
	switch {
	case b == nil:
		return &gatewayv1.Value{Value: &gatewayv1.Value_Null{Null: true}}
	case binary || !utf8.Valid(b):
		return &gatewayv1.Value{Value: &gatewayv1.Value_Binary{Binary: append([]byte{}, b...)}}
	default:
		return &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: string(b)}}
	}
}
