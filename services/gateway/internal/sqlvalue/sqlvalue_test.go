package sqlvalue_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/sqlvalue"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestNullEmptyTextAndEmptyBytesAreThreeThings(t *testing.T) {
	t.Parallel()
	values, formats, err := sqlvalue.Parameters("params", []*gatewayv1.Value{
		{Value: &gatewayv1.Value_Null{Null: true}}, {Value: &gatewayv1.Value_Text{}}, {Value: &gatewayv1.Value_Binary{}},
		{Value: &gatewayv1.Value_Binary{Binary: []byte{0}}},
	})
	require.NoError(t, err)
	require.Equal(t, [][]byte{nil, {}, {}, {0}}, values)
	require.Equal(t, []int16{0, 0, 1, 1}, formats)
}

func TestTypedValuesAreWrittenAsPostgreSQLReadsThem(t *testing.T) {
	t.Parallel()
	integer := func(v int64) *gatewayv1.Value {
		return &gatewayv1.Value{Value: &gatewayv1.Value_Integer{Integer: v}}
	}
	number := func(v float64) *gatewayv1.Value {
		return &gatewayv1.Value{Value: &gatewayv1.Value_Number{Number: v}}
	}
	for want, v := range map[string]*gatewayv1.Value{
		"true": {Value: &gatewayv1.Value_Boolean{Boolean: true}}, "false": {Value: &gatewayv1.Value_Boolean{}},
		"-9223372036854775808": integer(math.MinInt64), "0": integer(0),
		"0.1": number(0.1), "1000000": number(1e6), "1e+300": number(1e300), "5e-324": number(5e-324), "NaN": number(math.NaN()),
		"-Infinity": number(math.Inf(-1)), "-0": number(math.Copysign(0, -1)), "0.000001": number(1e-6),
		"2026-01-02T03:04:05.000006Z": {Value: &gatewayv1.Value_Timestamp{Timestamp: timestamppb.New(time.Date(2026, 1, 2, 4, 4, 5, 6000, time.FixedZone("", 3600)))}},
		"0001-01-01T00:00:00Z":        {Value: &gatewayv1.Value_Timestamp{Timestamp: &timestamppb.Timestamp{Seconds: -62135596800}}},
		`{"a": 1}`:                    {Value: &gatewayv1.Value_Json{Json: `{"a": 1}`}},
	} {
		values, formats, err := sqlvalue.Parameters("params", []*gatewayv1.Value{v})
		require.NoError(t, err)
		require.Equal(t, want, string(values[0]))
		require.Equal(t, []int16{0}, formats)
	}
}

func TestAValueThatIsNoneOfItsKindIsNamed(t *testing.T) {
	t.Parallel()
	for field, v := range map[string]*gatewayv1.Value{
		"statements[3].params[1].timestamp": {Value: &gatewayv1.Value_Timestamp{Timestamp: &timestamppb.Timestamp{Nanos: 2e9}}},
		"statements[3].params[1].json":      {Value: &gatewayv1.Value_Json{Json: `{"a": 1} more`}},
	} {
		_, _, err := sqlvalue.Parameters("statements[3].params", []*gatewayv1.Value{{Value: &gatewayv1.Value_Text{}}, v})
		require.True(t, fault.HasReason(err, fault.FieldInvalid))
		require.Equal(t, field, fault.From(err).Metadata["field"])
	}
}
