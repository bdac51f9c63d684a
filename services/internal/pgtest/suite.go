package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// suite is what the tests of one binary share: a directory, and a server in it.
type suite struct {
	prepare   sync.Once
	directory *directory
	failed    error

	start    sync.Once
	shared   *pgserver.Server
	notStart error

	clusters  atomic.Int64
	databases atomic.Int64
}

// server returns the shared server, started by the first call. Binaries whose chosen tests need none, such as the
// workers of a fuzz test, start none.
func (s *suite) server() (*pgserver.Server, error) {
	s.start.Do(func() {
		cfg, err := s.config()
		if err != nil {
			s.notStart = err
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.shared, s.notStart = pgserver.Start(ctx, cfg)
	})
	return s.shared, s.notStart
}

// config is that of a new cluster in the suite's directory, made for speed: nothing in it outlives the tests.
func (s *suite) config() (pgserver.Config, error) {
	s.prepare.Do(func() { s.directory, s.failed = newDirectory(Root()) })
	if s.failed != nil {
		return pgserver.Config{}, s.failed
	}
	return pgserver.Config{
		Dir:            filepath.Join(s.directory.path, fmt.Sprintf("%s%d", clusterPrefix, s.clusters.Add(1))),
		MaxConnections: 400,
		Password:       rand.Text(),
		Settings: map[string]string{
			"synchronous_commit": "off",
			"full_page_writes":   "off",
			"wal_level":          "minimal",
			"max_wal_senders":    "0",
			"max_wal_size":       "4GB",
			"shared_buffers":     "128MB",
			// Tests make whole schemas in one transaction, and drop them.
			"max_locks_per_transaction": "256",
			// Its workers would connect to databases at times of their own choosing.
			"autovacuum": "off",
		},
	}, nil
}

func (s *suite) databaseName() string {
	return fmt.Sprintf("test_%d", s.databases.Add(1))
}

// close stops the shared server and deletes the suite's directory.
func (s *suite) close() error {
	var problems []error
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.shared != nil {
		problems = append(problems, s.shared.Err(), s.shared.Stop(ctx))
	}
	if s.directory != nil {
		problems = append(problems, s.directory.remove(ctx))
	}
	return errors.Join(problems...)
}
