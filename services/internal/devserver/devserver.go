// Package devserver runs all of Tenantry in one process for development, tests and the demo: a private PostgreSQL, the
// registry, the provisioner and the gateway, each with a certificate of its own, talking over loopback TLS as they would
// between machines. Everything it knows is in one data directory, and stays there from start to start.
//
// It is not for production: the authority's key, the master key and the database lie side by side, and PostgreSQL does
// not wait for the disk.
package devserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/tenantry/tenantry/services/gateway"
	"github.com/tenantry/tenantry/services/internal/metrics"
)

// Config says what to run. Dir must be given.
type Config struct {
	// Dir is the data directory, made where it is missing.
	Dir string
	// Temporary deletes Dir at the end. It must not exist yet, or be empty: what someone made is not ours to delete.
	Temporary bool
	// Durable makes commits survive a loss of power, as in production; without, they survive the death of any process.
	Durable bool
	// Ports are where to listen on 127.0.0.1; zero ones are chosen freely.
	Ports Ports
	// Migrations is a directory of tenants' migration sets; empty means those inside the program.
	Migrations string
	// Spares is how many databases are kept ready for companies that have not come yet.
	Spares int
	// Upstreams are the services that the gateway forwards to.
	Upstreams []gateway.Upstream
	// Limits say which calls are too many for the gateway.
	Limits gateway.Limits
	// UpstreamsFile names more of them and is read again when it changes; Reload has it read at once for each signal.
	UpstreamsFile string
	Reload        <-chan os.Signal
	// Metrics are what the process tells; nil means nobody listens.
	Metrics *metrics.Metrics
	// Logger gets the services' logs; nil means none. PostgreSQL's log is a file in Dir.
	Logger *zap.Logger
}

// Server is a running system.
type Server struct {
	dir  *directory
	log  *zap.Logger
	env  Environment
	took time.Duration
	// parts are what runs, in the order in which it was started.
	parts []*part
	// failed gets the error of each part that ended though nobody stopped it.
	failed chan error
	// giveUp ends a start that is under way, since what it waits for may never come.
	giveUp context.CancelFunc
}

// Start starts everything and returns once every service answers and dev.env is written. The context is for starting
// only: the system runs until Stop.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	begun := time.Now()
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	dir, err := openDirectory(cfg.Dir, cfg.Temporary)
	if err != nil {
		return nil, err
	}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	s := &Server{dir: dir, log: cfg.Logger, failed: make(chan error, 4), giveUp: giveUp}
	defer func() {
		if err == nil {
			return
		}
		select {
		case err = <-s.failed: // That is why, and all else followed from it.
		default:
		}
		err = errors.Join(err, s.Stop())
	}()
	ports, err := listen(ctx, cfg.Ports)
	if err != nil {
		return nil, err
	}
	// Who serves a listener closes it; those that no service has taken when a start fails are closed here.
	defer ports.closeUnserved()
	keys, err := openSecrets(dir)
	if err != nil {
		return nil, err
	}
	if err := s.startDatabase(ctx, cfg, ports, keys); err != nil {
		return nil, err
	}
	if err := s.startServices(ctx, cfg, ports, keys); err != nil {
		return nil, err
	}
	if err := s.env.write(dir.env()); err != nil {
		return nil, err
	}
	s.took = time.Since(begun)
	return s, nil
}

// Environment is how to reach the system.
func (s *Server) Environment() Environment { return s.env }

// EnvironmentFile is the path of dev.env.
func (s *Server) EnvironmentFile() string { return s.dir.env() }

// Took is how long Start took.
func (s *Server) Took() time.Duration { return s.took }

// Wait returns nil when the context ends, and an error when a part of the system ends by itself.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// Stop stops everything in the order in which each needs the next, the database last, and waits for it. It may be
// repeated.
func (s *Server) Stop() error {
	// Gone first, so that whoever reads it finds a system that answers.
	problems := []error{removeFile(s.dir.env())}
	for len(s.parts) > 0 {
		last := len(s.parts) - 1
		problems = append(problems, s.parts[last].stop())
		s.parts = s.parts[:last]
	}
	return errors.Join(append(problems, s.dir.close())...)
}

// part is something that runs until it is stopped.
type part struct {
	name string
	// cancel asks it to end.
	cancel func()
	// done is closed when it has ended; err then says how.
	done chan struct{}
	err  error
}

// run starts a part whose run function ends when its context does. There are at most four.
func (s *Server) run(ctx context.Context, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	s.parts = append(s.parts, p)
	go func() {
		defer close(p.done)
		err := run(ctx)
		if ctx.Err() != nil {
			if !errors.Is(err, context.Canceled) {
				p.err = err
			}
			return
		}
		if err == nil {
			err = errors.New("no reason was given")
		}
		s.failed <- fmt.Errorf("the %s ended by itself: %w", name, err)
		s.giveUp()
	}()
}

func (p *part) stop() error {
	p.cancel()
	<-p.done
	if p.err != nil {
		return fmt.Errorf("stop the %s: %w", p.name, p.err)
	}
	return nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
