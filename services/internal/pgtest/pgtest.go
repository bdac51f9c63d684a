// Package pgtest gives tests a real PostgreSQL: one private server per test binary, started by the first test that asks,
// and a fresh database for each test.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// It is for tests only, and makes nothing but empty databases: schemas are their owners' business.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// patience bounds every single step here, so that what hangs fails with a message and not with the test binary's own
// timeout. It is long because test binaries share few processors.
const patience = 2 * time.Minute

// current is the running test binary's suite. Tests are functions that the testing package calls with nothing of ours,
// so what TestMain made can only reach them through a variable; Main alone sets it, before any test runs.
var current *suite

// Main runs the package's tests, stops the servers they used, deletes what was on disk, looks for leaked goroutines and
// exits. The options are for goroutines that are not the tests' fault.
func Main(m *testing.M, options ...goleak.Option) {
	os.Exit(run(m, options))
}

func run(m *testing.M, options []goleak.Option) int {
	current = &suite{}
	code := m.Run()
	if err := current.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	// A failed test may well have left goroutines; they would only hide what matters.
	if code == 0 {
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: goroutines leaked:", err)
			code = 1
		}
	}
	return code
}

// Database makes an empty database, which is dropped when the test ends, whoever is still connected, and returns its DSN.
func Database(t testing.TB) string {
	t.Helper()
	server := Server(t)
	name := current.databaseName()
	// Nothing connects to template0, so copying it never waits for anybody. Copied as files, without fsync, it takes half
	// the time that it takes through the log.
	execute(t, server, fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 STRATEGY file_copy", name))
	t.Cleanup(func() { execute(t, server, fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)) })
	return server.DSN(name)
}

// AdminDSN returns the superuser's DSN of the shared server's database postgres. Roles and other things that belong to
// the whole server are shared with all tests of the package: name them uniquely.
func AdminDSN(t testing.TB) string {
	t.Helper()
	return Server(t).DSN("postgres")
}

// Server returns the server that all tests of the package share. Stopping it is not for tests; NewServer's are.
func Server(t testing.TB) *pgserver.Server {
	t.Helper()
	server, err := theSuite(t).server()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// NewServer starts a server of the test's own, to stop, kill and start again (see Restart) or to be a second cluster.
// It is stopped and deleted when the test ends. The adjustments change its configuration before it starts.
func NewServer(t testing.TB, adjust ...func(*pgserver.Config)) *pgserver.Server {
	t.Helper()
	suite := theSuite(t)
	cfg, err := suite.config()
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConnections = 100
	for _, f := range adjust {
		f(&cfg)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := pgserver.Remove(ctx, cfg.Dir); err != nil {
			t.Error(err)
		}
	})
	return launch(t, cfg)
}

// Restart starts a server again that NewServer made and the test stopped or killed, with the same data and port.
func Restart(t testing.TB, stopped *pgserver.Server) *pgserver.Server {
	t.Helper()
	return launch(t, stopped.Config())
}

func launch(t testing.TB, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server, err := pgserver.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return server
}

func theSuite(t testing.TB) *suite {
	t.Helper()
	if current == nil {
		t.Fatal("pgtest: this package's TestMain has to call pgtest.Main")
	}
	return current
}

// execute runs one statement as the superuser, on a connection of its own: the clean-up of the last test must find no
// pool to have kept alive until then.
func execute(t testing.TB, server *pgserver.Server, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgconn.Connect(ctx, server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(ctx, sql).ReadAll()
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
