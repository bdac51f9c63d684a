// Package feed serves the stream of route changes to any number of gateways from one reader of the database: it keeps
// the newest events in memory, is woken by PostgreSQL's NOTIFY, and gives each watcher what comes after where it is.
//
// A watcher that is further behind than memory reads from the database; one that is further behind than that gets a
// snapshot. Nothing is ever queued for a watcher, so a slow one costs nothing but its own connection.
package feed

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/registry/internal/store"
)

const (
	// remembered is how many events memory has, batch how many are read or sent at once.
	remembered = 8192
	batch      = 1000
	// kept is how many events the database has; those before are pruned every pruneEvery.
	kept       = 200_000
	pruneEvery = time.Minute
	// heartbeat is how long a stream is silent at most.
	heartbeat = 3 * time.Second
	// lookAnyway is how long a notification that got lost can delay a change.
	lookAnyway = time.Second
)

// Feed is the newest route events. Run it, then Watch.
type Feed struct {
	store *store.Store
	log   *zap.Logger
	ended chan struct{} // closed when Run returns

	mu     sync.Mutex
	events []*registryv1.WatchRoutesResponse // without gaps
	last   int64                             // sequence that has been read
	// watchers is how many are being served.
	watchers int
	ready    bool
	news     chan struct{} // closed and replaced when there is something new
}

// New returns a feed of a store's events.
func New(s *store.Store, log *zap.Logger) *Feed {
	return &Feed{store: s, log: log, ended: make(chan struct{}), news: make(chan struct{})}
}

// Run reads events until the context ends. Watchers' streams end with it.
func (f *Feed) Run(ctx context.Context) {
	defer close(f.ended)
	wake := make(chan struct{}, 1)
	var listener sync.WaitGroup
	defer listener.Wait()
	listener.Go(func() { f.listen(ctx, wake) })
	look, prune := time.NewTicker(lookAnyway), time.NewTicker(pruneEvery)
	defer look.Stop()
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-look.C:
		case <-prune.C:
			if err := f.store.PruneEvents(ctx, kept); err != nil && ctx.Err() == nil {
				f.log.Warn("route events were not pruned", zap.Error(err))
			}
			continue
		}
		if err := f.read(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("route events cannot be read", zap.Error(err))
		}
	}
}

// listen wakes the reader at each notification, and listens again when its connection broke.
func (f *Feed) listen(ctx context.Context, wake chan<- struct{}) {
	for ctx.Err() == nil {
		err := f.store.Listen(ctx, func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		if ctx.Err() != nil {
			return
		}
		f.log.Warn("listening for route events was cut off", zap.Error(err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// read takes in what is new.
func (f *Feed) read(ctx context.Context) error {
	f.mu.Lock()
	last, ready := f.last, f.ready
	f.mu.Unlock()
	if !ready {
		// What was before is of no use: watchers begin with a snapshot, or read it themselves.
		now, err := f.store.LastSequence(ctx)
		if err != nil {
			return err
		}
		f.publish(now, nil)
		return nil
	}
	for {
		events, ok, err := f.store.Events(ctx, last, batch)
		switch {
		case err != nil:
			return err
		case !ok:
			// Pruned before it was read: begin anew, and so will the watchers.
			f.mu.Lock()
			f.ready, f.events = false, nil
			f.mu.Unlock()
			return f.read(ctx)
		case len(events) == 0:
			return nil
		}
		last = events[len(events)-1].GetSequence()
		f.publish(last, events)
	}
}

func (f *Feed) publish(last int64, events []*registryv1.WatchRoutesResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last, f.ready = last, true
	f.events = append(f.events, events...)
	if extra := len(f.events) - remembered; extra > 0 {
		f.events = append([]*registryv1.WatchRoutesResponse(nil), f.events[extra:]...)
	}
	close(f.news)
	f.news = make(chan struct{})
}

// after returns what memory has after a sequence, whether it has all of it, and what to wait for when there is nothing.
func (f *Feed) after(sequence int64) (events []*registryv1.WatchRoutesResponse, ok bool, news <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ready {
		return nil, true, f.news
	}
	first := f.last - int64(len(f.events)) + 1
	if sequence+1 < first || sequence > f.last {
		return nil, sequence == f.last, f.news
	}
	return f.events[sequence+1-first:], true, f.news
}

// Watch sends a snapshot, unless it can resume after a sequence, and then every change, in order and without a gap, until
// the context ends or sending fails. Checkpoints say how far that is from the newest there is: first of all, after each
// silence, and as often while there is always something to send. When the feed ends it is UNAVAILABLE: another copy of the
// registry goes on.
func (f *Feed) Watch(ctx context.Context, after int64, send func(*registryv1.WatchRoutesResponse) error) error {
	f.count(1)
	defer f.count(-1)
	at := after
	if at == 0 {
		var err error
		if at, err = f.snapshot(ctx, send); err != nil {
			return err
		}
	}
	timer := time.NewTimer(heartbeat)
	defer timer.Stop()
	var told time.Time
	for {
		events, ok, news := f.after(at)
		if !ok {
			var err error
			if events, ok, err = f.store.Events(ctx, at, batch); err != nil {
				return err
			}
			if !ok {
				if at, err = f.snapshot(ctx, send); err != nil {
					return err
				}
				continue
			}
		}
		if newest, known := f.newest(); known && time.Since(told) >= heartbeat {
			if err := send(checkpoint(at, newest)); err != nil {
				return err
			}
			told = time.Now()
			timer.Reset(heartbeat)
		}
		for _, e := range events {
			if err := send(e); err != nil {
				return err
			}
			at = e.GetSequence()
		}
		if len(events) > 0 {
			timer.Reset(heartbeat)
			continue
		}
		select {
		case <-news:
		case <-timer.C:
			told = time.Time{}
			timer.Reset(heartbeat)
		case <-ctx.Done():
			return ctx.Err()
		case <-f.ended:
			return fault.New(codes.Unavailable, fault.Unavailable, "this copy of the registry is stopping").RetryIn(heartbeat)
		}
	}
}

func (f *Feed) count(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers += n
}

// Stats returns how many watchers there are, and the sequence of the newest event.
func (f *Feed) Stats() (watchers int, newest int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watchers, f.last
}

// newest returns the sequence of the newest event, when that is known.
func (f *Feed) newest() (sequence int64, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.ready
}

// checkpoint says that a watcher is at a sequence, and what there is.
func checkpoint(at, newest int64) *registryv1.WatchRoutesResponse {
	return &registryv1.WatchRoutesResponse{Sequence: at, Event: &registryv1.WatchRoutesResponse_Checkpoint{
		Checkpoint: &registryv1.Checkpoint{Time: timestamppb.Now(), Newest: max(at, newest)}}}
}

// snapshot sends all there is and returns the sequence it is of.
func (f *Feed) snapshot(ctx context.Context, send func(*registryv1.WatchRoutesResponse) error) (at int64, err error) {
	tell := func(m *registryv1.WatchRoutesResponse) error {
		m.Sequence = at
		return send(m)
	}
	err = f.store.Snapshot(ctx, batch, func(sequence int64) error {
		at = sequence
		return tell(&registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_SnapshotStart{SnapshotStart: &registryv1.SnapshotStart{}}})
	}, func(c *registryv1.Cluster) error {
		return tell(&registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_Cluster{Cluster: c}})
	}, func(routes []*registryv1.Route) error {
		return tell(&registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_Routes{Routes: &registryv1.RouteBatch{Routes: routes}}})
	})
	if err != nil {
		return 0, err
	}
	return at, tell(&registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_SnapshotEnd{SnapshotEnd: &registryv1.SnapshotEnd{}}})
}
