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
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

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

// part is one thing that is measured; it reports some comparisons.
type part struct {
	name string
	// needs are programs of peers, each in the Debian package of its name.
	needs []string
	run   func(context.Context, *rig) error
}

// parts are in the order in which the later ones need more tenants.
func parts() []part {
	return []part{
		{"forward", []string{"nginx"}, measureForward},
		{"query-by-key", nil, measureQueryByKey},
		{"stream-1m", nil, measureStream},
		{"flood", nil, measureFlood},
		{"zipf-2000", []string{"pgbouncer"}, measureZipf},
		{"gateway-rss", nil, measureRSS},
		{"routes", nil, measureRoutes},
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	if len(args) > 0 {
		if role, ok := roles()[args[0]]; ok {
			return role(ctx, args[1:], out)
		}
	}
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	only := flags.String("only", "", "run these parts alone: "+strings.Join(names(parts()), ", "))
	binary := flags.String("binary", filepath.Join("bin", "tenantry"), "the tenantry to measure")
	results := flags.String("results", filepath.Join("bench", "results"), "directory of gateway.jsonl")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	report, err := harness.NewReport(out, *results, "gateway")
	if err != nil {
		return err
	}
	r := &rig{binary: *binary, report: report}
	defer func() { err = errors.Join(err, r.stop(), report.Close()) }()
	for _, p := range chosen {
		begun := time.Now()
		if err := r.report.Printf("\n%s\n", p.name); err != nil {
			return err
		}
		if err := p.run(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := r.report.Printf("  (%s took %.0f s)\n", p.name, time.Since(begun).Seconds()); err != nil {
			return err
		}
	}
	return nil
}

func names(ps []part) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.name)
	}
	return out
}

// choose returns the parts of a list of names, all for none, when their peers are here.
func choose(only string) ([]part, error) {
	all := parts()
	chosen := all
	if only != "" {
		chosen = nil
		for name := range strings.SplitSeq(only, ",") {
			i := slices.IndexFunc(all, func(p part) bool { return p.name == name })
			if i < 0 {
				return nil, fmt.Errorf("--only: got %q, want some of %s", name, strings.Join(names(all), ", "))
			}
			chosen = append(chosen, all[i])
		}
	}
	for _, p := range chosen {
		for _, program := range p.needs {
			if _, err := find(program); err != nil {
				return nil, fmt.Errorf("%s is compared with %s, which is not here: `make bench-deps` installs it (Debian's package %s), or choose others with --only",
					p.name, program, program)
			}
		}
	}
	return chosen, nil
}

// find returns where a peer's program is. Debian has it where only root looks.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", program))
}
