package harness

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Part is one thing that is measured, with a rig of type R; it reports some comparisons.
type Part[R any] struct {
	Name string
	// Needs are programs of peers, each in the Debian package of its name.
	Needs []string
	Run   func(context.Context, R) error
}

// Options are what every command of benchmarks is told.
type Options struct {
	// Only are names of parts, with commas between; empty means all.
	Only string
	// Binary is the tenantry to measure.
	Binary string
	// Results is the directory of PART.jsonl.
	Results string
}

// Define makes flags of the options.
func (o *Options) Define(flags *flag.FlagSet) {
	flags.StringVar(&o.Only, "only", "", "run these parts alone, with commas between")
	flags.StringVar(&o.Binary, "binary", filepath.Join("bin", "tenantry"), "the tenantry to measure")
	flags.StringVar(&o.Results, "results", filepath.Join("bench", "results"), "directory of what was measured")
}

// Choose returns the parts of a list of names, all for none, when their peers are here.
func Choose[R any](parts []Part[R], only string) ([]Part[R], error) {
	chosen := parts
	if only != "" {
		chosen = nil
		for name := range strings.SplitSeq(only, ",") {
			i := slices.IndexFunc(parts, func(p Part[R]) bool { return p.Name == name })
			if i < 0 {
				var names []string
				for _, p := range parts {
					names = append(names, p.Name)
				}
				return nil, fmt.Errorf("--only: got %q, want some of %s", name, strings.Join(names, ","))
			}
			chosen = append(chosen, parts[i])
		}
	}
	for _, p := range chosen {
		for _, program := range p.Needs {
			if _, err := Find(program); err != nil {
				return nil, fmt.Errorf("%s is compared with %s, which is not here: `make bench-deps` installs it (Debian's package %s), or choose others with --only",
					p.Name, program, program)
			}
		}
	}
	return chosen, nil
}

// Run runs parts in their order and prints how long each took.
func Run[R any](ctx context.Context, out io.Writer, parts []Part[R], rig R) error {
	for _, p := range parts {
		begun := time.Now()
		if _, err := fmt.Fprintf(out, "\n%s\n", p.Name); err != nil {
			return err
		}
		if err := p.Run(ctx, rig); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if _, err := fmt.Fprintf(out, "  (%s took %.0f s)\n", p.Name, time.Since(begun).Seconds()); err != nil {
			return err
		}
	}
	return nil
}

// Find returns where a peer's program is. Debian has it where only root looks.
func Find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", program))
}
