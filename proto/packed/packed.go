// Package packed reads rows that SqlService.Query was asked to send packed: as PostgreSQL's DataRow messages have them,
// see https://www.postgresql.org/docs/current/protocol-message-formats.html, without what frames those.
//
//	for {
//		m, err := stream.Recv()
//		…
//		for row, err := range packed.Rows(m.GetPackedRows()) {
//			…
//		}
//	}
package packed

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
)

const (
	countBytes  = 2
	lengthBytes = 4
	// null is the length of a NULL.
	null = math.MaxUint32
)

// Append appends a row to packed ones; a nil value is NULL. A row has at most 65,535 values, as PostgreSQL has far fewer.
func Append(b []byte, row [][]byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(row)))
	for _, v := range row {
		if v == nil {
			b = binary.BigEndian.AppendUint32(b, null)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// Rows are the rows of one message. A value is nil for NULL, and else a part of b; the slice of a row's values is used
// again for the next. What is no row ends them with an error.
func Rows(b []byte) iter.Seq2[[][]byte, error] {
	return func(yield func([][]byte, error) bool) {
		var row [][]byte
		for at := 0; at < len(b); {
			var size int
			if row, size = next(row[:0], b[at:]); size == 0 {
				yield(nil, fmt.Errorf("packed rows: a row ends after the message, which has %d bytes", len(b)))
				return
			}
			if !yield(row, nil) {
				return
			}
			at += size
		}
	}
}

// next reads the row that b begins with, and tells how many bytes it takes: 0 for none.
func next(row [][]byte, b []byte) (values [][]byte, size int) {
	if len(b) < countBytes {
		return nil, 0
	}
	left := b[countBytes:]
	for range binary.BigEndian.Uint16(b) {
		if len(left) < lengthBytes {
			return nil, 0
		}
		length := binary.BigEndian.Uint32(left)
		left = left[lengthBytes:]
		if length == null {
			row = append(row, nil)
			continue
		}
		if uint64(length) > uint64(len(left)) {
			return nil, 0
		}
		row = append(row, left[:length:length])
		left = left[length:]
	}
	return row, len(b) - len(left)
}
