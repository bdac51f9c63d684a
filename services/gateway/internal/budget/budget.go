// Package budget keeps this gateway's shares of the clusters' connection budgets, which it has in common with the other
// gateways: it tells the registry each second how it uses them, and sets those that the registry answers with.
//
// While the registry is away the shares stay for as long as they are leased; then a little of each is left, and after a
// long time nothing. That is counted from when the last heartbeat that was answered was sent, and so it always comes before
// the registry gives the same connections to others.
//
// With Config.Save that outlasts the process: what it writes is what another may go on with, by the same rule, and the
// registry is told of no smaller share than that.
package budget

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/conns"
)

const (
	// every is how often a heartbeat is sent when there is nothing new.
	every = time.Second
	// soonest is how long after the last one it is sent when there is: calls wait, or what others may wait for is free.
	soonest = 200 * time.Millisecond
	// look is how often it is looked whether there is something new.
	look = 50 * time.Millisecond
	// patience is how long the registry has to answer.
	patience = 2 * time.Second
)

// Registry is what answers heartbeats.
type Registry interface {
	Heartbeat(ctx context.Context, r *registryv1.HeartbeatRequest, opts ...grpc.CallOption) (*registryv1.HeartbeatResponse, error)
}

// Pools is what has the connections.
type Pools interface {
	// SetShare sets how many there may be to a cluster.
	SetShare(cluster string, share int)
	// Stats tells how each cluster's are used.
	Stats() map[string]conns.Stats
}

// Config is what a Budget needs.
type Config struct {
	// Registry answers heartbeats.
	Registry Registry
	// Pools keep to the shares; they have nothing until there are some.
	Pools Pools
	// Instance names this gateway among those that live.
	Instance string
	// Saved is what Save wrote in the process before, none where it is nil. Its time is not in the future. What is left of it
	// counts two seconds after the start, and nothing is asked of the registry before.
	Saved *Saved
	// Save writes shares for the process after this one, which may go on with them once it returned, and while it has not, or
	// failed, with these or those before. Nil means that they end with the process. It is called by one goroutine at a time.
	Save func(Saved) error
	// LongestCall is how long a connection may be in use after its share has shrunk.
	LongestCall time.Duration
	// Logger gets the logs; nil means silence.
	Logger *zap.Logger
}

// Share is this gateway's part of a cluster's budget.
type Share struct {
	// Share is how many connections this gateway may have.
	Share int
	// Budget is how many all gateways together may have.
	Budget int
}

// Budget is the shares. Run it, and Leave when all connections are closed.
type Budget struct {
	cfg   Config
	lease uuid.UUID

	// Run's, and then Leave's.
	beat  int64
	told  map[string]use // what the registry knows
	terms terms
	away  bool // the last heartbeat was not answered

	disk    onDisk       // what whoever reads the disk now may go on with
	pending Saved        // what is being written
	saving  <-chan error // tells when that ended; nil when nothing is being written
	unsaved bool         // the last one could not be
	tried   time.Time    // when it began

	mu       sync.Mutex
	shares   map[string]Share
	answered time.Time // when the last heartbeat that was answered was sent
}

// use is how a cluster's share is used.
type use struct{ share, open, used, waiting, warm int }

// held is how many connections the registry counts as this gateway's, if it knows that.
func (u use) held() int { return max(u.share, u.open) }

// demand is how many connections are wanted.
func (u use) demand() int { return u.used + u.waiting }

// terms are how long shares last.
type terms struct {
	lease, forget time.Duration
	alone         int
}

// New returns a Budget that has no shares yet.
func New(cfg Config) *Budget {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	b := &Budget{cfg: cfg, lease: uuid.New(), told: map[string]use{}, shares: map[string]Share{}}
	if cfg.Saved != nil {
		// The wall clock is asked once; then time passes as it does for a process's own lease.
		saved := *cfg.Saved
		saved.Answered = time.Now().Add(-time.Since(saved.Answered))
		b.disk = onDisk{saved}
	}
	return b
}

// Shares are what this gateway has of each cluster's budget.
func (b *Budget) Shares() map[string]Share {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]Share, len(b.shares))
	for name, s := range b.shares {
		all[name] = s
	}
	return all
}

// Age is how long ago the last heartbeat that the registry answered was sent; negative before there was one.
func (b *Budget) Age() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answered.IsZero() {
		return -1
	}
	return time.Since(b.answered)
}

// Run sends heartbeats until the context ends.
func (b *Budget) Run(ctx context.Context) {
	if !b.resume(ctx) {
		return
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	var last time.Time
	for {
		b.expire()
		b.save()
		uses := b.uses()
		if since := time.Since(last); since >= every || since >= soonest && b.urgent(uses) {
			last = time.Now()
			b.send(ctx, uses, false)
			b.expire()
		}
		select {
		case <-tick.C:
		case err := <-b.saving:
			b.saved(err)
		case <-ctx.Done():
			if b.saving != nil {
				b.saved(<-b.saving)
			}
			return
		}
	}
}

// Leave gives all shares back. Call it when Run has ended and there are no connections any more. Where the registry is
// away, the shares end by themselves, or the next process goes on with those that were saved.
func (b *Budget) Leave(ctx context.Context) {
	if b.beat == 0 {
		return
	}
	if b.cfg.Save != nil {
		// Once the registry may have heard that they are given back, nobody may go on with them.
		if b.away {
			return
		}
		if err := b.cfg.Save(Saved{}); err != nil {
			b.note(err)
			return
		}
	}
	b.send(ctx, nil, true)
}

// uses is how the shares are used now. A share is no less than what is on the disk.
func (b *Budget) uses() map[string]use {
	uses := map[string]use{}
	for name, s := range b.cfg.Pools.Stats() {
		uses[name] = use{open: s.Open, used: s.Used, waiting: s.Waiting, warm: s.Warm}
	}
	for name, s := range b.Shares() {
		u := uses[name]
		u.share = s.Share
		uses[name] = u
	}
	for name, s := range b.disk.left(time.Now()) {
		u := uses[name]
		u.share = max(u.share, s.Share)
		uses[name] = u
	}
	return uses
}

// urgent is whether the registry would want to know more than what it was told: calls wait for more than that, or there is
// something to give to others.
func (b *Budget) urgent(uses map[string]use) bool {
	for name, u := range uses {
		told := b.told[name]
		if u.waiting > 0 && (u.share == 0 || u.demand() > told.demand()+told.demand()/4) || u.held() < told.held() && u.share < told.share {
			return true
		}
	}
	return false
}

// send makes a heartbeat and takes in its answer.
func (b *Budget) send(ctx context.Context, uses map[string]use, leaving bool) {
	b.beat++
	r := &registryv1.HeartbeatRequest{Instance: b.cfg.Instance, LeaseId: b.lease.String(), Beat: b.beat,
		LongestCall: durationpb.New(b.cfg.LongestCall), Leaving: leaving}
	for name, u := range uses {
		if u == (use{}) {
			continue
		}
		r.Clusters = append(r.Clusters, &registryv1.ClusterUse{Cluster: name, Share: int32(u.share), Open: int32(u.open), Used: int32(u.used), Waiting: int32(u.waiting), Warm: int32(u.warm)})
	}
	sent := time.Now()
	// Nothing may be waited for when it is time for less.
	by := sent.Add(patience)
	if next := b.next(); !next.IsZero() && next.Before(by) {
		by = next
	}
	ctx, cancel := context.WithDeadline(ctx, by)
	defer cancel()
	out, err := b.cfg.Registry.Heartbeat(ctx, r)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return // It was not waited for.
	}
	switch {
	case err != nil && !b.away:
		b.cfg.Logger.Warn("the registry answers no heartbeat; the shares of connection budgets stay for as long as they are leased", zap.Error(err))
	case err == nil && b.away:
		b.cfg.Logger.Info("the registry answers heartbeats again")
	}
	if b.away = err != nil; !b.away {
		b.told = uses
		b.take(out, sent)
	}
}

// take sets the shares of an answer. A cluster that it does not tell of has none.
func (b *Budget) take(out *registryv1.HeartbeatResponse, sent time.Time) {
	b.terms = terms{lease: out.GetLeaseDuration().AsDuration(), forget: out.GetForgetDuration().AsDuration(), alone: int(out.GetAloneShare())}
	shares := make(map[string]Share, len(out.GetClusters()))
	for _, c := range out.GetClusters() {
		shares[c.GetCluster()] = Share{Share: int(c.GetShare()), Budget: int(c.GetBudget())}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = sent
	b.set(shares)
}

// set makes shares those that this gateway has; b.mu is held.
func (b *Budget) set(shares map[string]Share) {
	for name, old := range b.shares {
		if _, ok := shares[name]; !ok && old.Share > 0 {
			b.cfg.Pools.SetShare(name, 0)
		}
	}
	for name, s := range shares {
		if old, ok := b.shares[name]; !ok || old.Share != s.Share {
			b.cfg.Pools.SetShare(name, s.Share)
		}
	}
	b.shares = shares
}

// next is when the shares shrink by themselves, which they have not done yet; zero when they do not.
func (b *Budget) next() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	most := 0
	for _, s := range b.shares {
		most = max(most, s.Share)
	}
	switch {
	case most == 0:
		return time.Time{}
	case most > b.terms.alone:
		return b.answered.Add(b.terms.lease)
	default:
		return b.answered.Add(b.terms.forget)
	}
}

// expire shrinks the shares when nothing was heard of the registry for too long.
func (b *Budget) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	age := time.Since(b.answered)
	if age < b.terms.lease {
		return
	}
	shares, shrunk := make(map[string]Share, len(b.shares)), false
	for name, s := range b.shares {
		left := b.terms.left(s.Share, age)
		shrunk = shrunk || left < s.Share
		s.Share = left
		shares[name] = s
	}
	if shrunk {
		b.cfg.Logger.Error("the registry was away for too long: shares of connection budgets were given up", zap.Duration("since", age), zap.Int("left", b.terms.left(math.MaxInt, age)))
		b.set(shares)
	}
}
