package devserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/provisioner"
	"github.com/tenantry/tenantry/services/registry"
)

// Cluster is the name that the private PostgreSQL server has as a cluster.
const Cluster = "local"

// pollEvery is how often a service is asked whether it is ready.
const pollEvery = 10 * time.Millisecond

// startServices starts the three services in the order in which they need each other and waits until all answer.
func (s *Server) startServices(ctx context.Context, cfg Config, ports *listeners, keys *secrets) error {
	s.env.Gateway = ports.gateway.Addr().String()
	s.env.Registry = ports.registry.Addr().String()
	s.env.Provisioner = ports.provisioner.Addr().String()
	s.env.CA = keys.operator.CA
	s.env.OperatorCert, s.env.OperatorKey = keys.operator.Cert, keys.operator.Key
	s.env.SignupCert, s.env.SignupKey = keys.signup.Cert, keys.signup.Key
	if err := s.startRegistry(ctx, cfg, ports, keys); err != nil {
		return err
	}
	if err := s.startProvisioner(ctx, cfg, ports, keys); err != nil {
		return err
	}
	if err := s.startGateway(ctx, cfg, ports, keys); err != nil {
		return err
	}
	for _, address := range []string{s.env.Registry, s.env.Provisioner, s.env.Gateway} {
		if err := s.awaitHealth(ctx, address, keys.operator); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) startRegistry(ctx context.Context, cfg Config, ports *listeners, keys *secrets) error {
	begun := time.Now()
	service, err := registry.New(ctx, registry.Config{
		TLS:         keys.registry,
		DSN:         s.env.RegistryDSN,
		SigningKeys: []string{keys.accessKey},
		Metrics:     cfg.Metrics,
		Logger:      cfg.Logger.Named("registry"),
	})
	if err != nil {
		return err
	}
	l := take(&ports.registry)
	s.run(ctx, "registry", func(ctx context.Context) error { return service.Run(ctx, l) })
	if err := s.registerCluster(ctx, ports.postgres, keys.operator); err != nil {
		return err
	}
	s.log.Debug("the registry answers", zap.Duration("took", time.Since(begun)))
	return nil
}

// registerCluster tells the registry of the private PostgreSQL server, whose port may be another one at each start.
func (s *Server) registerCluster(ctx context.Context, port int, as rpc.TLS) error {
	conn, err := rpc.Dial(s.env.Registry, as)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	_, err = registryv1.NewClusterServiceClient(conn).RegisterCluster(ctx, &registryv1.RegisterClusterRequest{
		Name: Cluster,
		Host: "127.0.0.1",
		Port: int32(port),
		Tls:  registryv1.ClusterTls_CLUSTER_TLS_DISABLE,
	}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("register the cluster %s: %w", Cluster, err)
	}
	return nil
}

func (s *Server) startProvisioner(ctx context.Context, cfg Config, ports *listeners, keys *secrets) error {
	begun := time.Now()
	service, err := provisioner.New(ctx, provisioner.Config{
		TLS:        keys.provisioner,
		DSN:        s.env.ProvisionerDSN,
		Registry:   s.env.Registry,
		Clusters:   map[string]string{Cluster: s.env.AdminDSN},
		MasterKey:  keys.masterKey,
		Migrations: cfg.Migrations,
		Spares:     cfg.Spares,
		Instance:   instance(),
		Metrics:    cfg.Metrics,
		Logger:     cfg.Logger.Named("provisioner"),
	})
	if err != nil {
		return err
	}
	l := take(&ports.provisioner)
	s.run(ctx, "provisioner", func(ctx context.Context) error { return service.Run(ctx, l) })
	s.log.Debug("the provisioner is started", zap.Duration("took", time.Since(begun)))
	return nil
}

func (s *Server) startGateway(ctx context.Context, cfg Config, ports *listeners, keys *secrets) error {
	begun := time.Now()
	service, err := gateway.New(ctx, gateway.Config{
		TLS:           keys.gateway,
		Registry:      s.env.Registry,
		MasterKey:     keys.masterKey,
		SigningKeys:   []string{keys.assertionKey},
		Upstreams:     cfg.Upstreams,
		UpstreamsFile: cfg.UpstreamsFile,
		Reload:        cfg.Reload,
		Limits:        cfg.Limits,
		// The same at each start: one that was killed does not keep its connections from the next.
		Instance: "dev",
		Metrics:  cfg.Metrics,
		Logger:   cfg.Logger.Named("gateway"),
	})
	if err != nil {
		return err
	}
	l := take(&ports.gateway)
	s.run(ctx, "gateway", func(ctx context.Context) error { return service.Run(ctx, l) })
	s.log.Debug("the gateway is started", zap.Duration("took", time.Since(begun)))
	return nil
}

// instance names this process among copies of a service.
func instance() string { return fmt.Sprintf("dev-%d", os.Getpid()) }

// awaitHealth returns once the server at an address says that it can do its work.
func (s *Server) awaitHealth(ctx context.Context, address string, as rpc.TLS) error {
	conn, err := rpc.Dial(address, as)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	client := healthpb.NewHealthClient(conn)
	for {
		got, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err == nil && got.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait until %s is ready: %w", address, context.Cause(ctx)), err)
		case <-time.After(pollEvery):
		}
	}
}
