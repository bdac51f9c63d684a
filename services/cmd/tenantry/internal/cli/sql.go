package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// sqlCmd is `tenantry sql`.
type sqlCmd struct {
	Company   string   `arg:"" optional:"" help:"Id or slug of the company, as an operator; @ for the company that you are logged in to. With --all, --companies or --cluster it is left out, and the statement comes first."`
	SQL       *string  `arg:"" optional:"" name:"sql" help:"One statement, with $$1, $$2, … where parameters go. Without it, or for -, it is read from standard input."`
	Params    []string `arg:"" optional:"" help:"The parameters, in order, in PostgreSQL's text format; \\N is NULL."`
	ReadOnly  bool     `name:"read-only" help:"Let the statement write nothing. On many tenants it is always so."`
	Isolation string   `name:"isolation" placeholder:"LEVEL" enum:",read-committed,repeatable-read,serializable" default:"" help:"Isolation of the transaction: read-committed, repeatable-read or serializable. Default: the database's."`
	MaxRows   int32    `name:"max-rows" placeholder:"N" help:"Most rows, or most of one tenant, where there are many: 1 to 10000 then. Default: all, or 1000 of each."`
	fleetSQLFlags
}

// ownCompany stands for the company of the session; no slug looks like it.
const ownCompany = "@"

// null is how a parameter says NULL, as in PostgreSQL's COPY.
const null = `\N`

// Help is the long help.
func (sqlCmd) Help() string {
	return `Parameters are bound, never spliced into the statement. On a terminal, rows come as a table; as JSON, each row is an object on a line of its own, with numbers and booleans as such, and a statement without rows gives {"command_tag": …}.

An operator's certificate is used for a named company, and the session that "tenantry login" keeps for @ (or the access token or API key in the variable TENANTRY_TOKEN). Where a parameter begins with -, write -- before the first.

Example:

    tenantry sql sun-valley "SELECT id, name FROM people WHERE name = \$1" Ada
    tenantry sql @ "SELECT count(*) FROM meters" --json
    tenantry sql sun-valley "SELECT abs(\$1)" -- -5
    tenantry sql sun-valley - < report.sql
    tenantry sql sun-valley "SELECT * FROM readings" --read-only --max-rows 100

With --all, --companies or --cluster the statement runs on many tenants, a few at a time, in read-only transactions, and is written into the audit log first. One table shows the rows of all; tenants that failed are listed after it, and the exit code is 3 then. As JSON, each row is {"company": …, "row": {…}}, each failed tenant {"company": …, "error": {…}}, and {"summary": {…}} is last.

    tenantry sql --all "SELECT count(*) FROM meters"
    tenantry sql --companies sun-valley,moon-hill "SELECT name FROM people WHERE id = \$1" 7`
}

// Run runs the statement.
func (c *sqlCmd) Run(ctx context.Context, a *app) error {
	if c.fleet() {
		return c.runFleet(ctx, a)
	}
	if c.Company == "" {
		return usagef("For example: tenantry sql sun-valley \"SELECT 1\", or: tenantry sql --all \"SELECT 1\".", "sql: got no company")
	}
	statement, err := a.statement(c.SQL)
	if err != nil {
		return err
	}
	if c.MaxRows < 0 {
		return usagef("Leave --max-rows out for all rows.", "--max-rows: got %d, want at least 0", c.MaxRows)
	}
	request := &gatewayv1.QueryRequest{Sql: statement, Params: sqlParams(c.Params), MaxRows: uint32(c.MaxRows),
		Transaction: &gatewayv1.TransactionOptions{ReadOnly: c.ReadOnly, Isolation: c.isolation()}}
	role, token := "", ""
	if c.Company == ownCompany {
		if token, err = a.ownToken(ctx); err != nil {
			return err
		}
	} else {
		role, request.Company = operatorRole, c.Company
	}
	conn, err := a.connect(gatewayAddress, role)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // The stream was read to its end, or is of no more use.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	stream, err := gatewayv1.NewSqlServiceClient(conn).Query(ctx, request)
	if err != nil {
		return err
	}
	return a.printRows(stream)
}

func (c *sqlCmd) isolation() gatewayv1.IsolationLevel {
	name := "ISOLATION_LEVEL_" + strings.ToUpper(strings.ReplaceAll(c.Isolation, "-", "_"))
	return gatewayv1.IsolationLevel(gatewayv1.IsolationLevel_value[name]) // 0 is the default.
}

// statement is the SQL: the argument, or what standard input holds.
func (a *app) statement(given *string) (string, error) {
	if given != nil && *given != "" && *given != "-" {
		return *given, nil
	}
	if isTerminal(a.In) {
		return "", usagef("For example: tenantry sql sun-valley \"SELECT 1\".", "sql: got no statement, want one as an argument or on standard input")
	}
	text, err := io.ReadAll(a.In)
	if err != nil {
		return "", fmt.Errorf("read the statement: %w", err)
	}
	if strings.TrimSpace(string(text)) == "" {
		return "", usagef("For example: tenantry sql sun-valley \"SELECT 1\".", "sql: got an empty statement")
	}
	return string(text), nil
}

func sqlParams(texts []string) []*gatewayv1.Value {
	var params []*gatewayv1.Value
	for _, text := range texts {
		if text == null {
			params = append(params, &gatewayv1.Value{Value: &gatewayv1.Value_Null{Null: true}})
			continue
		}
		params = append(params, &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: text}})
	}
	return params
}

// renewBefore is how long before its end an access token is renewed: long enough for the call that is about to be made.
const renewBefore = 30 * time.Second

// ownToken is the credential of the logged-in user, renewed when it is about to end.
func (a *app) ownToken(ctx context.Context) (string, error) {
	if token := a.settings.getenv(tokenVariable); token != "" {
		return token, nil
	}
	const hint = "`tenantry login EMAIL` opens a session."
	store, err := openSessionStore(a.settings.getenv)
	if err != nil {
		return "", err
	}
	defer store.close()
	kept, err := store.load()
	if errors.Is(err, os.ErrNotExist) {
		return "", usagef(hint, "you are not logged in")
	}
	if err != nil {
		return "", err
	}
	conn, err := a.connect(gatewayAddress, "")
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	if conn.Target() != kept.Gateway {
		return "", usagef(hint, "the session of %s is for the gateway %s, and TENANTRY_GATEWAY is %s", kept.Email, kept.Gateway, conn.Target())
	}
	if time.Until(kept.ExpiresAt) > renewBefore {
		return kept.AccessToken, nil
	}
	return renew(ctx, conn, store, kept)
}

func renew(ctx context.Context, conn *grpc.ClientConn, store *sessionStore, kept session) (string, error) {
	got, err := registryv1.NewSessionServiceClient(conn).Refresh(ctx, &registryv1.RefreshRequest{RefreshToken: kept.RefreshToken})
	if err != nil {
		return "", err
	}
	kept.AccessToken, kept.RefreshToken, kept.ExpiresAt = got.GetAccessToken(), got.GetRefreshToken(), got.GetExpiresAt().AsTime()
	return kept.AccessToken, store.save(kept)
}
