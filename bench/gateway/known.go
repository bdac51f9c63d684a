package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/bench/harness"
	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// knownTenants is how many tenants a gateway knows of whom nobody calls.
const knownTenants = 10_000

// measureRSS fills the central database with companies that nobody calls, and looks at how much memory a gateway needs
// that has just learnt of them. The registry that tells it is a new process, too: what the first may remember of its
// routes it has from changes that go through it, and these rows do not.
func measureRSS(ctx context.Context, r *rig) (err error) {
	if err := r.start(ctx); err != nil {
		return err
	}
	central, err := r.central(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = central.Close(context.WithoutCancel(ctx)) }() // All was committed.
	var known int
	if err := central.QueryRow(ctx, "SELECT count(*) FROM tenant_databases").Scan(&known); err != nil {
		return err
	}
	if _, err := central.Exec(ctx, `WITH made AS (
			INSERT INTO companies (id, slug, name, state, route_version)
			SELECT gen_random_uuid(), 'simulated-' || g, 'Simulated ' || g, 'ACTIVE', 1 FROM generate_series(1, $1) g RETURNING id
		) INSERT INTO tenant_databases (id, company_id, cluster, schema_version) SELECT gen_random_uuid(), id, (SELECT min(name) FROM clusters), '0001' FROM made`,
		max(0, knownTenants-known)); err != nil {
		return err
	}
	registry, err := r.serve(ctx, "registry", "--signing-key", r.key("access.pem"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	g, err := r.gateway(ctx, registry.address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	if err := r.isKnown(ctx, central, g); err != nil {
		return err
	}
	var figures []float64
	for range 3 {
		time.Sleep(time.Second)
		rss, err := g.memory("VmRSS")
		if err != nil {
			return err
		}
		figures = append(figures, rss/1e6)
	}
	peak, err := g.memory("VmHWM")
	if err != nil {
		return err
	}
	if err := r.report.Printf("  %d tenants known, none active; at its peak it held %.1f MB\n", max(known, knownTenants), peak/1e6); err != nil {
		return err
	}
	return r.report.Add(limited("gateway-rss", "MB", 64, figures...))
}

// isKnown makes sure that a gateway knows one of the companies that nobody calls: one that knew none would be small.
func (r *rig) isKnown(ctx context.Context, central *pgx.Conn, g *service) (err error) {
	var company, slug string
	if err := central.QueryRow(ctx, "SELECT id::text, slug FROM companies WHERE slug LIKE 'simulated-%' ORDER BY random() LIMIT 1").Scan(&company, &slug); err != nil {
		return err
	}
	token, err := r.signer.access(company)
	if err != nil {
		return err
	}
	conns, err := dialMany(g.address, r.system.Env["TENANTRY_CA"], 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conns.close()) }()
	got, err := gatewayv1.NewWhoAmIServiceClient(conns[0]).WhoAmI(withToken(ctx, token), &gatewayv1.WhoAmIRequest{})
	if err == nil && got.GetSlug() != slug {
		err = fmt.Errorf("got %v, want the company %s", got, slug)
	}
	return err
}

// routesPackage has the benchmarks of the gateway's replica, at a million tenants.
const routesPackage = "github.com/tenantry/tenantry/services/gateway/internal/routes"

// measureRoutes runs the replica's own benchmarks, of a million tenants, and holds what they say against the goals.
func measureRoutes(ctx context.Context, r *rig) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark(ByID|TwoLoads|Memory|Snapshot)$", "-benchmem", "-count", "3", "-timeout", "5m", routesPackage)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test: %w\n%s%s", err, out, said.String())
	}
	figures := parseBenchmarks(string(out))
	figure := func(benchmark, unit string) ([]float64, error) {
		got := figures[benchmark+" "+unit]
		if len(got) == 0 {
			return nil, fmt.Errorf("routes: Benchmark%s tells no %s:\n%s", benchmark, unit, out)
		}
		return got, nil
	}
	for _, want := range []struct {
		name, benchmark, unit string
		limit                 float64
	}{
		{"route-lookup", "ByID", "ns/op", 200},
		{"route-lookup-allocs", "ByID", "allocs/op", 0},
		{"route-memory", "Memory", "B/tenant", 300},
		{"snapshot-load", "Snapshot", "s/snapshot", 10},
	} {
		got, err := figure(want.benchmark, want.unit)
		if err != nil {
			return err
		}
		c := limited(want.name, want.unit, want.limit, got...)
		if want.limit == 0 {
			// A ratio to nothing says nothing; one more than what is wanted does.
			c.Ratio = (c.Here + 1) / (c.Peer + 1)
			c.Met = harness.Median(got) == 0
		}
		if err := r.report.Add(c); err != nil {
			return err
		}
	}
	// The machine's memory decides, and two loads from it are what no look-up could save.
	loads, err := figure("TwoLoads", "ns/op")
	if err != nil {
		return err
	}
	return r.report.Add(compared("route-lookup-vs-memory", "ns/op", 2, true, figures["ByID ns/op"], loads))
}

// parseBenchmarks returns the figures of each benchmark and unit, as `Lookup ns/op`.
func parseBenchmarks(out string) map[string][]float64 {
	figures := map[string][]float64{}
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // The number of processors.
		}
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				figures[name+" "+fields[i+1]] = append(figures[name+" "+fields[i+1]], v)
			}
		}
	}
	return figures
}
