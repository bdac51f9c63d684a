package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/tenantry/tenantry/bench/harness"
)

const (
	floodCallers = 200
	quietTenants = 50
	floodRounds  = 5
	floodLasts   = 10 * time.Second
	warmUp       = 5 * time.Second
	// refusedPause is how long a caller of the flood who was refused does nothing: a client in a loop, not a busy one.
	refusedPause = 10 * time.Millisecond
)

// measureFlood has fifty tenants call once a second each, alone and while another tenant has 200 callers who never rest.
func measureFlood(ctx context.Context, r *rig) (err error) {
	tenants, err := r.need(ctx, quietTenants+1)
	if err != nil {
		return err
	}
	noisy, quiet := tenants[0], tenants[1:]
	g, conns, err := r.gatewayAndClients(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conns.close(), g.stop()) }()
	call := func(ctx context.Context, i int) error {
		return queryByKey(withToken(ctx, quiet[i].token), conns.sql(i), rand.Int64N(rowsEach)+1)
	}
	measure := func() (outcome, error) {
		o := pace(ctx, quietTenants, time.Second, floodLasts, call)
		if o.failed > 0 {
			return o, fmt.Errorf("%d of the quiet tenants' calls failed: %w", o.failed, o.err)
		}
		return o, nil
	}
	pace(ctx, quietTenants, time.Second, warmUp, call) // First connections are no part of it, nor the gateway's share of them, which grows with use.
	var alone, flooded outcome
	c, err := harness.Compare("flood", "ms p99", 3, true, floodRounds,
		func(int) (p99 float64, err error) {
			f, err := r.startFlood(flooding{Gateway: g.address, CA: r.system.Env["TENANTRY_CA"], Token: noisy.token, Callers: floodCallers})
			if err != nil {
				return 0, err
			}
			defer func() {
				err = errors.Join(err, f.stop(), r.report.Printf("  the flood: %s\n", strings.TrimSpace(f.said())))
			}()
			time.Sleep(time.Second) // It swells.
			o, err := measure()
			flooded.add(o)
			return o.quantile(0.99), err
		},
		func(int) (float64, error) {
			o, err := measure()
			alone.add(o)
			return o.quantile(0.99), err
		})
	if err != nil {
		return err
	}
	for _, side := range []struct {
		name string
		outcome
	}{{"flooded", flooded}, {"alone", alone}} {
		if err := r.report.Printf("  %-12s %d tenants: %d calls  p50 %6.3f ms  p99 %6.3f ms\n", side.name, quietTenants, len(side.millis), side.quantile(0.5), side.quantile(0.99)); err != nil {
			return err
		}
	}
	return r.report.Add(c)
}

func (r *rig) startFlood(f flooding) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	// They run when nobody else does: the flood's callers would be on other machines, and must not take the processors from
	// those whose waiting is measured. A running process could only lower the priority of one of its threads.
	return spawn(r.log("flood"), "chrt", nil, "--idle", "0", self, "flooder", string(text))
}
