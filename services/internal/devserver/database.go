package devserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/tenantry/tenantry/services/internal/pgserver"
	"github.com/tenantry/tenantry/services/provisioner"
	"github.com/tenantry/tenantry/services/registry"
)

// Names of the databases that are not tenants'.
const (
	adminDatabase       = "postgres"
	registryDatabase    = "micro_power_manager"
	provisionerDatabase = "provisioner"
)

// maxConnections leaves room beside the gateway's budget for the services, rollouts and a developer with psql.
const maxConnections = 300

// startDatabase starts the private PostgreSQL server and brings the services' own databases to this program's schema.
func (s *Server) startDatabase(ctx context.Context, cfg Config, ports *listeners, keys *secrets) error {
	begun := time.Now()
	logFile, err := os.OpenFile(s.dir.postgresLog(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("PostgreSQL's log: %w", err)
	}
	settings := map[string]string{
		// A migration file may make a whole schema in one transaction.
		"max_locks_per_transaction": "256",
	}
	if !cfg.Durable {
		// What does not survive a loss of power anyway needs no whole pages in the log.
		settings["full_page_writes"] = "off"
	}
	server, err := pgserver.Start(ctx, pgserver.Config{
		Dir:            s.dir.postgres(),
		Port:           ports.postgres,
		MaxConnections: maxConnections,
		Password:       keys.postgresPassword,
		Log:            logFile,
		Fsync:          cfg.Durable,
		Settings:       settings,
	})
	if err != nil {
		return errors.Join(err, logFile.Close())
	}
	s.run(ctx, "database", func(ctx context.Context) error {
		defer func() { _ = logFile.Close() }() // What the server had to say was said.
		select {
		case <-server.Done():
			return errors.Join(server.Err(), server.Stop(context.WithoutCancel(ctx)))
		case <-ctx.Done():
			return server.Stop(context.WithoutCancel(ctx))
		}
	})
	s.log.Debug("PostgreSQL answers", zap.Duration("took", time.Since(begun)), zap.Int("port", server.Port()))
	s.env.AdminDSN = server.DSN(adminDatabase)
	s.env.RegistryDSN = server.DSN(registryDatabase)
	s.env.ProvisionerDSN = server.DSN(provisionerDatabase)
	ports.postgres = server.Port()
	return s.migrate(ctx)
}

// migrate makes and migrates the services' own databases, side by side.
func (s *Server) migrate(ctx context.Context) error {
	begun := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		_, err := registry.Migrate(groupCtx, s.env.RegistryDSN)
		return err
	})
	group.Go(func() error {
		_, err := provisioner.Migrate(groupCtx, s.env.ProvisionerDSN)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	s.log.Debug("own databases migrated", zap.Duration("took", time.Since(begun)))
	return nil
}
