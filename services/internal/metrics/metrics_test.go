package metrics_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves metrics until the test ends, and returns how to get a path.
func serve(t *testing.T, m *metrics.Metrics, profiles bool) func(path string) (int, string) {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Serve(ctx, l, profiles, zap.NewNop()) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		_, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
		require.Error(t, err)
	})
	return func(path string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+path, http.NoBody)
		require.NoError(t, err)
		got, err := client.Do(r)
		require.NoError(t, err)
		defer func() { require.NoError(t, got.Body.Close()) }()
		body, err := io.ReadAll(got.Body)
		require.NoError(t, err)
		return got.StatusCode, string(body)
	}
}

func TestAScrapeHasCallsGaugesAndTheRuntime(t *testing.T) {
	t.Parallel()
	m := metrics.New()
	calls := m.Calls("gateway")
	calls("/a.B/C", codes.OK, 3*time.Millisecond)
	calls("/a.B/C", codes.NotFound, time.Minute)
	away := true
	m.Gauge("things", "Things.", []string{"kind"}, func(context.Context) ([]metrics.Sample, error) {
		return []metrics.Sample{{Value: 2, Labels: []string{"small"}}, {Value: 3, Labels: []string{"great"}}}, nil
	})
	m.Gauge("far", "Far things.", nil, func(context.Context) ([]metrics.Sample, error) {
		if away {
			return nil, errors.New("the database is away")
		}
		return []metrics.Sample{{Value: 7}}, nil
	})
	get := serve(t, m, false)
	code, body := get("/metrics")
	require.Equal(t, http.StatusOK, code)
	for _, want := range []string{
		`tenantry_rpc_seconds_count{code="OK",method="/a.B/C",service="gateway"} 1`,
		`tenantry_rpc_seconds_bucket{code="OK",method="/a.B/C",service="gateway",le="0.0025"} 0`,
		`tenantry_rpc_seconds_bucket{code="OK",method="/a.B/C",service="gateway",le="0.005"} 1`,
		`tenantry_rpc_seconds_sum{code="NotFound",method="/a.B/C",service="gateway"} 60`,
		`tenantry_things{kind="small"} 2`, `tenantry_things{kind="great"} 3`, "go_goroutines ", "process_open_fds ",
	} {
		require.Contains(t, body, want)
	}
	require.NotContains(t, body, "tenantry_far ", "what cannot be read is left out, and the rest is there")
	away = false
	_, body = get("/metrics")
	require.Contains(t, body, "tenantry_far 7")
	code, _ = get("/debug/pprof/")
	require.Equal(t, http.StatusNotFound, code)
}

func TestProfilesAreThereWhenAskedFor(t *testing.T) {
	t.Parallel()
	get := serve(t, metrics.New(), true)
	code, body := get("/debug/pprof/goroutine?debug=1")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, "goroutine profile:")
}

func TestNoMetricsTakeEverything(t *testing.T) {
	t.Parallel()
	var m *metrics.Metrics
	require.Nil(t, m.Calls("gateway"))
	m.Gauge("things", "Things.", nil, nil)
}
