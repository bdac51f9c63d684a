package budget

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	// keepEvery is how old the last answer on the disk may become before it is written again, and keepPart which part of a
	// lease at most, so that little of it is lost.
	keepEvery = 5 * time.Second
	keepPart  = 8
	// settle is how long shares that were on the disk wait: until PostgreSQL has noticed that the process that had them is
	// gone, for which it looks each second, and closed what that had open.
	settle = 2 * time.Second
)

// Saved is what has to be known of shares to go on with them after this process ended, however it did. Package snapshot
// says why they do not pass the budgets.
type Saved struct {
	// Answered is when the last heartbeat that the registry answered was sent.
	Answered time.Time
	// Lease is how long the shares are this gateway's own, counted from then.
	Lease time.Duration
	// Alone is the most of each share that is its own after that.
	Alone int
	// Forget is how long it has that, also counted from then.
	Forget time.Duration
	// Shares are the shares by cluster.
	Shares map[string]Share
}

// at is what is left of a share.
func (s Saved) at(now time.Time, share int) int {
	return terms{lease: s.Lease, forget: s.Forget, alone: s.Alone}.left(share, now.Sub(s.Answered))
}

// left is what silence of some time leaves of a share.
func (t terms) left(share int, silence time.Duration) int {
	switch {
	case silence < t.lease:
		return share
	case silence < t.forget:
		return min(share, t.alone)
	default:
		return 0
	}
}

// covers tells whether s gives no less than other, at any time.
func (s Saved) covers(other Saved) bool {
	if other.Answered.After(s.Answered) || other.Lease > s.Lease || other.Alone > s.Alone || other.Forget > s.Forget {
		return false
	}
	for name, share := range other.Shares {
		if share.Share > s.Shares[name].Share {
			return false
		}
	}
	return true
}

// onDisk are the shares that may be on the disk: those that were written last, and what was tried since.
type onDisk []Saved

// most is how many are kept apart; more than that are what most of them give at most.
const most = 16

// with is one more that may be there.
func (d onDisk) with(s Saved) onDisk {
	out := slices.DeleteFunc(slices.Clone(d), s.covers)
	if len(out) == most {
		for _, o := range out {
			s = either(s, o)
		}
		out = nil
	}
	return append(out, s)
}

// left is what whoever reads the disk would go on with, at most.
func (d onDisk) left(now time.Time) map[string]Share {
	left := map[string]Share{}
	for _, s := range d {
		for name, share := range s.Shares {
			if n := s.at(now, share.Share); n >= left[name].Share {
				left[name] = Share{Share: n, Budget: share.Budget}
			}
		}
	}
	return left
}

// either is no less than what a or b give at any time.
func either(a, b Saved) Saved {
	out := Saved{Answered: a.Answered, Lease: max(a.Lease, b.Lease), Alone: max(a.Alone, b.Alone), Forget: max(a.Forget, b.Forget), Shares: map[string]Share{}}
	if b.Answered.After(out.Answered) {
		out.Answered = b.Answered
	}
	for _, s := range []Saved{a, b} {
		for name, share := range s.Shares {
			out.Shares[name] = Share{Share: max(share.Share, out.Shares[name].Share), Budget: share.Budget}
		}
	}
	return out
}

// keep is what this gateway would go on with.
func (b *Budget) keep() Saved {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Saved{Answered: b.answered, Lease: b.terms.lease, Alone: b.terms.alone, Forget: b.terms.forget, Shares: maps.Clone(b.shares)}
}

// save has the shares written when they are others than on the disk, or that says nothing of a later answer. It does not
// wait, since shares have to end in time however slow the disk is; until it is done, the disk may have either.
func (b *Budget) save() {
	if b.cfg.Save == nil || b.saving != nil {
		return
	}
	now := b.keep()
	if now.Answered.IsZero() {
		return
	}
	if len(b.disk) == 1 && maps.Equal(now.Shares, b.disk[0].Shares) {
		if late := now.Answered.Sub(b.disk[0].Answered); late == 0 || late < min(keepEvery, now.Lease/keepPart) {
			return
		}
	}
	// A failed try is followed by the next as often as a heartbeat.
	if b.unsaved && time.Since(b.tried) < every {
		return
	}
	b.tried = time.Now()
	b.disk, b.pending = b.disk.with(now), now
	done := make(chan error, 1)
	b.saving = done
	go func() { done <- b.cfg.Save(now) }()
}

// saved takes in how a save ended.
func (b *Budget) saved(err error) {
	b.saving = nil
	b.note(err)
	if err == nil {
		b.disk = onDisk{b.pending}
	}
}

// note tells of the disk when it fails, once, and when it works again.
func (b *Budget) note(err error) {
	switch failed := err != nil; {
	case failed && !b.unsaved:
		b.cfg.Logger.Error("the shares of connection budgets cannot be written to disk; smaller ones are not given to others for as long as those there count", zap.Error(err))
	case !failed && b.unsaved:
		b.cfg.Logger.Info("the shares of connection budgets are on the disk again")
	}
	b.unsaved = err != nil
}

// resume goes on with what is left of the shares that were on the disk, if anything is. It tells whether there was time to.
func (b *Budget) resume(ctx context.Context) bool {
	if len(b.disk) == 0 || !slices.ContainsFunc(slices.Collect(maps.Values(b.disk.left(time.Now()))), func(s Share) bool { return s.Share > 0 }) {
		return true
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return false
	}
	s, shares := b.disk[0], b.disk.left(time.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = s.Answered
	b.terms = terms{lease: s.Lease, forget: s.Forget, alone: s.Alone}
	b.set(shares)
	b.cfg.Logger.Info("going on with the shares of connection budgets that were on the disk", zap.Duration("since", time.Since(s.Answered)), zap.Any("shares", shares))
	return true
}
