package sqlapi

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

func TestARowOnTheWireIsTheMessageItStandsFor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		binary := rapid.Bool().Draw(t, "binary")
		value := rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 1, 300),
			rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }), rapid.SliceOfN(rapid.Byte(), 20_000, 20_000))
		s := &stream{binary: binary}
		s.empty()
		want := &gatewayv1.QueryResponse{CommandTag: "SELECT"}
		for range rapid.IntRange(0, 4).Draw(t, "rows") {
			values := rapid.SliceOfN(value, 0, 4).Draw(t, "values")
			row, _ := rowOf(values, binary)
			want.Rows = append(want.Rows, row)
			s.wire = appendRow(s.wire, values, binary)
		}
		s.tag = "SELECT"
		data, err := proto.Marshal(s.last())
		require.NoError(t, err)
		got := &gatewayv1.QueryResponse{}
		require.NoError(t, proto.UnmarshalOptions{DiscardUnknown: false}.Unmarshal(data, got))
		require.True(t, proto.Equal(want, got), "want %v\ngot %v", want, got)
		require.Empty(t, got.ProtoReflect().GetUnknown())
	})
}
