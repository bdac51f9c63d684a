// Package pg holds the habits of our own databases, the registry's and the provisioner's: a pool, a transaction as a
// closure that is repeated when PostgreSQL asks for it, and the reading of PostgreSQL's errors.
//
// Tenants' connections are not its business: those are the gateway's.
package pg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// Open returns a pool of at most maxConns connections and has proved one of them. The name is what
// pg_stat_activity shows as application_name.
func Open(ctx context.Context, dsn, name string, maxConns int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("pg: the connection string: %w", err)
	}
	cfg.MaxConns = maxConns
	cfg.ConnConfig.RuntimeParams["application_name"] = name
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("pg: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("pg: connect to %s as %s: %w", cfg.ConnConfig.Database, cfg.ConnConfig.User, err)
	}
	return pool, nil
}

// Beginner is what Tx needs: a pool, a connection or a transaction.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// attempts is how often Tx runs its closure before it gives up on serialization failures.
const attempts = 5

// Tx runs f in a READ COMMITTED transaction, which commits when f returns nil. On a deadlock or serialization failure
// it runs f again, so f must do nothing but database work that it can repeat. Any other error is returned as it is.
func Tx(ctx context.Context, db Beginner, f func(tx pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := pgx.BeginTxFunc(ctx, db, pgx.TxOptions{}, f)
		if err == nil || attempt == attempts || !repeatable(err) {
			return err
		}
		select {
		case <-time.After(time.Duration(attempt)*10*time.Millisecond + rand.N(10*time.Millisecond)):
		case <-ctx.Done():
			return err
		}
	}
}

func repeatable(err error) bool {
	code := Code(err)
	return code == pgerrcode.SerializationFailure || code == pgerrcode.DeadlockDetected
}

// Code is the SQLSTATE of a PostgreSQL error; empty when err is none. Compare it with package pgerrcode's names.
func Code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Violated is the name of the constraint or unique index that err says was violated; empty when it says no such thing.
func Violated(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) && pgerrcode.IsIntegrityConstraintViolation(e.Code) {
		return e.ConstraintName
	}
	return ""
}

// IsUnavailable tells whether err means that the server could not be reached, went away, is starting or stopping, or
// has no connection left: another try may well succeed.
func IsUnavailable(err error) bool {
	if code := Code(err); code != "" {
		return pgerrcode.IsConnectionException(code) || pgerrcode.IsOperatorIntervention(code) && code != pgerrcode.QueryCanceled ||
			code == pgerrcode.TooManyConnections
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err)
}

// Unavailable makes of an error that is a server's absence the fault that tells callers to try again, UNAVAILABLE
// `DATABASE_UNAVAILABLE`. Anything else, also what is a fault already, stays what it is.
func Unavailable(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || !IsUnavailable(err) {
		return err
	}
	return fault.New(codes.Unavailable, fault.DatabaseUnavailable, "a database cannot be reached").RetryIn(time.Second).Because(err)
}

// Literal writes a text so that it can stand in a statement; E” means the same whatever standard_conforming_strings says.
func Literal(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// Quote writes a name so that it can stand in a statement.
func Quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// Execer is what CreateDatabase needs: a pool or a connection.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// CreateDatabase makes an empty database that only its owner and superusers can enter. It is never open: until it is
// closed, nobody can connect at all, so that whoever looks for databases that are open to close them, as each
// provisioner does when it starts, does not change the same row at the same time, which PostgreSQL refuses.
func CreateDatabase(ctx context.Context, db Execer, name string) error {
	for _, sql := range []string{
		"CREATE DATABASE " + Quote(name) + " TEMPLATE template0 ENCODING 'UTF8' ALLOW_CONNECTIONS false",
		"REVOKE ALL ON DATABASE " + Quote(name) + " FROM PUBLIC",
		"ALTER DATABASE " + Quote(name) + " WITH ALLOW_CONNECTIONS true",
	} {
		if _, err := db.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
