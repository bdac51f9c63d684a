// Command fleet measures what Tenantry exists for: companies that sign up, beside PostgreSQL's own CREATE DATABASE with
// nothing around it, and fleets that are migrated, beside a bare loop over pgx and beside the Atlas CLI. Each comparison
// runs both sides in this run, in alternating rounds, and takes medians.
//
//	go run ./bench/fleet [--only NAME,NAME] [--tenants 500] [--many 2000] [--binary bin/tenantry] [--atlas bin/atlas] [--results bench/results]
//
// Everything runs on this machine and shares its processors, for both sides alike: the three services are those of one
// `tenantry dev`, with a PostgreSQL of their own, which the peers use, too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/tenantry/tenantry/bench/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

// bench is what the parts measure with. Each part starts a system of its own.
type bench struct {
	binary, atlas string
	report        *harness.Report
	// tenants is how many a rollout goes to; many is how many the provisioner's memory is looked at with.
	tenants, many int
}

func parts() []harness.Part[*bench] {
	return []harness.Part[*bench]{
		{Name: "signup-spare", Run: measureSpares},
		{Name: "signup-clone", Run: measureClones},
		{Name: "rollout", Run: measureRollouts},
		{Name: "provisioner-memory", Run: measureMemory},
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var options harness.Options
	var b bench
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	options.Define(flags)
	flags.StringVar(&b.atlas, "atlas", filepath.Join("bin", "atlas"), "the Atlas CLI to compare with")
	flags.IntVar(&b.tenants, "tenants", 500, "tenants that a rollout goes to")
	flags.IntVar(&b.many, "many", 2000, "tenants with which the provisioner's memory is looked at")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if b.tenants < 10 || b.many < 10 {
		return fmt.Errorf("--tenants and --many: got %d and %d, want 10 or more", b.tenants, b.many)
	}
	b.binary = options.Binary
	chosen, err := harness.Choose(parts(), options.Only)
	if err != nil {
		return err
	}
	if b.report, err = harness.NewReport(out, options.Results, "fleet"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.report.Close()) }()
	return harness.Run(ctx, out, chosen, &b)
}
