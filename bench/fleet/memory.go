package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/tenantry/tenantry/bench/harness"
)

const (
	// few is how many tenants the memory of a rollout to many is held against.
	few = 200
	// tiny is a core set of one table: databases of it are made quickly.
	tiny = "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL);\n"
	// perTiny is how much such a database takes.
	perTiny = 12 << 20
	// memoryRounds is how often.
	memoryRounds = 3
)

// measureMemory compares the most memory that the process holds over a rollout to many tenants with that over one to few.
// The process is `tenantry dev`: the provisioner, and the registry and the gateway that know as many tenants.
func measureMemory(ctx context.Context, b *bench) (err error) {
	many, err := b.fit(b.many, perTiny)
	if err != nil {
		return err
	}
	s, err := newSets(b.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	if err := os.Mkdir(s.core(), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.core(), "20260101000000_items.sql"), []byte(tiny), 0o600); err != nil {
		return err
	}
	if err := s.hash(ctx); err != nil {
		return err
	}
	r, err := b.start(ctx, "--spares", "0", "--migrations", s.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	companies, rate, err := r.crowd(ctx, many)
	if err != nil {
		return err
	}
	if err := b.report.Printf("  %d tenants signed up, %.1f a second\n", many, rate); err != nil {
		return err
	}
	peak := func(want int, some []string) (float64, error) {
		if _, err := s.add(ctx, 1); err != nil {
			return 0, err
		}
		time.Sleep(2 * time.Second)
		if err := r.ResetPeak(); err != nil {
			return 0, err
		}
		if _, err := r.rollOut(ctx, want, some); err != nil {
			return 0, err
		}
		bytes, err := r.PeakRSS()
		return float64(bytes) / 1e6, err
	}
	fewer := min(few, many)
	// The few come first: what many leave behind would hide in a peak that they began with.
	var with [2][]float64
	for range memoryRounds {
		mb, err := peak(fewer, companies[:fewer])
		if err != nil {
			return err
		}
		with[1] = append(with[1], mb)
		if mb, err = peak(many, nil); err != nil {
			return err
		}
		with[0] = append(with[0], mb)
	}
	c, err := harness.Compare("provisioner-memory", "MB", 1.25, true, memoryRounds, taken(with[0]), taken(with[1]))
	if err != nil {
		return err
	}
	return b.report.Add(c)
}
