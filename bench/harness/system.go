package harness

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// System is `tenantry dev` with a data directory of its own.
type System struct {
	// Dir is the directory of all that it writes; Env its dev.env.
	Dir string
	Env map[string]string
	// Admin is the administrator's connections to its PostgreSQL.
	Admin *pgxpool.Pool

	process *exec.Cmd
	ended   chan error
}

// startWithin is how long a start may take.
const startWithin = time.Minute

// Start starts bin/tenantry dev with more flags. Stop it.
func Start(ctx context.Context, binary string, flags ...string) (_ *System, err error) {
	s := &System{Env: map[string]string{}, ended: make(chan error, 1)}
	if s.Dir, err = os.MkdirTemp("", "tenantry-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	// PostgreSQL, which root must run as another user, has to get through.
	if err := os.Chmod(s.Dir, 0o711); err != nil {
		return nil, err
	}
	data := filepath.Join(s.Dir, "data")
	log, err := os.Create(filepath.Join(s.Dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	s.process = exec.CommandContext(context.WithoutCancel(ctx), binary, append([]string{"dev", "--data", data, "--temporary", "--ephemeral-ports"}, flags...)...)
	s.process.Stdout, s.process.Stderr = log, log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := s.process.Start(); err != nil {
		s.process = nil
		return nil, err
	}
	go func() { s.ended <- s.process.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		select {
		case err := <-s.ended:
			s.ended <- err
			said, _ := os.ReadFile(log.Name()) // What it said is all there is to tell.
			return nil, fmt.Errorf("tenantry dev ended: %w\n%s", err, said)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if err := s.readEnv(filepath.Join(data, "dev.env")); err == nil {
			break
		}
	}
	s.Admin, err = pgxpool.New(ctx, s.Env["TENANTRY_ADMIN_DSN"]+"&pool_max_conns=16")
	return s, err
}

func (s *System) readEnv(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // It was only read.
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(name, "#") {
			s.Env[name] = strings.Trim(value, "'\"")
		}
	}
	return lines.Err()
}

// PID is the process's.
func (s *System) PID() int { return s.process.Process.Pid }

// Stop ends the system and deletes what it wrote.
func (s *System) Stop() error {
	if s.Admin != nil {
		s.Admin.Close()
	}
	var err error
	if s.process != nil {
		err = s.process.Process.Signal(syscall.SIGTERM)
		select {
		case ended := <-s.ended:
			err = errors.Join(err, ended)
		case <-time.After(startWithin):
			err = errors.Join(err, s.process.Process.Kill(), <-s.ended)
		}
	}
	return errors.Join(err, os.RemoveAll(s.Dir))
}

// Dial connects to a service, by the name of its address's variable, as an operator.
func (s *System) Dial(variable string) (*grpc.ClientConn, error) {
	cert, err := tls.LoadX509KeyPair(s.Env["TENANTRY_OPERATOR_CERT"], s.Env["TENANTRY_OPERATOR_KEY"])
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(s.Env["TENANTRY_CA"])
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("the authority's certificate cannot be read")
	}
	return grpc.NewClient(s.Env[variable], grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS13,
	})))
}

// DSN is the URI of one of its databases for the administrator.
func (s *System) DSN(database string) (string, error) {
	u, err := url.Parse(s.Env["TENANTRY_ADMIN_DSN"])
	if err != nil {
		return "", err
	}
	u.Path = "/" + database
	return u.String(), nil
}

// Strings returns the first column of a query as the administrator.
func (s *System) Strings(ctx context.Context, sql string, args ...any) ([]string, error) {
	rows, err := s.Admin.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Template is the name of the newest template of tenants' databases.
func (s *System) Template(ctx context.Context) (string, error) {
	names, err := s.Strings(ctx, `SELECT datname FROM pg_database WHERE datname LIKE 'template\_%' ORDER BY oid DESC`)
	if err == nil && len(names) == 0 {
		err = errors.New("there is no template yet")
	}
	if err != nil {
		return "", err
	}
	return names[0], nil
}

// Drop drops databases side by side, which the end of `tenantry dev` is given too little time for when they are thousands.
func (s *System) Drop(ctx context.Context, databases []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dropsAtOnce)
	for _, name := range databases {
		group.Go(func() error {
			_, err := s.Admin.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
			return err
		})
	}
	return group.Wait()
}

// dropsAtOnce is how many databases are dropped side by side.
const dropsAtOnce = 8

// Settle waits until the number of tenants' databases has stayed the same for a while.
func (s *System) Settle(ctx context.Context) error {
	last, since := -1, time.Now()
	for time.Since(since) < 800*time.Millisecond {
		names, err := s.Strings(ctx, `SELECT datname FROM pg_database WHERE datname LIKE 'tenant\_%'`)
		if err != nil {
			return err
		}
		if len(names) != last {
			last, since = len(names), time.Now()
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ResetPeak makes PeakRSS begin anew.
func (s *System) ResetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.PID()), []byte("5"), 0)
}

// PeakRSS is the most memory that the process has held, in bytes.
func (s *System) PeakRSS() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the process's status tells no VmHWM")
}
