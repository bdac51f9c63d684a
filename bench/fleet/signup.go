package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tenantry/tenantry/bench/harness"
)

const (
	// spares is how many databases are kept ready, more than a round takes.
	spares = 24
	// signups is how many companies a round signs up one after the other.
	signups = 16
	// crowded is how many companies a round signs up side by side.
	crowded = 64
	// password is an owner's. It is hashed by argon2id, which is slow by design.
	password = "correct horse battery staple"
)

// What is made is dropped at the end and not between rounds: ext4 looks through the inodes of files that were deleted in the
// last minutes before it makes new ones, which made both sides ten times as slow.

// measureSpares compares a signup that takes a spare database with PostgreSQL copying the same template.
func measureSpares(ctx context.Context, b *bench) (err error) {
	if _, err := b.fit(spares+2*(rounds+1)*signups, perDatabase); err != nil {
		return err
	}
	r, err := b.start(ctx, "--durable", "--spares", strconv.Itoa(spares))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	ready := func() error {
		for made := -1; made < spares+r.companies; {
			if err := r.Settle(ctx); err != nil {
				return err
			}
			names, err := r.Strings(ctx, `SELECT datname FROM pg_database WHERE datname LIKE 'tenant\_%'`)
			if err != nil {
				return err
			}
			made = len(names)
		}
		return nil
	}
	p50 := func(password string) func(int) (float64, error) {
		return func(int) (float64, error) {
			if err := ready(); err != nil {
				return 0, err
			}
			ms, err := r.sequential(ctx, signups, password)
			return harness.Median(ms), err
		}
	}
	if _, err := p50("")(0); err != nil { // Connections, plans and caches.
		return err
	}
	template, err := r.Template(ctx)
	if err != nil {
		return err
	}
	raw := func(round int) (float64, error) {
		if err := ready(); err != nil {
			return 0, err
		}
		names := peers(fmt.Sprintf("peer_%d", round), signups)
		ms, err := times(signups, func(i int) error { return r.clone(ctx, names[i], template) })
		return harness.Median(ms), err
	}
	c, err := harness.Compare("signup-spare-p50", "ms", 0.25, true, rounds, p50(""), raw)
	if err != nil {
		return err
	}
	if err := b.report.Add(c); err != nil {
		return err
	}
	withPassword, err := p50(password)(0)
	if err != nil {
		return err
	}
	return b.report.Printf("  with a password for the owner: p50 %.1f ms\n", withPassword)
}

// measureClones compares signups that find no spare, side by side, with PostgreSQL copying the same template side by side.
func measureClones(ctx context.Context, b *bench) (err error) {
	each, err := b.fit(2*rounds*crowded, perDatabase)
	if err != nil {
		return err
	}
	each /= 2 * rounds
	r, err := b.start(ctx, "--durable", "--spares", "0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	if _, _, err := r.crowd(ctx, atOnce); err != nil { // Connections, plans and caches, and the template.
		return err
	}
	template, err := r.Template(ctx)
	if err != nil {
		return err
	}
	c, err := harness.Compare("signup-clone-rate", "signups/s", 0.8, false, rounds, func(int) (float64, error) {
		if err := b.rest(ctx, r); err != nil {
			return 0, err
		}
		_, rate, err := r.crowd(ctx, each)
		return rate, err
	}, func(round int) (float64, error) {
		if err := b.rest(ctx, r); err != nil {
			return 0, err
		}
		names := peers(fmt.Sprintf("peer_%d", round), each)
		return rateOf(ctx, each, func(ctx context.Context, i int) error { return r.clone(ctx, names[i], template) })
	})
	if err != nil {
		return err
	}
	return b.report.Add(c)
}

// rest has what the round before left in memory written, so that this round does not pay for it.
func (b *bench) rest(ctx context.Context, r *rig) error {
	_, err := r.Admin.Exec(ctx, "CHECKPOINT")
	if err == nil {
		time.Sleep(time.Second)
	}
	return err
}

// peers are names of a peer's databases.
func peers(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s_%d", prefix, i)
	}
	return names
}
