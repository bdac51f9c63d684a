package e2e

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// census counts tenants' connections on a server for as long as it runs.
type census struct {
	stop      context.CancelFunc
	group     sync.WaitGroup
	now, most atomic.Int64
	looks     atomic.Int64
}

func (a *apart) count() *census {
	a.t.Helper()
	ctx, stop := context.WithCancel(a.t.Context())
	c := &census{stop: stop}
	watcher := a.asAdmin("postgres")
	c.group.Go(func() {
		for ctx.Err() == nil {
			if err := c.look(ctx, watcher); err != nil && ctx.Err() == nil {
				a.t.Errorf("nobody counts the connections: %v", err)
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	a.t.Cleanup(c.end)
	return c
}

func (c *census) look(ctx context.Context, watcher *pgx.Conn) error {
	var n int64
	if err := watcher.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'tenant\_%'`).Scan(&n); err != nil {
		return err
	}
	c.now.Store(n)
	c.looks.Add(1)
	if n > c.most.Load() {
		c.most.Store(n)
	}
	return nil
}

func (c *census) end() {
	c.stop()
	c.group.Wait()
}

func TestGatewaysThatComeGoAndDieUnderLoadNeverPassTheBudgetTogether(t *testing.T) {
	t.Parallel()
	const budget = 12
	first, second, third := "TENANTRY_GATEWAY", "TENANTRY_SECOND_GATEWAY", "TENANTRY_THIRD_GATEWAY"
	a := newApart(t)
	a.env[third] = freeAddress(t)
	// A dead gateway gives its share back after these, and the five seconds that PostgreSQL has to end a statement.
	a.registryArgs = append(a.registryArgs, "--gateway-lease", "2s")
	a.env["TENANTRY_STATEMENT_TIMEOUT"], a.env["TENANTRY_TRANSACTION_TIMEOUT"] = "2s", "2s"
	a.everything(budget, first)
	known := a.customers(8)
	counted := a.count()
	all := a.load(first, 2, known...)
	all.answers(t, 200)

	// Two come.
	leaver, victim := a.gateway(second), a.gateway(third)
	leaving, doomed := a.load(second, 2, known...), a.load(third, 2, known...)
	leaving.answers(t, 200)
	doomed.answers(t, 200)

	// One goes, and comes again.
	leaving.end()
	leaving.requireNone(t, "its gateway is there")
	leaver.terminate()
	require.Zero(t, leaver.wait(t), leaver.output())
	all.answers(t, 100)
	leaver = a.gateway(second)
	again := a.load(second, 2, known...)
	again.answers(t, 200)

	// One dies, and the others get what it had but the two connections that a gateway keeps that nobody hears.
	const reserve, alone = 1, 2
	a.requireShares(func(shares map[string]int) bool {
		return shares[third] >= 3 && shares[first]+shares[second]+shares[third] == budget-reserve
	}, "each has about a third")
	doomed.requireNone(t, "its gateway is there")
	killed := time.Now()
	victim.kill()
	victim.wait(t)
	doomed.end()
	for _, f := range doomed.failures() {
		require.False(t, f.ended.Before(killed), "%v", f.err)
		require.True(t, fault.HasReason(f.err, fault.Unavailable), "%v", f.err)
	}
	a.requireShares(func(shares map[string]int) bool { return shares[first]+shares[second] == budget-alone-reserve }, "two have what three had")
	// Connections that are being made are not counted yet, and those of calls that take no time are seldom all there.
	lingering := []*traffic{a.loadOf(first, 2, customer.lingers, known...), a.loadOf(second, 2, customer.lingers, known...)}
	require.Eventually(t, func() bool { return counted.now.Load() >= budget-alone-reserve }, patience, time.Millisecond, "and use it")
	for _, calls := range lingering {
		calls.end()
	}
	t.Logf("the others had a dead gateway's connections %v later", time.Since(killed))

	// It is started again.
	victim = a.gateway(third)
	back := a.load(third, 2, known...)
	back.answers(t, 200)
	for _, calls := range []*traffic{all, again, back} {
		calls.answers(t, 100)
	}
	for _, calls := range []*traffic{all, again, back} {
		calls.end()
		calls.requireNone(t, "its gateway is there")
	}
	for _, p := range []*process{leaver, victim} {
		p.terminate()
		require.Zero(t, p.wait(t), p.output())
	}
	counted.end()
	t.Logf("at most %d connections at once, in %d counts", counted.most.Load(), counted.looks.Load())
	require.LessOrEqual(t, counted.most.Load(), int64(budget))
	require.GreaterOrEqual(t, counted.most.Load(), int64(budget-reserve), "the budget is used")
}

// requireShares waits until the shares that gateways were told of late, by their names, are as they should be.
func (a *apart) requireShares(as func(shares map[string]int) bool, why string) {
	a.t.Helper()
	central := a.connect(a.env["TENANTRY_REGISTRY_DSN"])
	shares := map[string]int{}
	ok := func() bool {
		rows, err := central.Query(a.t.Context(), "SELECT instance, share FROM gateway_leases l JOIN gateway_shares ON lease_id = l.id ORDER BY l.created_at")
		require.NoError(a.t, err)
		clear(shares)
		var name string
		var share int
		_, err = pgx.ForEachRow(rows, []any{&name, &share}, func() error { shares[name] = share; return nil })
		require.NoError(a.t, err)
		return as(shares)
	}
	for begun := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		require.Less(a.t, time.Since(begun), patience, "%s: %v", why, shares)
	}
}
