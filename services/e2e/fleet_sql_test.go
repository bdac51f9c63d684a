package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// fleetQuery returns the results by slug.
func fleetQuery(ctx context.Context, client gatewayv1.FleetSqlServiceClient, r *gatewayv1.FleetSqlServiceQueryRequest) (map[string]*gatewayv1.FleetSqlServiceQueryResponse, error) {
	stream, err := client.Query(ctx, r)
	if err != nil {
		return nil, err
	}
	all := map[string]*gatewayv1.FleetSqlServiceQueryResponse{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if all[m.GetSlug()] != nil {
			return nil, fmt.Errorf("%s came twice", m.GetSlug())
		}
		all[m.GetSlug()] = m
	}
}

func TestAnOperatorReadsTheWholeFleetAndChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun := s.signUp("sun")
	for _, slug := range []string{"moon", "mars", "shut"} {
		s.signUp(slug)
	}
	s.execute(sun, "INSERT INTO people (name) VALUES ('A'), ('B')")
	ok(t, s.tenantry("company", "suspend", "shut", "--reason", "unpaid"))
	client := gatewayv1.NewFleetSqlServiceClient(s.dial("TENANTRY_GATEWAY", asOperator))
	audit := registryv1.NewAuditServiceClient(s.dial("TENANTRY_REGISTRY", asOperator))
	query := func(r *gatewayv1.FleetSqlServiceQueryRequest) (map[string]*gatewayv1.FleetSqlServiceQueryResponse, error) {
		return fleetQuery(t.Context(), client, r)
	}

	t.Run("each tenant's rows come with its name, and the audit log tells", func(t *testing.T) {
		require.Eventually(t, func() bool {
			got, err := query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT 1"})
			return err == nil && len(got) == 3
		}, patience, 20*time.Millisecond, "the suspended company is left out")
		got, err := query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT replace(name, 'A', '') AS name, NULL::int AS n, $1::text AS p FROM people ORDER BY name", Params: []*gatewayv1.Value{textValue("x")}})
		require.NoError(t, err)
		require.Len(t, got, 3)
		rows := got["sun"].GetRows()
		require.Len(t, rows, 2)
		require.IsType(t, &gatewayv1.Value_Text{}, rows[0].GetValues()[0].GetValue(), "empty text is not NULL")
		require.True(t, rows[0].GetValues()[1].GetNull())
		require.Equal(t, "x", rows[1].GetValues()[2].GetText())
		require.Equal(t, sun.id, got["sun"].GetCompanyId())
		require.Equal(t, "int4", got["moon"].GetColumns()[1].GetTypeName())
		require.Empty(t, got["moon"].GetRows())
		var done []int32
		for _, m := range got {
			require.Nil(t, m.GetError())
			require.EqualValues(t, 3, m.GetTotal())
			done = append(done, m.GetDone())
		}
		require.ElementsMatch(t, []int32{1, 2, 3}, done)

		events, err := audit.ListEvents(t.Context(), &registryv1.ListEventsRequest{Action: "fleet.queried", PageSize: 1})
		require.NoError(t, err)
		require.Len(t, events.GetEvents(), 1)
		e := events.GetEvents()[0]
		require.Equal(t, "operator/dev", e.GetActor())
		require.Equal(t, map[string]string{"sql": "SELECT replace(name, 'A', '') AS name, NULL::int AS n, $1::text AS p FROM people ORDER BY name", "tenants": "3",
			"params": `["x"]`, "selector": `{"cluster":"","companies":null}`}, e.GetDetails())

		typed, err := query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT $1::int2 + 1", Params: []*gatewayv1.Value{{Value: &gatewayv1.Value_Integer{Integer: 41}}}})
		require.NoError(t, err)
		require.Equal(t, "42", typed["moon"].GetRows()[0].GetValues()[0].GetText())
		events, err = audit.ListEvents(t.Context(), &registryv1.ListEventsRequest{Action: "fleet.queried", PageSize: 1})
		require.NoError(t, err)
		require.Equal(t, `["41"]`, events.GetEvents()[0].GetDetails()["params"])
		_, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT $1::json", Params: []*gatewayv1.Value{{Value: &gatewayv1.Value_Json{Json: "{"}}}})
		require.Equal(t, "params[0].json", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
	})

	t.Run("nothing can be changed", func(t *testing.T) {
		execSQL(t, s.connect(s.adminDSN(sun)), "CREATE FUNCTION sneak() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO people (name) VALUES ('sneaked'); RETURN 1; END $$")
		execSQL(t, s.connect(s.adminDSN(sun)), "CREATE PROCEDURE commits(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN COMMIT; INSERT INTO people (name) VALUES ('sneaked'); END $$")
		execSQL(t, s.connect(s.adminDSN(sun)), "CREATE PROCEDURE opens(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN SET TRANSACTION READ WRITE; INSERT INTO people (name) VALUES ('sneaked'); END $$")
		for sql, want := range map[string]string{
			"CALL opens(1)": "25001",
			"INSERT INTO people (name) VALUES ('C') RETURNING id":                                              "25006",
			"WITH w AS (DELETE FROM people RETURNING id) SELECT * FROM w":                                      "25006",
			"EXPLAIN ANALYZE DELETE FROM people":                                                               "25006",
			"SELECT sneak()":                                                                                   "25006",
			"SELECT nextval(pg_get_serial_sequence('people', 'id'))":                                           "25006",
			"SELECT set_config('transaction_read_only', 'off', false), set_config('a.b', sneak()::text, true)": "25001",
			"CALL commits(1)":                         "2D000",
			"SELECT 1; INSERT INTO people VALUES (1)": "42601",
			"COMMIT; INSERT INTO people VALUES (1)":   "42601",
			"DELETE FROM people":                      fault.StatementNotReadOnly,
			"COMMIT":                                  fault.StatementNotReadOnly,
			"COMMIT AND CHAIN":                        fault.StatementNotReadOnly,
			"ROLLBACK":                                fault.StatementNotReadOnly,
			"SET TRANSACTION READ WRITE":              fault.StatementNotReadOnly,
			"SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE": fault.StatementNotReadOnly,
			"SET transaction_read_only = off":                       fault.StatementNotReadOnly,
			"DO $$ BEGIN COMMIT; END $$":                            fault.StatementNotReadOnly,
			"COPY people TO STDOUT":                                 fault.StatementNotReadOnly,
			"NOTIFY x":                                              fault.StatementNotReadOnly,
		} {
			got, err := query(&gatewayv1.FleetSqlServiceQueryRequest{Selector: &gatewayv1.FleetSelector{Companies: []string{"sun"}}, Sql: sql})
			require.NoError(t, err, sql)
			e := got["sun"].GetError()
			if want == fault.StatementNotReadOnly {
				require.Equal(t, want, e.GetReason(), "%s: %v", sql, got["sun"])
				continue
			}
			require.Equal(t, fault.SQLError, e.GetReason(), "%s: %v", sql, got["sun"])
			require.Equal(t, want, e.GetMetadata()["sqlstate"], "%s: %v", sql, e)
		}
		rows, err := query(&gatewayv1.FleetSqlServiceQueryRequest{Selector: &gatewayv1.FleetSelector{Companies: []string{"sun"}}, Sql: "SELECT count(*) FROM people"})
		require.NoError(t, err)
		require.Equal(t, "2", rows["sun"].GetRows()[0].GetValues()[0].GetText())
		// The connection goes on to the tenant's own calls, which may write.
		s.execute(sun, "DELETE FROM people")
	})

	t.Run("a tenant is held to its rows, bytes and time", func(t *testing.T) {
		got, err := query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT generate_series(1, 10000000)", MaxRowsPerTenant: 3})
		require.NoError(t, err)
		require.Len(t, got, 3)
		for slug, m := range got {
			require.Nil(t, m.GetError())
			require.True(t, m.GetTruncated(), slug)
			require.Len(t, m.GetRows(), 3)
		}
		got, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT generate_series(1, 3)", MaxRowsPerTenant: 3})
		require.NoError(t, err)
		require.False(t, got["sun"].GetTruncated(), "as many as may be are not too many")
		got, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT repeat('x', 1000000) FROM generate_series(1, 10)"})
		require.NoError(t, err)
		require.True(t, got["sun"].GetTruncated())
		require.Len(t, got["sun"].GetRows(), 4)
		for _, sql := range []string{"SELECT pg_sleep(600)", "SELECT set_config('statement_timeout', '0', true), pg_sleep(600)"} {
			got, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: sql, StatementTimeout: durationpb.New(50 * time.Millisecond)})
			require.NoError(t, err)
			require.Equal(t, fault.StatementTimeout, got["moon"].GetError().GetReason())
		}
		got, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT current_setting('statement_timeout') = '50ms'"})
		require.NoError(t, err)
		require.Equal(t, "f", got["moon"].GetRows()[0].GetValues()[0].GetText(), "nothing of a query is seen by the next")
	})

	t.Run("the selector says whom, and mistakes run nothing", func(t *testing.T) {
		got, err := query(&gatewayv1.FleetSqlServiceQueryRequest{Selector: &gatewayv1.FleetSelector{Companies: []string{"sun", sun.id, "shut"}, Cluster: "local"}, Sql: "SELECT 1"})
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Nil(t, got["sun"].GetError())
		require.Equal(t, fault.CompanySuspended, got["shut"].GetError().GetReason())
		count := func() int {
			events, err := audit.ListEvents(t.Context(), &registryv1.ListEventsRequest{Action: "fleet.queried", PageSize: 1000})
			require.NoError(t, err)
			return len(events.GetEvents())
		}
		before := count()
		_, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Selector: &gatewayv1.FleetSelector{Companies: []string{"sun", "nobody"}}, Sql: "SELECT 1"})
		require.Equal(t, "nobody", requireReason(t, err, codes.NotFound, fault.CompanyNotFound).Metadata["company"])
		_, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Selector: &gatewayv1.FleetSelector{Cluster: "nowhere"}, Sql: "SELECT 1"})
		requireReason(t, err, codes.NotFound, fault.ClusterNotFound)
		_, err = query(&gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT $1", Params: []*gatewayv1.Value{{Value: &gatewayv1.Value_Binary{Binary: make([]byte, 70<<10)}}}})
		require.Equal(t, "params", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
		require.Equal(t, before, count())
		_, err = fleetQuery(s.logIn(sun), gatewayv1.NewFleetSqlServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)), &gatewayv1.FleetSqlServiceQueryRequest{Sql: "SELECT 1"})
		requireReason(t, err, codes.PermissionDenied, fault.MethodNotAllowed)
	})

	t.Run("the command line shows one table, then who failed", func(t *testing.T) {
		execSQL(t, s.connect(s.adminDSN(sun)), "CREATE TABLE only_sun (a int, b text); GRANT SELECT ON only_sun TO tenantry_tenant; INSERT INTO only_sun VALUES (7, '')")
		got := s.tenantry("sql", "--all", "--no-json", "SELECT a, b FROM only_sun WHERE a = $1", "7")
		require.Equal(t, 3, got.code)
		require.Contains(t, got.out, "│ company │ a │ b │")
		require.Contains(t, got.out, "│ sun     │ 7 │   │")
		require.Regexp(t, `(?s)failed  mars  SQL_ERROR: relation "only_sun" does not exist \(SQLSTATE 42P01\)\nfailed  moon  .*`, got.out)
		require.Contains(t, got.errOut, "2 of 3 tenants failed")

		got = s.tenantry("sql", "--companies", "sun,moon", "--json", "SELECT 1 AS one, true AS yes, NULL AS company")
		require.Equal(t, 0, got.code)
		lines := objects(t, got.out)
		require.ElementsMatch(t, []object{{"company": "sun", "row": map[string]any{"one": 1.0, "yes": true, "company": nil}},
			{"company": "moon", "row": map[string]any{"one": 1.0, "yes": true, "company": nil}}}, lines[:2])
		require.Equal(t, object{"summary": map[string]any{"tenants": 2.0, "failed": 0.0, "truncated": []any{}}}, lines[2])

		got = runTenantryIn(t, t.TempDir(), "SELECT 1 AS piped", s.variables(), "sql", "--cluster", "local", "--no-json")
		require.Equal(t, 0, got.code, got.errOut)
		require.Contains(t, got.out, "piped")
		require.Equal(t, 2, s.tenantry("sql").code)
		require.Equal(t, 2, s.tenantry("sql", "--all", "--cluster", "local", "SELECT 1").code)
	})
}
