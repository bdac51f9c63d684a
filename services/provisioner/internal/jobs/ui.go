package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"riverqueue.com/riverui"
)

const (
	// headerTimeout is how long a browser may take to say what it wants.
	headerTimeout = 5 * time.Second
	// stopTimeout is how long an answer under way has when the copy ends.
	stopTimeout = 2 * time.Second
)

// ServeUI serves River's own pages about the jobs of all copies until the context ends, and closes the listener. Whoever
// reaches it may look at jobs, and repeat, cancel and delete them: there is no login, so the listener has to be a loopback
// one. Other sites' pages in the same browser are kept out.
func (q *Queue) ServeUI(ctx context.Context, l net.Listener) error {
	// It is not started: that only has counts of jobs made ahead, by goroutines that nobody can wait for.
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{Endpoints: riverui.NewEndpoints(q.client, nil), Logger: slog.New(zapslog.NewHandler(quiet(q.log).Core()))})
	if err != nil {
		return errors.Join(fmt.Errorf("jobs: %w", err), l.Close())
	}
	server := &http.Server{Handler: ownPages(ui), ReadHeaderTimeout: headerTimeout}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	q.log.Info("serving the jobs' pages", zap.Stringer("address", l.Addr()))
	select {
	case err := <-failed:
		return fmt.Errorf("jobs: %w", err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if server.Shutdown(stopping) != nil {
		_ = server.Close() // What takes longer is cut off.
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("jobs: %w", err)
	}
	return nil
}

// ownPages refuses what another site's page makes a browser ask, be it by its own name or by one that it has pointed at
// this machine.
func ownPages(h http.Handler) http.Handler {
	protected := http.NewCrossOriginProtection().Handler(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopback(r.Host) {
			http.Error(w, "ask by a loopback address or by localhost", http.StatusForbidden)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// loopback tells whether a host, with or without a port, is this machine.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
