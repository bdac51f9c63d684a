package provisioner_test

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJobsAreSeenOnPagesOfTheirOwnAndOtherSitesAreKeptOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(method, path, host string, header http.Header) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.jobsUI+path, strings.NewReader(`{"ids": ["1"]}`))
		require.NoError(t, err)
		r.Host, r.Header = host, header
		got, err := client.Do(r)
		require.NoError(t, err)
		defer func() { require.NoError(t, got.Body.Close()) }()
		body, err := io.ReadAll(got.Body)
		require.NoError(t, err)
		return got.StatusCode, string(body)
	}
	code, page := ask(http.MethodGet, "/", w.jobsUI, http.Header{})
	require.Equal(t, http.StatusOK, code)
	script := regexp.MustCompile(`/assets/main-[^"]+\.js`).FindString(page)
	require.NotEmpty(t, script, page)
	code, _ = ask(http.MethodGet, script, "localhost:7408", http.Header{})
	require.Equal(t, http.StatusOK, code, "the pages are inside the program, and a tunnel's end may have another port")
	require.Eventually(t, func() bool {
		code, body := ask(http.MethodGet, "/api/jobs?state=completed", w.jobsUI, http.Header{})
		require.Equal(t, http.StatusOK, code, body)
		return strings.Contains(body, `"kind":"sweep"`)
	}, time.Minute, 100*time.Millisecond)
	code, body := ask(http.MethodGet, "/api/states", w.jobsUI, http.Header{})
	require.Equal(t, http.StatusOK, code, body)

	code, _ = ask(http.MethodPost, "/api/jobs/retry", w.jobsUI, http.Header{"Origin": {"http://elsewhere.example"}})
	require.Equal(t, http.StatusForbidden, code, "another site's page")
	code, _ = ask(http.MethodGet, "/api/jobs", "elsewhere.example:80", http.Header{})
	require.Equal(t, http.StatusForbidden, code, "another site's name that is pointed here")
	code, body = ask(http.MethodPost, "/api/jobs/retry", w.jobsUI, http.Header{"Origin": {"http://" + w.jobsUI}})
	require.NotEqual(t, http.StatusForbidden, code, body)

	w.stop()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.jobsUI, http.NoBody)
	require.NoError(t, err)
	got, err := client.Do(r)
	if err == nil {
		require.NoError(t, got.Body.Close())
	}
	require.Error(t, err, "they end with the provisioner")
}
