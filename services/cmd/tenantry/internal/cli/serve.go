package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantry/tenantry/services/internal/metrics"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// logFlags say what is logged, and how. Logs go to standard error.
type logFlags struct {
	LogLevel  string `name:"log-level" enum:"debug,info,warn,error" default:"info" env:"TENANTRY_LOG_LEVEL" group:"Logs:" help:"Least severe entries to log: ${enum}. At debug every call has a line."`
	LogFormat string `name:"log-format" enum:"json,console" default:"${log_format=json}" env:"TENANTRY_LOG_FORMAT" group:"Logs:" help:"How to write them: ${enum}."`
}

func (f logFlags) logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(f.LogLevel)
	if err != nil {
		return nil, usagef("", "--log-level: %v", err)
	}
	cfg := zap.NewProductionConfig()
	cfg.Level = zap.NewAtomicLevelAt(level)
	cfg.Encoding = f.LogFormat
	cfg.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	// Sampling drops lines, and one of those dropped is the one that is looked for.
	cfg.Sampling = nil
	cfg.DisableStacktrace = true
	return cfg.Build()
}

// metricsFlags say whether and where Prometheus finds the process.
type metricsFlags struct {
	Metrics string `name:"metrics" placeholder:"HOST:PORT" env:"TENANTRY_METRICS" group:"Metrics:" help:"Answer Prometheus at http://HOST:PORT/metrics. There is no login, so choose an address that only it can reach. Default: nowhere."`
	Pprof   bool   `name:"pprof" env:"TENANTRY_PPROF" group:"Metrics:" help:"Profiles of the program at /debug/pprof/ of that address, which must be a loopback one."`
}

// exposed is metrics and where they are served; none when the address is empty.
type exposed struct {
	metrics  *metrics.Metrics
	listener net.Listener
	profiles bool
}

// expose takes the address.
func (f metricsFlags) expose(ctx context.Context) (exposed, error) {
	if f.Metrics == "" {
		if f.Pprof {
			return exposed{}, usagef("For example --metrics 127.0.0.1:7409.", "--pprof: got no --metrics, on whose address it would be")
		}
		return exposed{}, nil
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", f.Metrics)
	if err != nil {
		return exposed{}, usagef("Choose another address with --metrics.", "--metrics: %v", err)
	}
	if f.Pprof && !onLoopback(l) {
		return exposed{}, errors.Join(usagef("For example --metrics 127.0.0.1:7409.", "--pprof: got --metrics %s, want a loopback address: profiles are for nobody else", f.Metrics), l.Close())
	}
	return exposed{metrics.New(), l, f.Pprof}, nil
}

// onLoopback tells whether only this machine reaches a listener.
func onLoopback(l net.Listener) bool {
	address, ok := l.Addr().(*net.TCPAddr)
	return ok && address.IP.IsLoopback()
}

// beside runs f with the metrics served beside it, and stops them when it has ended.
func (e exposed) beside(ctx context.Context, log *zap.Logger, f func() error) error {
	if e.metrics == nil {
		return f()
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- e.metrics.Serve(ctx, e.listener, e.profiles, log.Named("metrics")) }()
	err := f()
	stop()
	return errors.Join(err, <-served)
}

// serverFlags are those of every service.
type serverFlags struct {
	logFlags
	metricsFlags
	Listen  string `name:"listen" default:":${port}" placeholder:"HOST:PORT" env:"TENANTRY_LISTEN" help:"Where to answer calls. Default: ${default}."`
	TLSCA   string `name:"tls-ca" required:"" type:"path" placeholder:"FILE" env:"TENANTRY_TLS_CA" help:"Certificate of the authority that signed everyone's."`
	TLSCert string `name:"tls-cert" required:"" type:"path" placeholder:"FILE" env:"TENANTRY_TLS_CERT" help:"This service's certificate."`
	TLSKey  string `name:"tls-key" required:"" type:"path" placeholder:"FILE" env:"TENANTRY_TLS_KEY" help:"Its private key."`
}

func (f serverFlags) tls() rpc.TLS { return rpc.TLS{CA: f.TLSCA, Cert: f.TLSCert, Key: f.TLSKey} }

// service is what all three services' packages return.
type service interface {
	Run(ctx context.Context, l net.Listener) error
}

// serve takes the address, makes the service and runs it until the context ends.
func (f serverFlags) serve(ctx context.Context, begin func(ctx context.Context, log *zap.Logger, m *metrics.Metrics) (service, error)) error {
	log, err := f.logger()
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // Terminals and pipes cannot be synced, and say so.
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", f.Listen)
	if err != nil {
		return usagef("Choose another address with --listen.", "listen: %v", err)
	}
	e, err := f.expose(ctx)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return e.beside(ctx, log, func() error {
		s, err := begin(ctx, log, e.metrics)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		return s.Run(ctx, l)
	})
}

// instanceName is the name of this copy: as given, or the host's, which orchestrators make unique.
func instanceName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("--instance: %w", err)
	}
	return host, nil
}

// databaseFlags name a service's own database. The embedding field's prefix names the variable.
type databaseFlags struct {
	DSN     string `name:"dsn" placeholder:"URI" env:"TENANTRY_${service}_DSN" xor:"dsn" help:"PostgreSQL URI of its own database. A password belongs in the variable, in --dsn-file or in PGPASSFILE, since everyone on a machine can read command lines."`
	DSNFile string `name:"dsn-file" type:"path" placeholder:"FILE" env:"TENANTRY_${service}_DSN_FILE" xor:"dsn" help:"File that holds the URI."`
}

// dsn returns the URI, from wherever it is. The variable's name is what tells a password on the command line, which is
// refused, from one in the environment.
func (f databaseFlags) dsn(variable string) (string, error) {
	if f.DSNFile != "" {
		return secretFile(f.DSNFile)
	}
	if f.DSN == "" {
		return "", usagef("Name its database with --dsn-file, or in the variable "+variable+".", "--dsn: got nothing, want a PostgreSQL URI")
	}
	if f.DSN != os.Getenv(variable) && hasPassword(f.DSN) {
		return "", usagef("Put the URI in the variable "+variable+" or in a file for --dsn-file.",
			"--dsn: got a password, which everyone on this machine could read on the command line")
	}
	if _, err := pgx.ParseConfig(f.DSN); err != nil {
		return "", usagef("A URI looks like postgres://USER@HOST:5432/DATABASE?sslmode=verify-full.", "--dsn: %v", err)
	}
	return f.DSN, nil
}

// hasPassword looks at the text itself: a parsed configuration holds the password of PGPASSWORD, too.
func hasPassword(dsn string) bool {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" {
		return containsKeyword(dsn, "password")
	}
	_, ok := u.User.Password()
	return ok || u.Query().Has("password")
}
