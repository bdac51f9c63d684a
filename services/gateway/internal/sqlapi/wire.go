package sqlapi

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of the contract's fields: QueryResponse.rows, Row.values, and the kinds of Value.
const (
	rowsField   protowire.Number = 2
	valuesField protowire.Number = 1

	textField   protowire.Number = 1
	binaryField protowire.Number = 2
	nullField   protowire.Number = 3
)

// appendRow appends a row to the rows of a QueryResponse, in protobuf's wire format. It is what rowOf is as a message.
func appendRow(b []byte, raw [][]byte, binary bool) []byte {
	size := 0
	for _, v := range raw {
		size += protowire.SizeTag(valuesField) + protowire.SizeBytes(valueSize(v))
	}
	b = protowire.AppendTag(b, rowsField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	for _, v := range raw {
		b = protowire.AppendTag(b, valuesField, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(valueSize(v)))
		switch {
		case v == nil:
			b = protowire.AppendTag(b, nullField, protowire.VarintType)
			b = protowire.AppendVarint(b, protowire.EncodeBool(true))
		case binary || !utf8.Valid(v):
			b = protowire.AppendTag(b, binaryField, protowire.BytesType)
			b = protowire.AppendBytes(b, v)
		default:
			b = protowire.AppendTag(b, textField, protowire.BytesType)
			b = protowire.AppendBytes(b, v)
		}
	}
	return b
}

// valueSize is how many bytes a Value takes, without its own tag and length.
func valueSize(v []byte) int {
	if v == nil {
		return protowire.SizeTag(nullField) + protowire.SizeVarint(1)
	}
	return protowire.SizeTag(textField) + protowire.SizeBytes(len(v))
}
