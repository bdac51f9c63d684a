// Command gateway measures what stands in a call's way: forwarding beside nginx, SQL beside pgx without anything between,
// many tenants on few connections beside PgBouncer, what a flood of one tenant does to others, and what known tenants
// cost. Each comparison runs both sides in this run, in alternating rounds, and takes medians.
//
//	go run ./bench/gateway [--only NAME,NAME] [--binary bin/tenantry] [--results bench/results]
//
// The gateway that is measured is a process of its own, as in production; the registry, the provisioner and PostgreSQL
// are those of a `tenantry dev` of this run. The machine's processors are shared by all of it and by what calls, for
// both sides alike.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenantry/tenantry/bench/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// parts are in the order in which the later ones need more tenants.
func parts() []harness.Part[*rig] {
	return []harness.Part[*rig]{
		{Name: "forward", Needs: []string{"nginx"}, Run: measureForward},
		{Name: "query-by-key", Run: measureQueryByKey},
		{Name: "stream-1m", Run: measureStream},
		{Name: "flood", Run: measureFlood},
		{Name: "zipf-2000", Needs: []string{"pgbouncer"}, Run: measureZipf},
		{Name: "gateway-rss", Run: measureRSS},
		{Name: "routes", Run: measureRoutes},
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	if len(args) > 0 {
		if role, ok := roles()[args[0]]; ok {
			return role(ctx, args[1:], out)
		}
	}
	var options harness.Options
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	options.Define(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := harness.Choose(parts(), options.Only)
	if err != nil {
		return err
	}
	report, err := harness.NewReport(out, options.Results, "gateway")
	if err != nil {
		return err
	}
	r := &rig{binary: options.Binary, report: report}
	defer func() { err = errors.Join(err, r.stop(), report.Close()) }()
	return harness.Run(ctx, out, chosen, r)
}
