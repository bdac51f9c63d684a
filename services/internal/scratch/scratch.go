// Package scratch makes databases that are for one look at something and are dropped after it. Each says when it was made,
// so that one which a process left when it died can be told from one in use.
package scratch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/pg"
)

// Prefix begins the names of scratch databases.
const Prefix = "scratch_"

// patience is how long making a scratch database, and dropping it, may take.
const patience = 30 * time.Second

// Server is where scratch databases are made.
type Server struct {
	// Connect connects to its maintenance database as one who may make databases.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// DSN is the URI of one of its databases.
	DSN func(database string) (string, error)
}

// Run has a connection to the maintenance database for one task.
func (s Server) Run(ctx context.Context, task func(conn *pgx.Conn) error) (err error) {
	conn, err := s.Connect(ctx)
	if err != nil {
		return fmt.Errorf("scratch database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if err := task(conn); err != nil {
		return fmt.Errorf("scratch database: %w", err)
	}
	return nil
}

// exec runs statements to their end, whether or not the context has one: a database whose making was given up on may be
// there a moment after it was looked for.
func (s Server) exec(ctx context.Context, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return s.Run(ctx, func(conn *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// Database makes an empty database that nobody else can enter. Drop it, also when the context has ended.
func (s Server) Database(ctx context.Context) (dsn string, drop func() error, err error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	name := Prefix + strings.ToLower(rand.Text())
	if dsn, err = s.DSN(name); err != nil {
		return "", nil, err
	}
	drop = func() error { return s.exec(ctx, "DROP DATABASE IF EXISTS "+pg.Quote(name)+" WITH (FORCE)") }
	err = s.exec(ctx, "CREATE DATABASE "+pg.Quote(name)+" TEMPLATE template0 ENCODING 'UTF8'", "REVOKE ALL ON DATABASE "+pg.Quote(name)+" FROM PUBLIC",
		"COMMENT ON DATABASE "+pg.Quote(name)+" IS '"+time.Now().UTC().Format(time.RFC3339)+"'")
	if err != nil {
		return "", nil, errors.Join(err, drop())
	}
	return dsn, drop, nil
}

// DropOld drops scratch databases that were made longer ago than life: no process has use for them any more.
func (s Server) DropOld(ctx context.Context, life time.Duration) error {
	return s.Run(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE starts_with(datname, $1)", Prefix)
		if err != nil {
			return err
		}
		var name, made string
		var old []string
		if _, err := pgx.ForEachRow(rows, []any{&name, &made}, func() error {
			if at, err := time.Parse(time.RFC3339, made); err == nil && time.Since(at) > life {
				old = append(old, name)
			}
			return nil
		}); err != nil {
			return err
		}
		for _, name := range old {
			if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pg.Quote(name)+" WITH (FORCE)"); err != nil {
				return err
			}
		}
		return nil
	})
}
