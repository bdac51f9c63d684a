package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

func textValue(s string) *gatewayv1.Value {
	return &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: s}}
}

func TestValuesBecomeJSONAsPostgreSQLWouldWriteThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value    *gatewayv1.Value
		typeName string
		want     string
	}{
		{textValue("42"), "int8", "42"},
		{textValue("9007199254740993"), "int8", "9007199254740993"},
		{textValue("1.50"), "numeric", "1.50"},
		{textValue("NaN"), "float8", `"NaN"`},
		{textValue("Infinity"), "float4", `"Infinity"`},
		{textValue("1e+300"), "float8", "1e+300"},
		{textValue("t"), "bool", "true"},
		{textValue("f"), "bool", "false"},
		{textValue("42"), "text", `"42"`},
		{textValue("true"), "text", `"true"`},
		{textValue("{\"a\":\n1}"), "json", `{"a": 1}`},
		{textValue(""), "text", `""`},
		{textValue("2026-11-24 10:00:00+00"), "timestamptz", `"2026-11-24 10:00:00+00"`},
		{&gatewayv1.Value{Value: &gatewayv1.Value_Null{Null: true}}, "int8", "null"},
		{&gatewayv1.Value{Value: &gatewayv1.Value_Binary{Binary: []byte{0xde, 0xad}}}, "bytea", `"\\xdead"`},
	} {
		got := jsonValue(c.value, c.typeName)
		require.True(t, json.Valid(got))
		require.Equal(t, c.want, string(got), "%v as %s", c.value, c.typeName)
	}
}

func TestColumnsOfOneNameAreToldApart(t *testing.T) {
	t.Parallel()
	columns := []*gatewayv1.Column{{Name: "a"}, {Name: "a"}, {Name: "a_2"}, {Name: "b"}, {Name: "a"}}
	require.Equal(t, []string{"a", "a_2", "a_2_2", "b", "a_3"}, uniqueNames(columns))
}

func TestRowsAreDrawnInTablesOfBoundedLength(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := rowPrinter{app: &app{Streams: Streams{Out: &out}}}
	require.NoError(t, p.take(&gatewayv1.QueryResponse{Columns: []*gatewayv1.Column{{Name: "n", TypeName: "int4"}}}))
	for range tableRows + 1 {
		require.NoError(t, p.take(&gatewayv1.QueryResponse{Rows: []*gatewayv1.Row{{Values: []*gatewayv1.Value{textValue("1")}}}}))
		require.Less(t, len(p.pending), tableRows)
	}
	require.NoError(t, p.take(&gatewayv1.QueryResponse{CommandTag: "SELECT 1001"}))
	require.NoError(t, p.end())
	require.Equal(t, 2, strings.Count(out.String(), "│ n │"))
	require.True(t, strings.HasSuffix(out.String(), "SELECT 1001\n"))
}

func TestAStatementWithoutRowsTellsWhatItDid(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := rowPrinter{app: &app{Streams: Streams{Out: &out}, json: true}}
	require.NoError(t, p.take(&gatewayv1.QueryResponse{CommandTag: "UPDATE 3"}))
	require.NoError(t, p.end())
	require.JSONEq(t, `{"command_tag": "UPDATE 3"}`, out.String())
}

func TestParametersKeepTheirCommasAndSayNULL(t *testing.T) {
	t.Parallel()
	var c struct {
		SQL sqlCmd `cmd:"" name:"sql"`
	}
	parse(t, &c, "sql", "@", "SELECT $1", "--", "a,b", `\N`, "-5")
	require.Equal(t, []string{"a,b", `\N`, "-5"}, c.SQL.Params)
	params := sqlParams(c.SQL.Params)
	require.Equal(t, "a,b", params[0].GetText())
	require.True(t, params[1].GetNull())
	require.Equal(t, "-5", params[2].GetText())
}
