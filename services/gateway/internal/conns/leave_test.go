package conns_test

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/gateway/internal/conns"
	"github.com/tenantry/tenantry/services/internal/pgtest"
)

// A connection that makes room counts until the server is rid of it, however long it takes.
func TestAConnectionOnItsWayOutCountsUntilPostgreSQLHasEndedIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Server(t))
	first, second := s.tenant(t), s.tenant(t)
	first.Budget, second.Budget = 1, 1
	idle := func() bool {
		for _, stats := range s.pools.Stats() {
			return stats.Idle == 1
		}
		return false
	}
	c := s.acquire(t, first)
	pid, err := strconv.Atoi(ask(t, c.PgConn(), "SELECT pg_backend_pid()"))
	require.NoError(t, err)
	c.Release()
	require.Eventually(t, idle, time.Minute, time.Millisecond)

	// Its process does not get to what it is told.
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	granted := make(chan *conns.Conn, 1)
	go func() {
		c, err := s.pools.Acquire(t.Context(), second)
		if err != nil {
			t.Errorf("the second tenant: %v", err)
		}
		granted <- c
	}()
	select {
	case c := <-granted:
		t.Error("there were two at once")
		granted <- c
	case <-time.After(300 * time.Millisecond):
	}
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	if c := <-granted; c != nil {
		c.Release()
	}
}
