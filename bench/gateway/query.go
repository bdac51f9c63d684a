package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenantry/tenantry/bench/harness"
	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/proto/packed"
)

const (
	byKey        = "SELECT id, name, value FROM items WHERE id = $1"
	queryCallers = 32
	queryRounds  = 5
	queryLasts   = 2 * time.Second

	streamed     = 1_000_000
	everything   = "SELECT id, name, value FROM big"
	streamRounds = 3
)

// central connects to the registry's database.
func (r *rig) central(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, r.system.Env["TENANTRY_REGISTRY_DSN"])
}

// queryByKey reads one row through the gateway, and makes sure that it is that row.
func queryByKey(ctx context.Context, client gatewayv1.SqlServiceClient, id int64) error {
	key := strconv.FormatInt(id, 10)
	rows, got := 0, ""
	err := query(ctx, client, &gatewayv1.QueryRequest{Sql: byKey, Params: []*gatewayv1.Value{{Value: &gatewayv1.Value_Text{Text: key}}}}, func(row *gatewayv1.Row) {
		rows++
		got = row.GetValues()[0].GetText()
	})
	if err == nil && (rows != 1 || got != key) {
		err = fmt.Errorf("got %d rows, the last with id %q, want the one of %s", rows, got, key)
	}
	return err
}

// query hands each row of a whole result to a function.
func query(ctx context.Context, client gatewayv1.SqlServiceClient, q *gatewayv1.QueryRequest, each func(*gatewayv1.Row)) error {
	return messages(ctx, client, q, func(m *gatewayv1.QueryResponse) error {
		for _, row := range m.GetRows() {
			each(row)
		}
		return nil
	})
}

// messages hands each message of a result to a function.
func messages(ctx context.Context, client gatewayv1.SqlServiceClient, q *gatewayv1.QueryRequest, each func(*gatewayv1.QueryResponse) error) error {
	stream, err := client.Query(ctx, q)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

// direct is a pool of connections to a tenant's database with nothing between, one for each caller.
func (r *rig) direct(ctx context.Context, t tenant) (*pgxpool.Pool, error) {
	dsn, err := r.system.DSN(t.database)
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = queryCallers
	return pgxpool.NewWithConfig(ctx, cfg)
}

// measureQueryByKey reads single rows through the gateway, with a token and TLS, and with pgx without anything between,
// with prepared statements and neither.
func measureQueryByKey(ctx context.Context, r *rig) (err error) {
	tenants, err := r.need(ctx, 1)
	if err != nil {
		return err
	}
	t := tenants[0]
	g, conns, err := r.gatewayAndClients(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conns.close(), g.stop()) }()
	pool, err := r.direct(ctx, t)
	if err != nil {
		return err
	}
	defer pool.Close()
	var all [2]outcome
	measure := func(side int, call func(ctx context.Context, i int) error) func(int) (float64, error) {
		return func(int) (float64, error) {
			o := load(ctx, queryCallers, queryLasts, call)
			all[side].add(o)
			if o.failed > 0 {
				return 0, fmt.Errorf("%d calls failed: %w", o.failed, o.err)
			}
			return o.perSecond(), nil
		}
	}
	here := func(ctx context.Context, i int) error {
		return queryByKey(withToken(ctx, t.token), conns.sql(i), rand.Int64N(rowsEach)+1)
	}
	peer := func(ctx context.Context, _ int) error {
		var id int64
		var name, value string
		want := rand.Int64N(rowsEach) + 1
		err := pool.QueryRow(ctx, byKey, want).Scan(&id, &name, &value)
		if err == nil && id != want {
			err = fmt.Errorf("got row %d, want %d", id, want)
		}
		return err
	}
	for _, call := range []func(context.Context, int) error{here, peer} { // Connections and plans are made.
		if o := load(ctx, queryCallers, queryLasts/4, call); o.failed > 0 {
			return o.err
		}
	}
	c, err := harness.Compare("query-by-key", "queries/s", 0.5, false, queryRounds, measure(0, here), measure(1, peer))
	if err != nil {
		return err
	}
	for i, name := range []string{"gateway", "pgx direct"} {
		if err := r.report.Printf("  %-12s %d callers: p50 %6.3f ms  p99 %6.3f ms\n", name, queryCallers, all[i].quantile(0.5), all[i].quantile(0.99)); err != nil {
			return err
		}
	}
	return r.report.Add(c)
}

// gatewayAndClients starts a gateway and connects to it.
func (r *rig) gatewayAndClients(ctx context.Context) (*service, clients, error) {
	g, err := r.gateway(ctx, r.system.Env["TENANTRY_REGISTRY"])
	if err != nil {
		return nil, nil, err
	}
	conns, err := dialMany(g.address, r.system.Env["TENANTRY_CA"], clientConns)
	if err != nil {
		return nil, nil, errors.Join(err, g.stop())
	}
	return g, conns, nil
}

// measureStream reads a million packed rows to the last value, which both sides have as a string each: PostgreSQL's text. It
// also tells what they cost as messages, and by how much the gateway grew meanwhile.
func measureStream(ctx context.Context, r *rig) (err error) {
	tenants, err := r.need(ctx, 1)
	if err != nil {
		return err
	}
	t := tenants[0]
	pool, err := r.direct(ctx, t)
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, sql := range []string{"DROP TABLE IF EXISTS big", "CREATE TABLE big (id bigint, name text, value text)", "GRANT SELECT ON big TO tenantry_tenant",
		fmt.Sprintf("INSERT INTO big SELECT g, 'item ' || g, repeat('v', 60) FROM generate_series(1, %d) g", streamed), "VACUUM ANALYZE big"} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	g, conns, err := r.gatewayAndClients(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conns.close(), g.stop()) }()
	if err := queryByKey(withToken(ctx, t.token), conns.sql(0), 1); err != nil {
		return err
	}
	before, err := g.memory("VmRSS")
	if err != nil {
		return err
	}
	if err := g.resetPeak(); err != nil {
		return err
	}
	c, err := harness.Compare("stream-1m", "MB/s", 0.5, false, streamRounds,
		rate(func(keep func(string)) (rows int, err error) {
			err = messages(withToken(ctx, t.token), conns.sql(0), &gatewayv1.QueryRequest{Sql: everything, Packed: true}, func(m *gatewayv1.QueryResponse) error {
				for row, err := range packed.Rows(m.GetPackedRows()) {
					if err != nil {
						return err
					}
					rows++
					for _, v := range row {
						keep(string(v))
					}
				}
				return nil
			})
			return rows, err
		}),
		rate(func(keep func(string)) (int, error) {
			rows, err := pool.Query(ctx, everything, pgx.QueryResultFormats{pgx.TextFormatCode})
			if err != nil {
				return 0, err
			}
			defer rows.Close()
			count := 0
			for rows.Next() {
				count++
				for _, raw := range rows.RawValues() {
					keep(string(raw))
				}
			}
			return count, rows.Err()
		}))
	if err != nil {
		return err
	}
	peak, err := g.memory("VmHWM")
	if err != nil {
		return err
	}
	unpacked, err := rate(func(keep func(string)) (rows int, err error) {
		err = query(withToken(ctx, t.token), conns.sql(0), &gatewayv1.QueryRequest{Sql: everything}, func(row *gatewayv1.Row) {
			rows++
			for _, v := range row.GetValues() {
				keep(v.GetText())
			}
		})
		return rows, err
	})(0)
	if err != nil {
		return err
	}
	if err := r.report.Printf("  with a message for each row and value: %.1f MB/s\n", unpacked); err != nil {
		return err
	}
	return errors.Join(r.report.Add(c), r.report.Add(limited("stream-1m-memory", "MB growth", 64, (peak-before)/1e6)))
}

// rate is how many megabytes of values come in a second.
func rate(read func(keep func(string)) (int, error)) func(int) (float64, error) {
	return func(int) (float64, error) {
		bytes, last := 0, ""
		begun := time.Now()
		rows, err := read(func(v string) { bytes += len(v); last = v })
		took := time.Since(begun)
		if err == nil && (rows != streamed || last == "") {
			err = fmt.Errorf("got %d rows, want %d", rows, streamed)
		}
		return float64(bytes) / 1e6 / took.Seconds(), err
	}
}
