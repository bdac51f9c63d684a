package sqlapi

import (
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/proto/packed"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

// audited is a table that says who wrote to it.
const audited = `CREATE TABLE log (who text, what text); GRANT ALL ON log TO PUBLIC;
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO log VALUES (current_setting('tenantry.user_id', true), current_setting('tenantry.request_id', true)); RETURN NEW; END $$;
	CREATE TRIGGER t AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION note(); SELECT ''`

func TestTriggersSeeWhoDoesItAndTheNextCallDoesNot(t *testing.T) {
	t.Parallel()
	key := uuid.MustParse("99999999-2222-4333-8444-555555555555")
	for _, who := range []struct {
		caller identity.Caller
		want   string
	}{
		{person, person.UserID.String()},
		{identity.Caller{Kind: identity.APIKey, APIKeyID: key}, "api-key/" + key.String()},
		{identity.Caller{Kind: identity.Operator, Name: "operator/alice"}, "operator/alice"},
		{identity.Caller{Kind: identity.Upstream, Name: "upstream/readings"}, "upstream/readings"},
		{identity.Caller{Kind: identity.Upstream, Name: "upstream/readings", UserID: person.UserID}, person.UserID.String()},
	} {
		caller, want := who.caller, who.want
		t.Run(caller.Kind.String()+caller.UserID.String(), func(t *testing.T) {
			t.Parallel()
			f := start(t, Limits{}, caller)
			f.ask(audited)
			company := ""
			if caller.Kind == identity.Operator {
				company = "sun"
			}
			options := &gatewayv1.TransactionOptions{Audit: &gatewayv1.Audit{RequestId: "request 1"}}
			byMetadata := &gatewayv1.TransactionOptions{Audit: &gatewayv1.Audit{}}
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "request 2")
			insert := func(id string) string { return "INSERT INTO items VALUES (" + id + ")" }
			for name, c := range map[string]struct {
				call func(id string) error
				want string
			}{
				"Execute": {func(id string) error {
					_, err := f.client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: insert(id), Company: company, Transaction: options})
					return err
				}, want + "|request 1"},
				"Query": {func(id string) error {
					_, _, err := f.query(ctx, &gatewayv1.QueryRequest{Sql: insert(id), Company: company, Transaction: byMetadata})
					return err
				}, want + "|request 2"},
				"Query, read committed": {func(id string) error {
					o := &gatewayv1.TransactionOptions{Audit: options.GetAudit(), Isolation: gatewayv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED}
					_, _, err := f.query(ctx, &gatewayv1.QueryRequest{Sql: insert(id), Company: company, Transaction: o})
					return err
				}, want + "|request 1"},
				"Batch": {func(id string) error {
					_, err := f.client.Batch(ctx, &gatewayv1.BatchRequest{Company: company, Transaction: byMetadata, Statements: []*gatewayv1.Statement{{Sql: "SELECT 1"}, {Sql: insert(id)}}})
					return err
				}, want + "|request 2"},
				"without": {func(id string) error {
					_, err := f.client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: insert(id), Company: company})
					return err
				}, "|"},
				"Transact": {func(id string) error {
					stream, err := f.client.Transact(ctx)
					require.NoError(t, err)
					require.NoError(t, stream.Send(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{Company: company, Transaction: options}}}))
					require.NoError(t, stream.Send(savepoint("s")))
					require.NoError(t, stream.Send(rollbackTo("s")))
					require.NoError(t, stream.Send(run(insert(id))))
					require.NoError(t, stream.Send(commit()))
					return (&talk{t: t, stream: stream}).ended()
				}, want + "|request 1"},
			} {
				for id := range 2 {
					require.NoError(t, c.call(strconv.Itoa(100+id)), name)
				}
				require.Equal(t, c.want+","+c.want, f.ask("WITH gone AS (DELETE FROM log RETURNING *), also AS (DELETE FROM items) SELECT coalesce(who, '') || '|' || coalesce(what, '') FROM gone"), name)
				// Neither after a call whose connection is reset, nor after one that is known to leave nothing.
				const look = "SELECT coalesce(current_setting('tenantry.user_id', true), ''), coalesce(current_setting('tenantry.request_id', true), '')"
				for options, want := range map[*gatewayv1.TransactionOptions]string{nil: "|", options: want + "|request 1"} {
					for range 2 {
						rows, _, err := f.query(ctx, &gatewayv1.QueryRequest{Company: company, Sql: look, Transaction: options})
						require.NoError(t, err)
						require.Equal(t, []string{want}, rows, name)
						rows, _, err = f.query(ctx, &gatewayv1.QueryRequest{Company: company, Sql: look})
						require.NoError(t, err)
						require.Equal(t, []string{"|"}, rows, name)
					}
				}
			}
			require.EqualValues(t, 1, f.settled().Dials)
		})
	}
}

func TestARequestIDOfMetadataThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", strings.Repeat("x", 201))
	_, err := f.client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1", Transaction: &gatewayv1.TransactionOptions{Audit: &gatewayv1.Audit{}}})
	require.Equal(t, "x-request-id", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
	_, err = f.client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
	require.NoError(t, err, "who does not ask for it is not asked")
}

func TestIsolationAndReadOnlyAreTheTransactions(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	for want, options := range map[string]*gatewayv1.TransactionOptions{
		"read committed|off":  nil,
		"read committed|on":   {ReadOnly: true},
		"repeatable read|off": {Isolation: gatewayv1.IsolationLevel_ISOLATION_LEVEL_REPEATABLE_READ},
		"serializable|on":     {Isolation: gatewayv1.IsolationLevel_ISOLATION_LEVEL_SERIALIZABLE, ReadOnly: true},
	} {
		const show = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
		readOnly := strings.HasSuffix(want, "on")
		require.Equal(t, []string{want}, f.must(&gatewayv1.QueryRequest{Sql: show, Transaction: options}))
		_, err := f.client.Execute(t.Context(), &gatewayv1.ExecuteRequest{Sql: "UPDATE items SET name = name", Transaction: options})
		require.Equal(t, readOnly, err != nil, "%v", err)
		if readOnly {
			require.Equal(t, "25006", requireReason(t, err, codes.FailedPrecondition, fault.SQLError).Metadata["sqlstate"])
		}
		batch, err := f.client.Batch(t.Context(), &gatewayv1.BatchRequest{Transaction: options, Statements: []*gatewayv1.Statement{{Sql: show}}})
		require.NoError(t, err)
		require.Equal(t, []string{want}, texts(batch.GetResults()[0].GetRows()))
		tx := f.begin(options)
		require.Equal(t, []string{want}, tx.run(show))
		tx.cancel()
		require.Error(t, tx.ended())
	}
	_, err := f.client.Execute(t.Context(), &gatewayv1.ExecuteRequest{Sql: "INSERT INTO items VALUES (3, 'c')", Transaction: &gatewayv1.TransactionOptions{Isolation: gatewayv1.IsolationLevel_ISOLATION_LEVEL_SERIALIZABLE}})
	require.NoError(t, err)
	require.Equal(t, "3", f.ask("SELECT count(*) FROM items"), "it is committed")
	f.settled()
}

func TestNoMoreThanMaxRowsAreMade(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	f.ask("CREATE SEQUENCE made; GRANT ALL ON made TO PUBLIC; SELECT ''")
	const million = "SELECT nextval('made') FROM generate_series(1, 1000000)"
	made := func() string { return f.ask("SELECT last_value::text FROM made") }
	rows, last, err := f.query(t.Context(), &gatewayv1.QueryRequest{Sql: million, MaxRows: 10})
	require.NoError(t, err)
	require.Len(t, rows, 10)
	require.True(t, last.GetTruncated())
	require.Empty(t, last.GetCommandTag())
	require.Equal(t, "11", made(), "one more tells that there are more")

	// As many as there are is not too many, whatever else the transaction is.
	for _, options := range []*gatewayv1.TransactionOptions{nil, {ReadOnly: true}, {Audit: &gatewayv1.Audit{}}} {
		for most, truncated := range map[uint32]bool{1: true, 2: false, 3: false, 0: false} {
			rows, last, err = f.query(t.Context(), &gatewayv1.QueryRequest{Sql: "SELECT name FROM items", MaxRows: most, Transaction: options})
			require.NoError(t, err)
			require.Equal(t, truncated, last.GetTruncated())
			require.Len(t, rows, map[bool]int{true: 1, false: 2}[truncated])
		}
	}
	rows, last, err = f.query(t.Context(), &gatewayv1.QueryRequest{Sql: "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)", MaxRows: 5000})
	require.NoError(t, err)
	require.Len(t, rows, 5000, "in many parts")
	require.True(t, last.GetTruncated())

	// What writes does all of what it does.
	rows, last, err = f.query(t.Context(), &gatewayv1.QueryRequest{Sql: "INSERT INTO items SELECT g FROM generate_series(11, 20) g RETURNING id", MaxRows: 3})
	require.NoError(t, err)
	require.Equal(t, []string{"11", "12", "13"}, rows)
	require.True(t, last.GetTruncated())
	require.Equal(t, "12", f.ask("SELECT count(*) FROM items"))

	batch, err := f.client.Batch(t.Context(), &gatewayv1.BatchRequest{Statements: []*gatewayv1.Statement{
		{Sql: million, MaxRows: 5}, {Sql: "SELECT name FROM items WHERE id < 3 ORDER BY id", MaxRows: 2}, {Sql: "DELETE FROM items WHERE id > 10 RETURNING id", MaxRows: 1}}})
	require.NoError(t, err)
	require.Equal(t, []bool{true, false, true}, []bool{batch.GetResults()[0].GetTruncated(), batch.GetResults()[1].GetTruncated(), batch.GetResults()[2].GetTruncated()})
	require.Len(t, batch.GetResults()[0].GetRows(), 5)
	require.Len(t, batch.GetResults()[1].GetRows(), 2)
	require.Equal(t, "17", made())
	require.Equal(t, "2", f.ask("SELECT count(*) FROM items"))

	tx := f.begin(nil)
	tx.run("CREATE TABLE mine AS SELECT generate_series(1, 100)")
	tx.send(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Statement{Statement: &gatewayv1.Statement{Sql: "SELECT * FROM mine", MaxRows: 3}}})
	m, err := tx.stream.Recv()
	require.NoError(t, err)
	require.True(t, m.GetResult().GetTruncated())
	require.Len(t, m.GetResult().GetRows(), 3)
	tx.run("DROP TABLE mine") // Nothing holds it.
	_, end := tx.do(rollback())
	require.Equal(t, rolledBack, end.GetStatus())
	require.EqualValues(t, 1, f.settled().Dials)
}

func TestPackedRowsAreTheRows(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	for _, format := range []gatewayv1.Format{gatewayv1.Format_FORMAT_TEXT, gatewayv1.Format_FORMAT_BINARY} {
		const most = 5000
		q := &gatewayv1.QueryRequest{Sql: "SELECT g, repeat('x', g % 40), nullif(g % 2, 0) FROM generate_series(1, 9000) g", ResultFormat: format, MaxRows: most}
		read := func() (rows []*gatewayv1.Row, messages int) {
			stream, err := f.client.Query(t.Context(), q)
			require.NoError(t, err)
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return rows, messages
				}
				require.NoError(t, err)
				messages++
				require.Equal(t, messages == 1, len(m.GetColumns()) == 3)
				require.True(t, len(m.GetRows()) == 0 || len(m.GetPackedRows()) == 0)
				require.Less(t, proto.Size(m), 32<<10)
				rows = append(rows, m.GetRows()...)
				for values, err := range packed.Rows(m.GetPackedRows()) {
					require.NoError(t, err)
					row, _ := rowOf(values, format == gatewayv1.Format_FORMAT_BINARY)
					rows = append(rows, row)
				}
			}
		}
		want, _ := read()
		require.Len(t, want, most)
		q.Packed = true
		got, messages := read()
		require.Greater(t, messages, 3, "in many parts")
		require.Len(t, got, most)
		for i := range want {
			require.True(t, proto.Equal(want[i], got[i]), "row %d: %v, packed %v", i, want[i], got[i])
		}
	}
}

func TestABatchCannotBeEndedByAnEmptyStatementBeforeACommit(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	_, err := f.client.Batch(t.Context(), &gatewayv1.BatchRequest{Statements: []*gatewayv1.Statement{{Sql: "DELETE FROM items"}, {Sql: " ; COMMIT"}, {Sql: "SELECT 1/0"}}})
	requireReason(t, err, codes.FailedPrecondition, fault.TransactionLeftOpen)
	require.Equal(t, "2", f.ask("SELECT count(*) FROM items"))
}

func TestTypedParametersFitWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{}, person)
	integer := func(v int64) *gatewayv1.Value {
		return &gatewayv1.Value{Value: &gatewayv1.Value_Integer{Integer: v}}
	}
	number := func(v float64) *gatewayv1.Value {
		return &gatewayv1.Value{Value: &gatewayv1.Value_Number{Number: v}}
	}
	boolean := &gatewayv1.Value{Value: &gatewayv1.Value_Boolean{Boolean: true}}
	moment := &gatewayv1.Value{Value: &gatewayv1.Value_Timestamp{Timestamp: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC))}}
	id := &gatewayv1.Value{Value: &gatewayv1.Value_Uuid{Uuid: person.UserID.String()}}
	object := &gatewayv1.Value{Value: &gatewayv1.Value_Json{Json: `{"a": [1, 2.50, "ü"]}`}}
	for _, c := range []struct {
		sql   string
		value *gatewayv1.Value
		want  string
	}{
		{"SELECT $1::bool AND true", boolean, "t"}, {"SELECT to_jsonb($1::bool)", boolean, "true"}, {"SELECT $1 || '!'", boolean, "true!"},
		{"SELECT $1::int2 + 1", integer(41), "42"}, {"SELECT $1::int8", integer(math.MinInt64), "-9223372036854775808"}, {"SELECT $1::numeric / 2", integer(5), "2.5000000000000000"},
		{"SELECT substr('abcdef', $1)", integer(5), "ef"}, {"SELECT count(*) FROM (SELECT 1 UNION ALL SELECT 2 LIMIT $1) x", integer(1), "1"}, {"SELECT name FROM items WHERE id = $1", integer(2), "b"},
		{"SELECT $1::jsonb", integer(7), "7"},
		{"SELECT $1::float8", number(0.1), "0.1"}, {"SELECT $1::numeric", number(0.1), "0.1"}, {"SELECT $1::float8", number(math.Inf(-1)), "-Infinity"}, {"SELECT $1::float8", number(5e-324), "5e-324"},
		{"SELECT $1::int", number(1e6), "1000000"}, {"SELECT $1::numeric", number(math.NaN()), "NaN"},
		{"SELECT extract(epoch FROM $1::timestamptz)", moment, "1767323045.678901"}, {"SELECT $1::timestamp", moment, "2026-01-02 03:04:05.678901"}, {"SELECT $1::date", moment, "2026-01-02"},
		{"SELECT gen_random_uuid() <> $1", id, "t"}, {"SELECT $1::uuid", id, person.UserID.String()},
		{"SELECT $1::jsonb ->> 'a'", object, `[1, 2.50, "ü"]`}, {"SELECT json_typeof($1)", object, "object"},
	} {
		require.Equal(t, []string{c.want}, f.must(&gatewayv1.QueryRequest{Sql: c.sql, Params: []*gatewayv1.Value{c.value}}), "%s of %v", c.sql, c.value)
	}

	for _, c := range []struct {
		sql   string
		value *gatewayv1.Value
	}{{"SELECT 1 + $1::int + $2::int2", integer(40000)}, {"SELECT $1::int, $2::int", boolean}, {"SELECT $1::int, $2::bool", number(1.5)}, {"SELECT $1::int, $2::uuid", moment}, {"SELECT $1::int, $2::timestamptz", id}} {
		_, _, err := f.query(t.Context(), &gatewayv1.QueryRequest{Sql: c.sql, Params: []*gatewayv1.Value{integer(1), c.value}})
		failed := requireReason(t, err, codes.InvalidArgument, fault.SQLError)
		require.Equal(t, "$2", failed.Metadata["parameter"], c.sql)
		require.Contains(t, failed.Text, "parameter $2: ")
	}
	bad := []*gatewayv1.Value{integer(1), {Value: &gatewayv1.Value_Timestamp{Timestamp: &timestamppb.Timestamp{Nanos: -1}}}}
	_, _, err := f.query(t.Context(), &gatewayv1.QueryRequest{Sql: "SELECT $1, $2", Params: bad})
	require.Equal(t, "params[1].timestamp", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
	_, err = f.client.Execute(t.Context(), &gatewayv1.ExecuteRequest{Sql: "SELECT $1, $2", Params: bad})
	require.Equal(t, "params[1].timestamp", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
	_, err = f.client.Batch(t.Context(), &gatewayv1.BatchRequest{Statements: []*gatewayv1.Statement{{Sql: "SELECT 1"}, {Sql: "SELECT $1, $2", Params: bad}}})
	require.Equal(t, "statements[1].params[1].timestamp", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
}
