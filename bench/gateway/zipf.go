package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/bench/harness"
)

const (
	zipfTenants = 2000
	zipfCallers = 64
	zipfRounds  = 3
	zipfWarm    = 3 * time.Second
	zipfLasts   = 6 * time.Second
	// zipfSkew makes the most wanted of 2,000 tenants a sixth of all calls, and half of the tenants a tenth.
	zipfSkew = 1.1
	// bytesEach is what a tenant's database takes on the disk, with some room.
	bytesEach = 8 << 20
)

// zipfCall reads a row of one of the tenants.
type zipfCall func(ctx context.Context, tenant int) error

// zipfSide is one way to 2,000 tenants' databases.
type zipfSide struct {
	name string
	// roles are the login roles of its server connections, as a LIKE pattern.
	roles string
	start func(context.Context) (call zipfCall, stop func() error, err error)
	all   outcome
	// most is how many server connections were seen at once.
	most          int
	p50, p99, per []float64
}

// measureZipf has 64 callers read rows of 2,000 tenants, some tenants far more often than others, over 100 server
// connections, by way of the gateway and by way of PgBouncer.
func measureZipf(ctx context.Context, r *rig) (err error) {
	if err := r.start(ctx); err != nil {
		return err
	}
	free, err := harness.FreeBytes(r.system.Dir)
	if err != nil {
		return err
	}
	if want := int64(zipfTenants-len(r.tenants)) * bytesEach; free < want {
		return fmt.Errorf("%s has %d GB free, and %d databases need %d GB: set TMPDIR", r.system.Dir, free>>30, zipfTenants, want>>30)
	}
	begun := time.Now()
	tenants, err := r.need(ctx, zipfTenants)
	if err != nil {
		return err
	}
	if err := r.report.Printf("  %d tenants, made in %.0f s\n", zipfTenants, time.Since(begun).Seconds()); err != nil {
		return err
	}
	here := &zipfSide{name: "gateway", roles: `tenant\_%`, start: func(ctx context.Context) (zipfCall, func() error, error) { return r.zipfHere(ctx, tenants) }}
	peer := &zipfSide{name: "PgBouncer", roles: bouncerRole, start: func(ctx context.Context) (zipfCall, func() error, error) {
		b, err := r.startBouncer(ctx, tenants)
		if err != nil {
			return nil, nil, err
		}
		return b.call, b.stop, nil
	}}
	for round := range zipfRounds {
		for _, side := range []*zipfSide{here, peer} {
			if err := side.turn(ctx, r, uint64(round)); err != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
		}
	}
	return reportZipf(r, here, peer)
}

func (r *rig) zipfHere(ctx context.Context, tenants []tenant) (zipfCall, func() error, error) {
	g, conns, err := r.gatewayAndClients(ctx)
	if err != nil {
		return nil, nil, err
	}
	var next atomic.Int64
	call := func(ctx context.Context, t int) error {
		return queryByKey(withToken(ctx, tenants[t].token), conns.sql(int(next.Add(1))), rand.Int64N(rowsEach)+1)
	}
	return call, func() error { return errors.Join(conns.close(), g.stop()) }, nil
}

// turn starts one side, warms it, measures it and stops it: the server has no room for the connections of both.
func (s *zipfSide) turn(ctx context.Context, r *rig, seed uint64) (err error) {
	call, stop, err := s.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop(), s.gone(ctx, r)) }()
	watching, unwatch := context.WithCancel(ctx)
	var watch sync.WaitGroup
	var watchErr error
	watch.Go(func() {
		for watching.Err() == nil && watchErr == nil {
			var n int
			n, watchErr = s.connections(ctx, r)
			s.most = max(s.most, n)
			time.Sleep(25 * time.Millisecond)
		}
	})
	zipfs := make([]*rand.Zipf, zipfCallers)
	for i := range zipfs {
		// The same tenants in the same order for both sides.
		zipfs[i] = rand.NewZipf(rand.New(rand.NewPCG(uint64(i), seed)), zipfSkew, 1, zipfTenants-1)
	}
	for _, lasts := range []time.Duration{zipfWarm, zipfLasts} {
		o := load(ctx, zipfCallers, lasts, func(ctx context.Context, i int) error { return call(ctx, int(zipfs[i].Uint64())) })
		if lasts == zipfLasts {
			s.all.add(o)
			s.per, s.p50, s.p99 = append(s.per, o.perSecond()), append(s.p50, o.quantile(0.5)), append(s.p99, o.quantile(0.99))
		}
	}
	unwatch()
	watch.Wait()
	return watchErr
}

// connections is how many server connections it has now.
func (s *zipfSide) connections(ctx context.Context, r *rig) (n int, err error) {
	err = r.system.Admin.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE $1", s.roles).Scan(&n)
	return n, err
}

// gone waits until the server has noticed that its connections have ended.
func (s *zipfSide) gone(ctx context.Context, r *rig) error {
	for {
		if n, err := s.connections(ctx, r); n == 0 || err != nil {
			return err
		}
		time.Sleep(25 * time.Millisecond)
	}
}

func reportZipf(r *rig, here, peer *zipfSide) error {
	for _, s := range []*zipfSide{here, peer} {
		if err := r.report.Printf("  %-12s %d callers: %7.0f/s  p50 %7.3f ms  p99 %7.3f ms  longest %7.0f ms  %d of %d calls failed (%v)  most server connections %d\n",
			s.name, zipfCallers, harness.Median(s.per), harness.Median(s.p50), harness.Median(s.p99), s.all.quantile(1), s.all.failed, s.all.failed+len(s.all.millis), s.all.err, s.most); err != nil {
			return err
		}
	}
	answered := func(s *zipfSide) []float64 {
		return []float64{float64(len(s.all.millis)) / float64(len(s.all.millis)+s.all.failed)}
	}
	whole := compared("zipf-2000-answered", "share", 1, false, answered(here), answered(peer))
	whole.Met = here.all.failed == 0
	for _, c := range []harness.Comparison{
		whole,
		limited("zipf-2000-connections", "at most", budget, float64(here.most)),
		compared("zipf-2000-p50", "ms", 1, true, here.p50, peer.p50),
		compared("zipf-2000-p99", "ms", 1, true, here.p99, peer.p99),
		compared("zipf-2000", "queries/s", 1, false, here.per, peer.per),
	} {
		if err := r.report.Add(c); err != nil {
			return err
		}
	}
	return nil
}

// bouncer is PgBouncer with its clients: an application that keeps its connections open, as many to each tenant's
// database as it has needed at once.
type bouncer struct {
	*child
	address string
	tenants []tenant
	mu      sync.Mutex
	idle    [][]*pgx.Conn
}

func (b *bouncer) call(ctx context.Context, t int) (err error) {
	c, err := b.take(ctx, t)
	if err != nil {
		return err
	}
	var id int64
	var name, value string
	want := rand.Int64N(rowsEach) + 1
	if err := c.QueryRow(ctx, byKey, want).Scan(&id, &name, &value); err != nil {
		return errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	b.mu.Lock()
	b.idle[t] = append(b.idle[t], c)
	b.mu.Unlock()
	if id != want {
		return fmt.Errorf("got row %d, want %d", id, want)
	}
	return nil
}

func (b *bouncer) take(ctx context.Context, t int) (*pgx.Conn, error) {
	b.mu.Lock()
	if n := len(b.idle[t]); n > 0 {
		c := b.idle[t][n-1]
		b.idle[t] = b.idle[t][:n-1]
		b.mu.Unlock()
		return c, nil
	}
	b.mu.Unlock()
	// Unnamed statements: this PgBouncer knows no prepared ones when it pools by transaction.
	return pgx.Connect(ctx, fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable&default_query_exec_mode=exec", bouncerRole, b.address, b.tenants[t].database))
}

func (b *bouncer) stop() error {
	for _, conns := range b.idle {
		for _, c := range conns {
			_ = c.Close(context.Background()) // PgBouncer ends in a moment.
		}
	}
	// Its answer to SIGTERM is to end with 1.
	if err := b.child.stop(); b.cmd.ProcessState.ExitCode() != 1 {
		return err
	}
	return nil
}
