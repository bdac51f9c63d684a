package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// Own brings a service's own database to a set: it makes the database where it is missing, which takes a role that may,
// and applies what is left.
func Own(ctx context.Context, dsn string, s *Set) (result Result, err error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return Result{}, fmt.Errorf("migrate: the connection string: %w", err)
	}
	cfg.RuntimeParams["application_name"] = "tenantry migrate"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if pg.Code(err) == pgerrcode.InvalidCatalogName {
		if err := createDatabase(ctx, cfg); err != nil {
			return Result{}, err
		}
		conn, err = pgx.ConnectConfig(ctx, cfg)
	}
	if err != nil {
		return Result{}, fmt.Errorf("migrate: connect: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return Apply(ctx, conn, s, Options{})
}

// CheckOwn refuses to run a service on a database of its own that is older than the program: FAILED_PRECONDITION
// `SCHEMA_OUTDATED`.
func CheckOwn(ctx context.Context, pool *pgxpool.Pool, s *Set) error {
	return pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		status, err := Status(ctx, c.Conn(), s, "")
		if err == nil && len(status.Pending) > 0 {
			err = fault.New(codes.FailedPrecondition, fault.SchemaOutdated, "the %s database is at version %q, want %q: run `tenantry migrate central`",
				s.Name(), status.From, s.Latest()).With("set", s.Name())
		}
		return err
	})
}

// createDatabase makes the database of a configuration from template0, so that nobody's connection to template1 is in
// the way, and keeps everyone out who is not let in.
func createDatabase(ctx context.Context, cfg *pgx.ConnConfig) (err error) {
	name := cfg.Database
	admin := cfg.Copy()
	admin.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, admin)
	if err != nil {
		return fmt.Errorf("migrate: connect to make database %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pg.Quote(name)+" TEMPLATE template0 ENCODING 'UTF8'")
	if code := pg.Code(err); code == pgerrcode.DuplicateDatabase || code == pgerrcode.UniqueViolation {
		return nil // Another copy was faster.
	}
	if err != nil {
		return fmt.Errorf("migrate: make database %s: %w", name, err)
	}
	// Who changes the same row at the same time is a provisioner that starts, and closes it, too.
	if _, err := conn.Exec(ctx, "REVOKE ALL ON DATABASE "+pg.Quote(name)+" FROM PUBLIC"); err != nil && pg.Code(err) != pgerrcode.InternalError {
		return fmt.Errorf("migrate: make database %s: %w", name, err)
	}
	return nil
}
