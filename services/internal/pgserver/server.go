// Package pgserver runs a private PostgreSQL server that this process owns: for `tenantry dev` and for tests. The
// server listens on 127.0.0.1 alone, asks everyone for a password, and ends with its owner, even one killed with -9.
//
// It is not for production, where somebody else runs PostgreSQL, and it knows nothing of what is in the databases.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// pollEvery is how often something that ends or begins by itself is looked at.
	pollEvery = 15 * time.Millisecond
	// fastWait is how long a fast shutdown may take, with its last checkpoint, before it becomes an immediate one.
	fastWait = 20 * time.Second
	// immediateWait is how long an immediate shutdown may take; PostgreSQL kills its own children after 5 s.
	immediateWait = 10 * time.Second
	// startAttempts is how often a start is tried that failed for a reason that passes.
	startAttempts = 8
	// refusalGrace is how long a server may take to notice that its port belongs to another, which answered in its place.
	refusalGrace = time.Second
)

// Server is a running server. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	process *process
	tail    *logTail

	stop     sync.Mutex // held by the one that stops the server
	owner    *owner     // nil once given up; guarded by stop
	stopped  error      // how stopping went; guarded by stop
	ordered  chan struct{}
	ordering sync.Once
}

// Start makes the cluster if there is none, starts its server and returns once that answers. A server left there by an
// owner that died is stopped first; one whose owner lives is left alone, and the error is ErrOwned. The context is for
// starting only: the server runs until Stop or Kill.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start PostgreSQL: %w", err)
		}
	}()
	cfg, err = cfg.complete()
	if err != nil {
		return nil, err
	}
	programs, err := FindPrograms()
	if err != nil {
		return nil, err
	}
	p, err := locate(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := p.open(); err != nil {
		return nil, err
	}
	own, err := acquire(ctx, p.lockPath(), "")
	if err != nil {
		return nil, err
	}
	s, err := startOwned(ctx, own, p, programs, cfg)
	if err != nil {
		return nil, errors.Join(err, own.release())
	}
	return s, nil
}

func startOwned(ctx context.Context, own *owner, p place, programs Programs, cfg Config) (*Server, error) {
	if err := stopLeftover(ctx, p.dir); err != nil {
		return nil, err
	}
	if err := p.clean(); err != nil {
		return nil, err
	}
	p.removeOrphans(ctx, cfg.Log)
	if err := p.note(); err != nil {
		return nil, err
	}
	if err := p.initCluster(ctx, programs, cfg); err != nil {
		return nil, err
	}
	if err := p.own(); err != nil {
		return nil, err
	}
	if err := p.point(cfg.Log); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		s, err := launch(ctx, own, p, programs, cfg)
		if err == nil || attempt == startAttempts || !passes(err, cfg) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Duration(attempt) * 50 * time.Millisecond):
		}
	}
}

// launch starts the server once, and ends it again if it does not come to answer.
func launch(ctx context.Context, own *owner, p place, programs Programs, cfg Config) (*Server, error) {
	if cfg.Port == 0 {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		cfg.Port = port
	}
	s := &Server{cfg: cfg, owner: own, tail: &logTail{next: cfg.Log}, ordered: make(chan struct{})}
	//nolint:noctx // The server outlives the context that started it: Stop ends it.
	cmd := exec.Command(programs.Postgres, cfg.arguments(p.dir)...)
	cmd.Env = environment()
	cmd.Dir = "/"
	cmd.SysProcAttr = attributes(p.as)
	cmd.Stdout, cmd.Stderr = s.tail, s.tail
	var err error
	if s.process, err = start(cmd); err != nil {
		return nil, err
	}
	if err := s.waitReady(ctx, p.dir); err != nil {
		return nil, errors.Join(err, s.end(syscall.SIGQUIT, nil))
	}
	return s, nil
}

// exitError says that the server ended by itself.
type exitError struct {
	cause error
	tail  string
}

func (e *exitError) Error() string {
	how := "it ended"
	if e.cause != nil {
		how = "it ended with " + e.cause.Error()
	}
	return how + "; the end of its log:\n" + e.tail
}

func (e *exitError) Unwrap() error { return e.cause }

// passes says whether to try again: another took the port between finding and using it, or the last processes of a
// killed server are still going.
func passes(err error, cfg Config) bool {
	exit, ok := errors.AsType[*exitError](err)
	if !ok {
		return false
	}
	return cfg.Port == 0 && strings.Contains(exit.tail, "Address already in use") ||
		strings.Contains(exit.tail, "pre-existing shared memory block")
}

// waitReady returns once a connection to the server in dir succeeds.
func (s *Server) waitReady(ctx context.Context, dir string) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var refused time.Time
	for {
		select {
		case <-s.process.done:
			return &exitError{cause: s.process.err, tail: s.tail.String()}
		case <-ctx.Done():
			return fmt.Errorf("wait until it answers: %w; the end of its log:\n%s", context.Cause(ctx), s.tail)
		case <-ticker.C:
		}
		err := s.probe(ctx, dir)
		if err == nil {
			return nil
		}
		// Any answer but "starting up" is final, if it comes from this server and not from another on its port, in which
		// case this one is about to end.
		pgErr, answered := errors.AsType[*pgconn.PgError](err)
		if !answered && !errors.Is(err, errOtherServer) || answered && pgErr.Code == cannotConnectNow {
			continue
		}
		if refused.IsZero() {
			refused = time.Now()
		}
		if time.Since(refused) > refusalGrace {
			return fmt.Errorf("connect as %s: %w", s.cfg.Superuser, err)
		}
	}
}

// cannotConnectNow is the SQLSTATE of a server that is starting up.
const cannotConnectNow = "57P03"

var errOtherServer = errors.New("another PostgreSQL server answers on this port")

func (s *Server) probe(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	results, err := conn.Exec(ctx, "SHOW data_directory").ReadAll()
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || string(results[0].Rows[0][0]) != dir {
		return errOtherServer
	}
	return nil
}

// DSN returns the URI with which the superuser connects to a database.
func (s *Server) DSN(database string) string {
	return (&url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(s.cfg.Superuser, s.cfg.Password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.cfg.Port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}).String()
}

// Port returns the TCP port on which the server listens.
func (s *Server) Port() int { return s.cfg.Port }

// Config returns what the server was started with, the port filled in: Start with it gives the same server again.
func (s *Server) Config() Config { return s.cfg }

// Done is closed when the server has ended, whoever ended it.
func (s *Server) Done() <-chan struct{} { return s.process.done }

// Err says why the server ended by itself, with the end of its log. It is nil while it runs, and if it was stopped.
func (s *Server) Err() error {
	select {
	case <-s.process.done:
	default:
		return nil
	}
	select {
	case <-s.ordered:
		return nil
	default:
		return &exitError{cause: s.process.err, tail: s.tail.String()}
	}
}

// Stop shuts the server down in order, its clients' sessions cut off, and waits until it has ended. When the context
// ends, or after 20 s, it stops waiting for order and shuts down at once. It may be repeated, and after Kill.
func (s *Server) Stop(ctx context.Context) error {
	return s.shut(syscall.SIGINT, ctx.Done())
}

// Kill ends the server as a crash would, so that its next start recovers from the log, and waits until it has ended.
func (s *Server) Kill() error {
	return s.shut(syscall.SIGQUIT, nil)
}

func (s *Server) shut(first syscall.Signal, hurry <-chan struct{}) error {
	s.ordering.Do(func() {
		select {
		case <-s.process.done: // it was quicker, and Err says why
		default:
			close(s.ordered)
		}
	})
	s.stop.Lock()
	defer s.stop.Unlock()
	if s.owner == nil {
		return s.stopped
	}
	s.stopped = errors.Join(s.end(first, hurry), s.owner.release())
	s.owner = nil
	return s.stopped
}

// end signals the server until it has ended, ever more urgently.
func (s *Server) end(first syscall.Signal, hurry <-chan struct{}) error {
	if first == syscall.SIGINT {
		if err := s.process.signal(syscall.SIGINT); err != nil {
			return err
		}
		if s.process.endsWithin(fastWait, hurry) {
			return nil
		}
	}
	if err := s.process.signal(syscall.SIGQUIT); err != nil {
		return err
	}
	if s.process.endsWithin(immediateWait, nil) {
		return nil
	}
	if err := s.process.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-s.process.done
	return fmt.Errorf("PostgreSQL had to be killed; the end of its log:\n%s", s.tail)
}
