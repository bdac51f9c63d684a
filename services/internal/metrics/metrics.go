// Package metrics is what a process tells Prometheus: how many calls there were, how they ended and how long they took,
// what the Go runtime does, and what each service adds of its own, read when somebody asks. All of one process's services
// share one Metrics; there is no global one. A nil *Metrics takes everything and does nothing, so whoever has something to
// tell need not ask whether anyone listens.
//
// Profiles are on the same port when they are asked for. It is not for what happened to one tenant: that is in logs, results and the audit log, and no tenant's name is ever a
// label.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
)

const (
	namespace = "tenantry"
	// scrapeTimeout is how long the answers to one scrape may take.
	scrapeTimeout = 5 * time.Second
	// stopTimeout is how long a scrape under way has when the process ends.
	stopTimeout = 2 * time.Second
)

// Metrics is one process's.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
}

// New returns metrics that know the Go runtime and the process.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "rpc_seconds",
			Help:    "How long calls took, by service, method and gRPC code; forwarded ones have the method `forwarded`.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30},
		}, []string{"service", "method", "code"}),
	}
	m.registry.MustRegister(m.calls, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Calls returns what a service's server tells of each call; nil from a nil *Metrics.
func (m *Metrics) Calls(service string) func(method string, code codes.Code, took time.Duration) {
	if m == nil {
		return nil
	}
	return func(method string, code codes.Code, took time.Duration) {
		m.calls.WithLabelValues(service, method, code.String()).Observe(took.Seconds())
	}
}

// Sample is one value of a gauge, with a value for each of its labels.
type Sample struct {
	Value  float64
	Labels []string
}

// Gauge adds a gauge `tenantry_NAME` whose values are read at each scrape. Where reading fails the gauge is missing from
// that scrape, and the log says why.
func (m *Metrics) Gauge(name, help string, labels []string, read func(ctx context.Context) ([]Sample, error)) {
	m.add(prometheus.GaugeValue, name, help, labels, read)
}

// Counter adds a counter `tenantry_NAME`, read as a gauge is. Its values never fall while the process lives.
func (m *Metrics) Counter(name, help string, labels []string, read func(ctx context.Context) ([]Sample, error)) {
	m.add(prometheus.CounterValue, name, help, labels, read)
}

func (m *Metrics) add(kind prometheus.ValueType, name, help string, labels []string, read func(ctx context.Context) ([]Sample, error)) {
	if m == nil {
		return
	}
	m.registry.MustRegister(&gauge{kind: kind, desc: prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil), read: read})
}

// gauge is a prometheus.Collector, of a counter too.
type gauge struct {
	kind prometheus.ValueType
	desc *prometheus.Desc
	read func(ctx context.Context) ([]Sample, error)
}

// Describe implements prometheus.Collector.
func (g *gauge) Describe(to chan<- *prometheus.Desc) { to <- g.desc }

// Collect implements prometheus.Collector.
func (g *gauge) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	samples, err := g.read(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(g.desc, err)
		return
	}
	for _, s := range samples {
		metric, err := prometheus.NewConstMetric(g.desc, g.kind, s.Value, s.Labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(g.desc, err)
		}
		to <- metric
	}
}

// Serve answers scrapes of /metrics, and with profiles those of /debug/pprof/ too, until the context ends. It closes the
// listener. Whoever can reach it can read it: there is no login.
func (m *Metrics) Serve(ctx context.Context, l net.Listener, profiles bool, log *zap.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ErrorLog: logger{log}}))
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: scrapeTimeout}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	log.Info("serving metrics", zap.Stringer("address", l.Addr()))
	select {
	case err := <-failed:
		return fmt.Errorf("metrics: %w", err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if server.Shutdown(stopping) != nil {
		_ = server.Close() // A profile that takes longer is cut off.
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// logger is promhttp's.
type logger struct{ log *zap.Logger }

// Println implements promhttp.Logger.
func (l logger) Println(v ...any) {
	l.log.Warn("a scrape is not whole", zap.String("error", fmt.Sprintln(v...)))
}
