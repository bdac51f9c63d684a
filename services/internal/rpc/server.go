// Package rpc is how Tenantry's gRPC servers and clients are made: TLS with callers known by their certificates, one
// table that says who may call what, requests checked against the contract, every error a fault, panics caught, calls
// logged, health, reflection and a graceful end. What is particular to a service, such as whose an access token is,
// comes in through Config.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"buf.build/go/protovalidate"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	"github.com/tenantry/tenantry/services/internal/identity"
)

// MaxMessage is the most bytes of one message, either way.
const MaxMessage = 16 << 20

// Config describes a server.
type Config struct {
	// Name is the service's, for logs.
	Name string
	// TLS are the server's files.
	TLS TLS
	// Access says who may call what.
	Access Access
	// Authenticate says who calls: it gets the caller that the certificate proves (anonymous without one) and the
	// call's metadata. Nil means that the certificate is all that counts.
	Authenticate func(ctx context.Context, certified identity.Caller, md metadata.MD) (identity.Caller, error)
	// Limits refuses calls that are too many; nil means that none are.
	Limits Limiter
	// Logger gets a line for each call.
	Logger *zap.Logger
	// Observe is told of each call that ended: its full method, `forwarded` for one that is not served here, its code and
	// how long it took. Nil means that nobody counts.
	Observe func(method string, code codes.Code, took time.Duration)
	// Grace is how long calls that run may go on after Serve was told to stop; 0 means 10 seconds.
	Grace time.Duration
	// Workers is how many goroutines stay for one call after another, with stacks that have grown to what calls need; calls
	// beyond them get a goroutine each. They are there until the server is stopped, whether it served or not.
	Workers int
	// Options are added to the server's own.
	Options []grpc.ServerOption
}

// Server is one gRPC server. Register services, then Serve.
type Server struct {
	*grpc.Server
	cfg    Config
	guard  *guard
	health *health.Server
}

// NewServer makes a server.
func NewServer(cfg Config) (*Server, error) {
	creds, err := cfg.TLS.Server()
	if err != nil {
		return nil, err
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	g := &guard{cfg: cfg, validator: validator, log: cfg.Logger}
	options := append([]grpc.ServerOption{
		grpc.Creds(creds),
		grpc.NumStreamWorkers(uint32(cfg.Workers)),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}, cfg.Options...)
	s := &Server{Server: grpc.NewServer(options...), cfg: cfg, guard: g, health: health.NewServer()}
	healthpb.RegisterHealthServer(s.Server, s.health)
	reflection.Register(s.Server)
	return s, nil
}

// SetHealthy says whether the server can do its work, for health checks of the empty service name.
func (s *Server) SetHealthy(ok bool) { s.SetPartHealthy("", ok) }

// SetPartHealthy says whether a part of the server is well, for health checks of that name.
func (s *Server) SetPartHealthy(part string, ok bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if ok {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(part, status)
}

// Serve answers calls until the context ends, then lets those that run end within the grace and cuts the rest off. It
// closes the listener. Handlers of streams that never end by themselves must watch the same context.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.cfg.Access.covers(s.GetServiceInfo()); err != nil {
		s.Stop()
		return errors.Join(err, l.Close())
	}
	s.guard.serves(s.GetServiceInfo())
	failed := make(chan error, 1)
	go func() { failed <- s.Server.Serve(l) }()
	s.cfg.Logger.Info("serving", zap.String("service", s.cfg.Name), zap.Stringer("address", l.Addr()))
	select {
	case err := <-failed:
		return fmt.Errorf("rpc: serve %s: %w", s.cfg.Name, err)
	case <-ctx.Done():
	}
	s.health.Shutdown()
	ended := make(chan struct{})
	go func() { s.GracefulStop(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(s.cfg.Grace):
		s.cfg.Logger.Warn("calls outlived the grace and are cut off", zap.String("service", s.cfg.Name))
		s.Stop()
		<-ended
	}
	if err := <-failed; !errors.Is(err, grpc.ErrServerStopped) { // That says that it was stopped before it served.
		return err
	}
	return nil
}
