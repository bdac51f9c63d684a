package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func textValue(s string) *gatewayv1.Value {
	return &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: s}}
}

// answer is a whole result of Query.
type answer struct {
	columns  []*gatewayv1.Column
	rows     []*gatewayv1.Row
	messages int
	tag      string
}

func query(ctx context.Context, client gatewayv1.SqlServiceClient, q *gatewayv1.QueryRequest) (*answer, error) {
	stream, err := client.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &answer{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out.messages++
		out.columns = append(out.columns, m.GetColumns()...)
		out.rows = append(out.rows, m.GetRows()...)
		out.tag = m.GetCommandTag()
	}
}

func requireReason(t testing.TB, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	require.Error(t, err)
	f := fault.From(err)
	require.Equal(t, reason, f.Reason, "%v", err)
	require.Equal(t, code, f.Code, "%v", err)
	return f
}

func TestSQLThroughTheGateway(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun, moon := s.signUp("sun"), s.signUp("moon")
	client := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", asNobody))
	ctx := s.logIn(sun)
	run := func(sql string, params ...*gatewayv1.Value) (*answer, error) {
		return query(ctx, client, &gatewayv1.QueryRequest{Sql: sql, Params: params})
	}

	t.Run("values come as PostgreSQL writes them", func(t *testing.T) {
		got, err := run(`SELECT 1.50::numeric AS n, ''::text, NULL::int, $1::int + 1, $2::text, '{1,2}'::int[], '\x00ff'::bytea, 'infinity'::timestamptz, $3::text IS NULL`,
			textValue("41"), textValue("Robert'); DROP TABLE people;--"), &gatewayv1.Value{Value: &gatewayv1.Value_Null{Null: true}})
		require.NoError(t, err)
		var texts []string
		for _, v := range got.rows[0].GetValues() {
			texts = append(texts, v.String())
		}
		require.Equal(t, `text:"1.50"|text:""|null:true|text:"42"|text:"Robert'); DROP TABLE people;--"|text:"{1,2}"|text:"\\x00ff"|text:"infinity"|text:"t"`, strings.ReplaceAll(strings.Join(texts, "|"), ":  ", ":"))
		require.Equal(t, "n", got.columns[0].GetName())
		require.Equal(t, "numeric", got.columns[0].GetTypeName())
		require.EqualValues(t, 1700, got.columns[0].GetTypeOid())
		require.Equal(t, "SELECT 1", got.tag)

		binary, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: "SELECT $1::bytea, 7::int4", Params: []*gatewayv1.Value{{Value: &gatewayv1.Value_Binary{Binary: []byte{0, 255}}}}, ResultFormat: gatewayv1.Format_FORMAT_BINARY})
		require.NoError(t, err)
		require.Equal(t, []byte{0, 255}, binary.rows[0].GetValues()[0].GetBinary())
		require.Equal(t, []byte{0, 0, 0, 7}, binary.rows[0].GetValues()[1].GetBinary())

		none, err := run("SELECT 1 AS a WHERE false")
		require.NoError(t, err)
		require.Len(t, none.columns, 1, "columns come without rows, too")
		require.Empty(t, none.rows)
	})

	t.Run("a large result comes in parts", func(t *testing.T) {
		got, err := run("SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g")
		require.NoError(t, err)
		require.Len(t, got.rows, 20000)
		require.Len(t, got.columns, 2)
		require.Greater(t, got.messages, 10)
		require.Equal(t, "20000", got.rows[19999].GetValues()[0].GetText())
	})

	t.Run("a batch is all or nothing", func(t *testing.T) {
		batch := func(statements ...string) (*gatewayv1.BatchResponse, error) {
			r := &gatewayv1.BatchRequest{}
			for _, sql := range statements {
				r.Statements = append(r.Statements, &gatewayv1.Statement{Sql: sql})
			}
			return client.Batch(ctx, r)
		}
		got, err := batch("INSERT INTO people (name) VALUES ('A'), ('B')", "SELECT name FROM people ORDER BY 1", "DELETE FROM people")
		require.NoError(t, err)
		require.EqualValues(t, 2, got.GetResults()[0].GetRowsAffected())
		require.Equal(t, "B", got.GetResults()[1].GetRows()[1].GetValues()[0].GetText())
		_, err = batch("INSERT INTO people (name) VALUES ('C')", "SELECT 1", "INSERT INTO nowhere VALUES (1)", "SELECT 2")
		f := requireReason(t, err, codes.InvalidArgument, fault.SQLError)
		require.Equal(t, "2", f.Metadata["statement_index"])
		require.Equal(t, "42P01", f.Metadata["sqlstate"])
		_, err = batch("INSERT INTO people (name) VALUES ('D')", "COMMIT")
		requireReason(t, err, codes.FailedPrecondition, fault.TransactionLeftOpen)
		_, err = batch("SELECT repeat('x', 5000000)")
		requireReason(t, err, codes.ResourceExhausted, fault.ResultTooLarge)
		rows, err := run("SELECT name FROM people WHERE name = 'C'")
		require.NoError(t, err)
		require.Empty(t, rows.rows)
	})

	t.Run("errors say what and where", func(t *testing.T) {
		for sql, want := range map[string]struct {
			code              codes.Code
			sqlstate, present string
		}{
			"SELEC 1":            {codes.InvalidArgument, "42601", "position"},
			"SELECT nothing":     {codes.InvalidArgument, "42703", "position"},
			"SELECT 1 / 0":       {codes.InvalidArgument, "22012", ""},
			"SELECT 1; SELECT 2": {codes.InvalidArgument, "42601", ""},
			"INSERT INTO people (id, name) OVERRIDING SYSTEM VALUE VALUES (1000, 'x'), (1000, 'y')": {codes.AlreadyExists, "23505", "constraint"},
			"INSERT INTO people (name) VALUES (NULL)":                                               {codes.FailedPrecondition, "23502", "column"},
			"COPY people TO STDOUT": {codes.InvalidArgument, "", ""},
		} {
			_, err := run(sql)
			f := requireReason(t, err, want.code, fault.SQLError)
			if want.sqlstate != "" {
				require.Equal(t, want.sqlstate, f.Metadata["sqlstate"], sql)
			}
			if want.present != "" {
				require.NotEmpty(t, f.Metadata[want.present], sql)
			}
		}
		limited, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_, err := query(limited, client, &gatewayv1.QueryRequest{Sql: "-- a comment\n/* and /* one */ more */ copy people (name) from\tstdin"})
		require.Error(t, err)
		require.NotEqual(t, codes.DeadlineExceeded, fault.From(err).Code, "it must not hang: %v", err)
		_, err = run("SELECT $1::int")
		require.Error(t, err)
		_, err = client.Query(ctx, &gatewayv1.QueryRequest{})
		require.NoError(t, err)
		_, err = client.Execute(ctx, &gatewayv1.ExecuteRequest{})
		require.Equal(t, "sql", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
	})

	t.Run("nothing of a call is seen by the next", func(t *testing.T) {
		for _, sql := range []string{"SET work_mem = '77MB'", "SET search_path = nowhere", "PREPARE p AS SELECT 1", "LISTEN x", "SELECT pg_advisory_lock(77)",
			"SELECT set_config('my.secret', 'yes', false)", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"} {
			_, err := run(sql)
			require.NoError(t, err, sql)
		}
		_, err := run("BEGIN")
		requireReason(t, err, codes.FailedPrecondition, fault.TransactionLeftOpen)
		for range 10 {
			got, err := run(`SELECT current_setting('work_mem') = '77MB', current_setting('search_path') = 'nowhere', coalesce(current_setting('my.secret', true), '') <> '',
				(SELECT count(*) FROM pg_prepared_statements) > 0, (SELECT count(*) FROM pg_listening_channels()) > 0, current_setting('transaction_read_only') = 'on'`)
			require.NoError(t, err)
			for i, v := range got.rows[0].GetValues() {
				require.Equal(t, "f", v.GetText(), "column %d", i)
			}
		}
		got, err := run("SELECT pg_try_advisory_lock(77)")
		require.NoError(t, err)
		require.Equal(t, "t", got.rows[0].GetValues()[0].GetText())
	})

	t.Run("a statement ends with its caller", func(t *testing.T) {
		admin := s.connect(s.adminDSN(sun))
		short, cancel := context.WithCancel(ctx)
		var group sync.WaitGroup
		group.Go(func() {
			_, _ = query(short, client, &gatewayv1.QueryRequest{Sql: "SELECT pg_sleep(600) -- the long one"})
		})
		running := func() int {
			return len(column(t, admin, "SELECT pid::text FROM pg_stat_activity WHERE query LIKE '%the long one' AND state = 'active' AND pid <> pg_backend_pid()"))
		}
		require.Eventually(t, func() bool { return running() == 1 }, patience, 10*time.Millisecond)
		cancel()
		group.Wait()
		require.Eventually(t, func() bool { return running() == 0 }, patience, 10*time.Millisecond)
		_, err := run("SELECT 1")
		require.NoError(t, err)
		_, err = run("SELECT pg_terminate_backend(pg_backend_pid())")
		requireReason(t, err, codes.PermissionDenied, fault.SQLError)
		execSQL(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		for range 3 {
			if _, err = run("SELECT 1"); err == nil {
				break
			}
			requireReason(t, err, codes.Unavailable, fault.DatabaseUnavailable)
		}
		require.NoError(t, err)
	})

	t.Run("the tenant is the credential's", func(t *testing.T) {
		for _, other := range []string{moon.slug, moon.id, "nobody", uuid.NewString()} {
			_, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: "SELECT 1", Company: other})
			requireReason(t, err, codes.PermissionDenied, fault.TenantMismatch)
		}
		for _, own := range []string{sun.slug, sun.id} {
			_, err := query(ctx, client, &gatewayv1.QueryRequest{Sql: "SELECT 1", Company: own})
			require.NoError(t, err)
		}
		spoofed := metadata.AppendToOutgoingContext(ctx, "tenantry-company", moon.id, "x-tenant-id", moon.id, "tenantry-assertion", "x")
		me, err := gatewayv1.NewWhoAmIServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).WhoAmI(spoofed, &gatewayv1.WhoAmIRequest{})
		require.NoError(t, err)
		require.Equal(t, sun.id, me.GetCompanyId())
		require.Equal(t, "sun", me.GetSlug())
		require.Equal(t, []string{"owner"}, me.GetRoles())
		require.Equal(t, gatewayv1.CallerKind_CALLER_KIND_USER, me.GetKind())

		operator := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", asOperator))
		_, err = query(t.Context(), operator, &gatewayv1.QueryRequest{Sql: "SELECT 1"})
		require.Equal(t, "company", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
		got, err := query(t.Context(), operator, &gatewayv1.QueryRequest{Sql: "SELECT email FROM users", Company: "moon"})
		require.NoError(t, err)
		require.Equal(t, moon.owner, got.rows[0].GetValues()[0].GetText())
		_, err = query(t.Context(), operator, &gatewayv1.QueryRequest{Sql: "SELECT 1", Company: "nobody"})
		requireReason(t, err, codes.NotFound, fault.CompanyNotFound)
	})

	t.Run("no credential and a bad one are refused", func(t *testing.T) {
		for credential, reason := range map[string]string{"": fault.CredentialsMissing, "Bearer x": fault.CredentialsInvalid, "Bearer tny_aaaaaaaa_b": fault.CredentialsInvalid, "Basic x": fault.CredentialsInvalid} {
			ctx := t.Context()
			if credential != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", credential)
			}
			_, err := client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
			requireReason(t, err, codes.Unauthenticated, reason)
		}
	})

	t.Run("a transaction over a stream", func(t *testing.T) {
		admin := s.connect(s.adminDSN(sun))
		execSQL(t, admin, `CREATE TABLE written (who text, what text); GRANT INSERT ON written TO tenantry_tenant;
			CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				INSERT INTO written VALUES (current_setting('tenantry.user_id', true), current_setting('tenantry.request_id', true)); RETURN NEW; END $$;
			CREATE TRIGGER note AFTER INSERT ON people FOR EACH ROW EXECUTE FUNCTION note()`)
		me, err := gatewayv1.NewWhoAmIServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).WhoAmI(ctx, &gatewayv1.WhoAmIRequest{})
		require.NoError(t, err)
		stream, err := client.Transact(metadata.AppendToOutgoingContext(ctx, "x-request-id", "the request"))
		require.NoError(t, err)
		do := func(step *gatewayv1.TransactRequest) (rows []*gatewayv1.Row, end *gatewayv1.StepEnd) {
			t.Helper()
			require.NoError(t, stream.Send(step))
			for end == nil {
				m, err := stream.Recv()
				require.NoError(t, err)
				rows, end = append(rows, m.GetResult().GetRows()...), m.GetEnd()
			}
			return rows, end
		}
		statement := func(sql string, params ...*gatewayv1.Value) *gatewayv1.TransactRequest {
			return &gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Statement{Statement: &gatewayv1.Statement{Sql: sql, Params: params}}}
		}
		do(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{Transaction: &gatewayv1.TransactionOptions{
			Isolation: gatewayv1.IsolationLevel_ISOLATION_LEVEL_REPEATABLE_READ, Audit: &gatewayv1.Audit{}}}}})
		_, end := do(statement("INSERT INTO people (name, birth_date, is_active) VALUES ($1, $2, $3)", textValue("Transacted"),
			&gatewayv1.Value{Value: &gatewayv1.Value_Timestamp{Timestamp: timestamppb.New(time.Date(2001, 2, 3, 0, 0, 0, 0, time.UTC))}},
			&gatewayv1.Value{Value: &gatewayv1.Value_Boolean{Boolean: true}}))
		require.Nil(t, end.GetError())
		do(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Savepoint{Savepoint: &gatewayv1.Savepoint{Name: "s"}}})
		_, end = do(statement("SELECT nothing"))
		require.Equal(t, gatewayv1.TransactionStatus_TRANSACTION_STATUS_ABORTED, end.GetStatus())
		require.Equal(t, "42703", end.GetError().GetMetadata()["sqlstate"])
		_, end = do(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_RollbackTo{RollbackTo: &gatewayv1.RollbackTo{Name: "s"}}})
		require.Nil(t, end.GetError())
		rows, _ := do(statement("SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g"))
		require.Len(t, rows, 20000)
		_, end = do(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Commit{Commit: &gatewayv1.Commit{}}})
		require.Equal(t, gatewayv1.TransactionStatus_TRANSACTION_STATUS_COMMITTED, end.GetStatus())
		_, err = stream.Recv()
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, []string{"Transacted 2001-02-03 true"}, column(t, admin, "SELECT name || ' ' || birth_date || ' ' || is_active FROM people WHERE name = 'Transacted'"))
		require.Equal(t, []string{me.GetUserId() + " the request"}, column(t, admin, "SELECT who || ' ' || what FROM written"))

		// Names that are none break a rule of the contract.
		stream, err = client.Transact(ctx)
		require.NoError(t, err)
		do(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{}}})
		require.NoError(t, stream.Send(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Savepoint{Savepoint: &gatewayv1.Savepoint{Name: `s"; COMMIT; --`}}}))
		_, err = stream.Recv()
		require.Equal(t, "savepoint.name", requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
		for field, v := range map[string]*gatewayv1.Value{
			"params[0].uuid":      {Value: &gatewayv1.Value_Uuid{Uuid: "nobody"}},
			"params[0].timestamp": {Value: &gatewayv1.Value_Timestamp{Timestamp: &timestamppb.Timestamp{Seconds: 253402300800}}},
			"params[0].json":      {Value: &gatewayv1.Value_Json{Json: "{"}},
		} {
			_, err := run("SELECT $1", v)
			require.Equal(t, field, requireReason(t, err, codes.InvalidArgument, fault.FieldInvalid).Metadata["field"])
		}

		// Nobody is left in a transaction by a caller that goes away.
		leaving, leave := context.WithCancel(ctx)
		stream, err = client.Transact(leaving)
		require.NoError(t, err)
		do(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{}}})
		do(statement("DELETE FROM people"))
		leave()
		require.Eventually(t, func() bool {
			return column(t, admin, "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%' AND pid <> pg_backend_pid()")[0] == "0"
		}, patience, 10*time.Millisecond)
		require.Equal(t, []string{"Transacted"}, column(t, admin, "SELECT name FROM people WHERE name = 'Transacted'"))
	})

	t.Run("a session and a key end on the gateway, and so does a company", func(t *testing.T) {
		owner := s.logIn(moon)
		key, err := registryv1.NewApiKeyServiceClient(s.dial("TENANTRY_REGISTRY", asNobody)).CreateApiKey(owner, &registryv1.CreateApiKeyRequest{Name: "k"})
		require.NoError(t, err)
		byKey := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key.GetKey())
		works := func(ctx context.Context) error {
			_, err := client.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
			return err
		}
		require.NoError(t, works(byKey))
		_, err = registryv1.NewApiKeyServiceClient(s.dial("TENANTRY_REGISTRY", asNobody)).RevokeApiKey(owner, &registryv1.RevokeApiKeyRequest{ApiKeyId: key.GetApiKey().GetApiKeyId()})
		require.NoError(t, err)
		ends(t, func() error { return works(byKey) }, fault.CredentialsInvalid)
		require.NoError(t, works(owner))
		_, err = registryv1.NewSessionServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).Logout(owner, &registryv1.LogoutRequest{})
		require.NoError(t, err)
		ends(t, func() error { return works(owner) }, fault.CredentialsInvalid)

		owner = s.logIn(moon)
		companies := registryv1.NewCompanyServiceClient(s.dial("TENANTRY_REGISTRY", asOperator))
		_, err = companies.SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: "moon", Reason: "unpaid"})
		require.NoError(t, err)
		ends(t, func() error { return works(owner) }, fault.CompanySuspended)
		_, err = companies.ResumeCompany(t.Context(), &registryv1.ResumeCompanyRequest{Company: "moon"})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return works(owner) == nil }, 10*time.Second, 10*time.Millisecond)
	})
}

// ends waits until calls are refused for a reason.
func ends(t *testing.T, call func() error, reason string) {
	t.Helper()
	require.Eventually(t, func() bool { return fault.HasReason(call(), reason) }, 10*time.Second, 5*time.Millisecond, fmt.Sprint("want ", reason))
}
