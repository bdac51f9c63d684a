// Package sqlvalue writes the parameters of requests as PostgreSQL reads them. All but those that come in binary are sent
// as text, and none with a type: PostgreSQL finds the types from where the parameters stand.
package sqlvalue

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// Parameters are values as they are sent, nil for NULL, and their formats. path is where they stand in the request. A value
// that is none of its kind is INVALID_ARGUMENT `FIELD_INVALID`.
func Parameters(path string, values []*gatewayv1.Value) (params [][]byte, formats []int16, err error) {
	params, formats = make([][]byte, len(values)), make([]int16, len(values))
	for i, v := range values {
		var bad *wrong
		if params[i], formats[i], bad = parameter(v); bad != nil {
			return nil, nil, fault.Invalid(fmt.Sprintf("%s[%d].%s", path, i, bad.field), "%s", bad.text)
		}
	}
	return params, formats, nil
}

// wrong says what is wrong with which field of a value.
type wrong struct{ field, text string }

func parameter(v *gatewayv1.Value) ([]byte, int16, *wrong) {
	switch x := v.GetValue().(type) {
	case *gatewayv1.Value_Text:
		return []byte(x.Text), pgtype.TextFormatCode, nil
	case *gatewayv1.Value_Binary:
		if x.Binary == nil {
			return []byte{}, pgtype.BinaryFormatCode, nil // nil would be NULL.
		}
		return x.Binary, pgtype.BinaryFormatCode, nil
	case *gatewayv1.Value_Boolean:
		return strconv.AppendBool(nil, x.Boolean), pgtype.TextFormatCode, nil
	case *gatewayv1.Value_Integer:
		return strconv.AppendInt(nil, x.Integer, 10), pgtype.TextFormatCode, nil
	case *gatewayv1.Value_Number:
		return number(x.Number), pgtype.TextFormatCode, nil
	case *gatewayv1.Value_Timestamp:
		if err := x.Timestamp.CheckValid(); err != nil {
			return nil, 0, &wrong{"timestamp", fmt.Sprintf("got %d s and %d ns, want a moment of the years 1 to 9999, and 0 to 999999999 ns",
				x.Timestamp.GetSeconds(), x.Timestamp.GetNanos())}
		}
		return x.Timestamp.AsTime().AppendFormat(nil, time.RFC3339Nano), pgtype.TextFormatCode, nil
	case *gatewayv1.Value_Uuid:
		return []byte(x.Uuid), pgtype.TextFormatCode, nil
	case *gatewayv1.Value_Json:
		if !json.Valid([]byte(x.Json)) {
			return nil, 0, &wrong{"json", "got text that is no JSON, want one JSON value"}
		}
		return []byte(x.Json), pgtype.TextFormatCode, nil
	default:
		return nil, pgtype.TextFormatCode, nil
	}
}

// number writes a number with as few digits as read the same, and without an exponent where that is short: PostgreSQL's
// integers have none.
func number(x float64) []byte {
	switch {
	case math.IsNaN(x):
		return []byte("NaN")
	case math.IsInf(x, 0):
		return []byte(map[bool]string{true: "Infinity", false: "-Infinity"}[x > 0])
	case x == 0 || math.Abs(x) >= 1e-6 && math.Abs(x) < 1e21:
		return strconv.AppendFloat(nil, x, 'f', -1, 64)
	default:
		return strconv.AppendFloat(nil, x, 'e', -1, 64)
	}
}
