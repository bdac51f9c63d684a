package conns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

const (
	applicationName = "tenantry gateway"
	// cancelTimeout is how long PostgreSQL has to take a request to cancel a statement, and to end the statement.
	cancelTimeout = time.Second
	closeTimeout  = 5 * time.Second
	// cancelAgain is how long abort waits for an answer before it asks again.
	cancelAgain = 100 * time.Millisecond
)

// settings name all that the environment, a password file, a service file or the home directory could otherwise decide.
const settings = `host=localhost port=5432 user=nobody password=none dbname=nothing connect_timeout=0 options='' ` +
	`sslmode=disable sslcertmode=disable sslcert='' sslkey='' sslrootcert='' sslpassword='' sslsni=1 sslnegotiation=postgres ` +
	`target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth='' passfile=''`

// dialer makes connections to PostgreSQL.
type dialer struct {
	masterKey credential.MasterKey
	rootCAs   *x509.CertPool
	timeout   time.Duration
	// limits are settings that each session starts with, and returns to when it is cleaned.
	limits map[string]string
}

func newDialer(c Config) dialer {
	return dialer{
		masterKey: c.MasterKey, rootCAs: c.RootCAs, timeout: c.ConnectTimeout,
		limits: map[string]string{
			"statement_timeout":                   strconv.FormatInt(c.StatementTimeout.Milliseconds(), 10),
			"idle_in_transaction_session_timeout": strconv.FormatInt(c.IdleInTransactionTimeout.Milliseconds(), 10),
			// What a gateway that died left running ends soon, not at its limit.
			"client_connection_check_interval": "1s",
		},
	}
}

// dial connects with the password of the target's version and, where that is refused, with that of the next and of the one
// before: while a password is rotated, the server and the route do not change at the same time.
func (d dialer) dial(ctx context.Context, target Target) (link, error) {
	var first error // why the password that should be in force was not taken
	for _, version := range []int32{target.PasswordVersion, target.PasswordVersion + 1, target.PasswordVersion - 1} {
		if first != nil && (version < credential.FirstPasswordVersion || pg.Code(first) != pgerrcode.InvalidPassword) {
			break
		}
		target.PasswordVersion = version
		l, err := d.connect(ctx, target)
		if err == nil {
			return l, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (d dialer) connect(ctx context.Context, target Target) (*pgLink, error) {
	cfg, err := d.config(target)
	if err != nil {
		return nil, err
	}
	l := &pgLink{}
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		l.watch.conn = conn
		return &l.watch
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l.conn, l.session = conn, pgsession.New(conn, &l.watch)
	return l, nil
}

func (d dialer) config(target Target) (*pgconn.Config, error) {
	// Only ParseConfig can make a Config, and it looks at more than it is given. So what it made is replaced.
	cfg, err := pgconn.ParseConfig(settings)
	if err != nil {
		return nil, fmt.Errorf("conns: a PG* variable of the environment is in the way: %w", err)
	}
	password, err := d.masterKey.RolePassword(target.DatabaseID, target.PasswordVersion)
	if err != nil {
		return nil, err
	}
	name := tenant.DatabaseName(target.DatabaseID)
	cfg.Host, cfg.Port = target.Host, uint16(target.Port)
	cfg.Database, cfg.User, cfg.Password = name, name, password
	cfg.TLSConfig, err = d.tls(target)
	if err != nil {
		return nil, err
	}
	cfg.Fallbacks = nil
	cfg.ConnectTimeout = d.timeout
	cfg.DialFunc = (&net.Dialer{}).DialContext
	cfg.LookupFunc = net.DefaultResolver.LookupHost
	cfg.RuntimeParams = map[string]string{"application_name": applicationName}
	maps.Copy(cfg.RuntimeParams, d.limits)
	cfg.ValidateConnect, cfg.AfterConnect = nil, nil
	cfg.KerberosSrvName, cfg.KerberosSpn = "", ""
	// A server that asks for the password itself, or for an MD5 of it, is none of ours. It may ask for nothing.
	cfg.RequireAuth = "scram-sha-256,none"
	return cfg, nil
}

func (d dialer) tls(target Target) (*tls.Config, error) {
	switch target.TLS {
	case Disable:
		return nil, nil
	case Require:
		return &tls.Config{
			MinVersion:         tls.VersionTLS12,
			ServerName:         target.Host,
			InsecureSkipVerify: true, //nolint:gosec // that is what the mode means
		}, nil
	case VerifyFull:
		return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: target.Host, RootCAs: d.rootCAs}, nil
	default:
		return nil, fmt.Errorf("conns: TLS mode: got %d, want Disable, Require or VerifyFull", target.TLS)
	}
}

// pgLink is a connection to PostgreSQL.
type pgLink struct {
	conn    *pgconn.PgConn
	session *pgsession.Session
	watch   canceller
}

var errNotClean = errors.New("conns: the connection is closed, in the middle of something, or about to be cancelled")

func (l *pgLink) dirty() bool { return l.session.Dirty() || l.watch.unanswered.Load() }

func (l *pgLink) renew() { l.session.Forget() }

// clean only sends what cleans: the next statement reads what PostgreSQL said to it.
func (l *pgLink) clean(context.Context) error {
	if l.session.Broken() || l.watch.unanswered.Load() {
		return errNotClean
	}
	if err := l.session.Reset(); err != nil {
		return fmt.Errorf("conns: reset: %w", err)
	}
	return nil
}

// checkPatience is how long a check listens for bad news that came while nobody did.
const checkPatience = time.Millisecond

func (l *pgLink) check() error { return l.session.Check(checkPatience) }

func (l *pgLink) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	l.watch.quiet.Store(true)
	if l.session.Busy() {
		l.abort(ctx)
	} else {
		leave(ctx, l.conn.Conn())
	}
	_ = l.conn.Close(ctx) // There is nothing to be done about a connection that does not even close.
	<-l.conn.CleanupDone()
}

// abort ends the session and the statement that runs in it: PostgreSQL notices that its client is gone only when it next
// writes to it. A request to cancel that arrives before the statement does is forgotten, so it is sent until PostgreSQL
// closes the connection.
func (l *pgLink) abort(ctx context.Context) {
	conn := l.conn.Conn()
	terminate, err := (&pgproto3.Terminate{}).Encode(nil)
	if err != nil {
		return
	}
	for wrote := false; ctx.Err() == nil; wrote = true {
		if err := conn.SetDeadline(time.Now().Add(cancelAgain)); err != nil {
			return
		}
		if !wrote {
			if _, err := conn.Write(terminate); err != nil {
				return
			}
		}
		if err := l.conn.CancelRequest(ctx); err != nil {
			return
		}
		// nil is the end of what there is to read.
		if _, err := io.Copy(io.Discard, conn); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// canceller is what happens when the context of a call on a connection ends: PostgreSQL is asked to cancel the
// statement, and has a moment to do so. Pgconn's own does about the same, but does not tell whether PostgreSQL took the
// request: one that is still under way may hit whatever runs next.
type canceller struct {
	conn *pgconn.PgConn
	// quiet means that there is no statement: the call just ends.
	quiet atomic.Bool
	// unanswered means that a request may still be under way.
	unanswered atomic.Bool
}

// HandleCancel is ctxwatch.Handler's. A deadline that cannot be set is that of a connection that is closed.
func (c *canceller) HandleCancel(context.Context) {
	if c.quiet.Load() {
		_ = c.conn.Conn().SetDeadline(time.Now())
		return
	}
	deadline := time.Now().Add(cancelTimeout)
	_ = c.conn.Conn().SetDeadline(deadline)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	// CancelRequest says nothing of an answer that did not come.
	if err := c.conn.CancelRequest(ctx); err != nil || ctx.Err() != nil {
		c.unanswered.Store(true)
	}
}

// HandleUnwatchAfterCancel is ctxwatch.Handler's.
func (c *canceller) HandleUnwatchAfterCancel() { _ = c.conn.Conn().SetDeadline(time.Time{}) }
