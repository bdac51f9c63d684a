// Package scratch makes databases that are for one look at something and are dropped after it. The name of each says when
// it was made, so that one which a process left when it died can be told from one in use.
package scratch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
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

// finish runs a task to its end, whether or not the context has one: a database whose making was given up on may be there a
// moment after it was looked for.
func (s Server) finish(ctx context.Context, task func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return s.Run(ctx, func(conn *pgx.Conn) error { return task(ctx, conn) })
}

// named is the name of a database that is made now, and madeAt when one was made, which only a scratch database tells.
func named() string {
	return Prefix + strconv.FormatInt(time.Now().Unix(), 16) + "_" + strings.ToLower(rand.Text())
}

func madeAt(name string) (at time.Time, ok bool) {
	seconds, _, found := strings.Cut(strings.TrimPrefix(name, Prefix), "_")
	unix, err := strconv.ParseInt(seconds, 16, 64)
	return time.Unix(unix, 0), found && err == nil
}

func dropDatabase(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pg.Quote(name)+" WITH (FORCE)")
	return err
}

// Database makes an empty database that nobody else can enter. Drop it, also when the context has ended.
func (s Server) Database(ctx context.Context) (dsn string, drop func() error, err error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	name := named()
	if dsn, err = s.DSN(name); err != nil {
		return "", nil, err
	}
	drop = func() error {
		return s.finish(ctx, func(ctx context.Context, conn *pgx.Conn) error { return dropDatabase(ctx, conn, name) })
	}
	if err := s.finish(ctx, func(ctx context.Context, conn *pgx.Conn) error { return pg.CreateDatabase(ctx, conn, name) }); err != nil {
		return "", nil, errors.Join(err, drop())
	}
	return dsn, drop, nil
}

// DropOld drops scratch databases that were made longer ago than life: no process has use for them any more.
func (s Server) DropOld(ctx context.Context, life time.Duration) error {
	return s.Run(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", Prefix)
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, name := range names {
			if at, ok := madeAt(name); !ok || time.Since(at) <= life {
				continue
			}
			if err := dropDatabase(ctx, conn, name); err != nil {
				return err
			}
		}
		return nil
	})
}
