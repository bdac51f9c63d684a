package e2e

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestAFloodOfLoginsIsRefusedWhileCallsGoOn(t *testing.T) {
	t.Parallel()
	metrics := freeAddress(t)
	s := newSystem(t, "--rate-per-address", "2", "--rate-per-company", "20", "--metrics", metrics)
	sun, moon := s.signUp("sun"), s.signUp("moon")
	ofSun, ofMoon := s.logIn(sun), s.logIn(moon)
	conn := s.dial("TENANTRY_GATEWAY", asNobody)
	sessions, sql := registryv1.NewSessionServiceClient(conn), gatewayv1.NewSqlServiceClient(conn)

	// One tries passwords, as fast as it can.
	guess := func() error {
		_, err := sessions.Login(t.Context(), &registryv1.LoginRequest{Email: sun.owner, Password: "guess"})
		return err
	}
	var last *fault.Error
	refused := 0
	for refused < 200 {
		last = fault.From(guess())
		if last.Reason == fault.CredentialsInvalid {
			continue
		}
		refused++
		require.Equal(t, codes.ResourceExhausted, last.Code, "%v", last)
		require.Equal(t, fault.RateLimited, last.Reason)
		require.Equal(t, "address", last.Metadata["limit"])
		require.Positive(t, last.RetryAfter)
		require.LessOrEqual(t, last.RetryAfter, 500*time.Millisecond)
		if refused%20 == 0 {
			_, err := sql.Execute(ofMoon, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
			require.NoError(t, err, "another company's calls go on, from the same address")
		}
	}
	last = fault.From(guess())
	for last.Reason != fault.RateLimited {
		last = fault.From(guess())
	}
	time.Sleep(last.RetryAfter)
	require.True(t, fault.HasReason(guess(), fault.CredentialsInvalid), "as was said")

	// A company that calls too often is told so, and the other is not.
	var group sync.WaitGroup
	defer group.Wait()
	done := make(chan struct{})
	defer close(done)
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_, _ = sql.Execute(ofSun, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
				}
			}
		})
	}
	require.Eventually(t, func() bool {
		_, err := sql.Execute(ofSun, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
		f := fault.From(err)
		return f != nil && f.Reason == fault.RateLimited && f.Metadata["limit"] == "company"
	}, patience, time.Millisecond)
	for range 5 {
		_, err := sql.Execute(ofMoon, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
		require.NoError(t, err)
	}
	code, body := scrape(t, metrics, "/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Regexp(t, `tenantry_gateway_refusals_total\{limit="address"\} [1-9]`, body)
	require.Regexp(t, `tenantry_gateway_refusals_total\{limit="company"\} [1-9]`, body)
	require.Contains(t, body, `tenantry_gateway_refusals_total{limit="in_flight"} 0`)
}
