package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	snapshotv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/snapshot/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/budget"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/gateway/internal/session"
	"github.com/tenantry/tenantry/services/gateway/internal/snapshot"
	"github.com/tenantry/tenantry/services/internal/credential"
)

const (
	defaultSnapshotMaxAge = 24 * time.Hour
	// registryPatience is how long a registry that is silent is waited for before a gateway serves with what was on its disk:
	// one that is there answers in a fraction of that.
	registryPatience = 2 * time.Second

	// writeSoon is how long after the last a snapshot is written when something was closed since, which nobody may take for
	// open; writeLater when something else changed; and writeAnyway when nothing did, so that it says that.
	writeSoon   = time.Second
	writeLater  = 5 * time.Second
	writeAnyway = 2 * time.Minute
	// writePause is how many times as long as a write took it is waited for the next: writing takes a 21st of the time at
	// most, however many routes there are.
	writePause = 20
	// perRecord is how many routes or ids are in one record.
	perRecord = 500
)

// keeper keeps what the gateway knows on disk.
type keeper struct {
	files    *snapshot.Files
	instance string
	maxAge   time.Duration
	log      *zap.Logger
	routes   *routes.Table
	sessions *session.Sessions

	// Run's alone.
	last  written
	began time.Time
	took  time.Duration

	writtenAt    atomic.Int64 // in Unix nanoseconds; 0 before there was one
	failing      atomic.Bool
	leaseFailing atomic.Bool
}

// written is what the snapshot on the disk has.
type written struct {
	sequence int64
	fresh    time.Time
	keys     *registryv1.GetJwksResponse
}

// openKeeper takes the files.
func openKeeper(cfg Config) (*keeper, error) {
	files, err := snapshot.Open(cfg.RouteSnapshot, cfg.MasterKey)
	if err != nil {
		return nil, fmt.Errorf("gateway: route snapshot: %w", err)
	}
	k := &keeper{files: files, instance: cfg.Instance, maxAge: cfg.RouteSnapshotMaxAge, log: cfg.Logger}
	if k.maxAge == 0 {
		k.maxAge = defaultSnapshotMaxAge
	}
	return k, nil
}

func (k *keeper) close() error {
	if k == nil {
		return nil
	}
	return k.files.Close()
}

// shares are those on the disk, nil for none. Shares that are not used must not be there any more: they may be good again
// once the clock has caught up, and the registry is not told of them.
func (k *keeper) shares() (*budget.Saved, error) {
	l, err := k.files.ReadLease(k.instance)
	var refusal *snapshot.Refusal
	switch {
	case err == nil:
	case errors.As(err, &refusal) && refusal.Reason == snapshot.Missing:
		return nil, nil
	default:
		k.log.Warn("the shares of connection budgets on the disk are not used", zap.Error(err))
		return nil, k.files.RemoveLease()
	}
	s := &budget.Saved{Answered: l.GetAnswerTime().AsTime(), Lease: l.GetLeaseDuration().AsDuration(), Alone: int(l.GetAloneShare()),
		Forget: l.GetForgetDuration().AsDuration(), Shares: map[string]budget.Share{}}
	for _, c := range l.GetClusters() {
		s.Shares[c.GetCluster()] = budget.Share{Share: int(c.GetShare()), Budget: int(c.GetBudget())}
	}
	return s, nil
}

// saveShares writes shares to the disk.
func (k *keeper) saveShares(s budget.Saved) error {
	l := &snapshotv1.Lease{Instance: k.instance, AnswerTime: timestamppb.New(s.Answered), LeaseDuration: durationpb.New(s.Lease), AloneShare: int32(s.Alone),
		ForgetDuration: durationpb.New(s.Forget)}
	for name, share := range s.Shares {
		l.Clusters = append(l.Clusters, &registryv1.ClusterShare{Cluster: name, Share: int32(share.Share), Budget: int32(share.Budget)})
	}
	err := k.files.WriteLease(l)
	k.leaseFailing.Store(err != nil)
	return err
}

// restore begins with the snapshot on the disk, if there is a good one.
func (k *keeper) restore() {
	image := routes.NewImage()
	var others []*snapshotv1.Record
	begun, known := time.Now(), 0
	head, err := k.files.ReadRoutes(k.maxAge, func(r *snapshotv1.Record) error {
		switch part := r.GetPart().(type) {
		case *snapshotv1.Record_Cluster:
			image.PutCluster(part.Cluster)
		case *snapshotv1.Record_Routes:
			known += len(part.Routes.GetRoutes())
			return image.PutRoutes(part.Routes.GetRoutes())
		default:
			others = append(others, r)
		}
		return nil
	})
	var refusal *snapshot.Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Reason == snapshot.Missing:
		k.log.Info("there is no route snapshot yet", zap.Error(err))
		return
	case err != nil:
		k.log.Warn("the route snapshot is not used", zap.Error(err))
		return
	}
	for _, r := range others {
		if err := k.restoreCredentials(r); err != nil {
			// Nothing is known of such a key; the rest is good.
			k.log.Warn("a credential of the route snapshot is not used", zap.Error(err))
		}
	}
	image.Sequence, image.Fresh = head.GetSequence(), head.GetFreshTime().AsTime()
	k.routes.Restore(image)
	k.writtenAt.Store(head.GetWriteTime().AsTime().UnixNano())
	k.log.Info("the route snapshot was read", zap.Int("routes", known), zap.Int64("sequence", image.Sequence), zap.Duration("age", time.Since(image.Fresh)),
		zap.Duration("took", time.Since(begun)))
}

func (k *keeper) restoreCredentials(r *snapshotv1.Record) error {
	switch part := r.GetPart().(type) {
	case *snapshotv1.Record_Keys:
		k.sessions.RestoreKeys(part.Keys)
	case *snapshotv1.Record_Revoked:
		for _, raw := range part.Revoked.GetIds() {
			id, err := uuid.FromBytes(raw)
			if err != nil {
				return err
			}
			k.sessions.RestoreRevoked(id, part.Revoked.GetForgetTime().AsTime())
		}
	case *snapshotv1.Record_ApiKey:
		return k.sessions.RestoreAPIKey(part.ApiKey.GetHash(), part.ApiKey.GetCaller(), part.ApiKey.GetForgetTime().AsTime())
	}
	return nil
}

// run writes the snapshot when there is something new, until the context ends, and then once more.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(writeSoon)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if k.due() {
				k.write()
			}
		case <-ctx.Done():
			if k.knows() && k.routes.Image().Fresh.After(k.last.fresh) {
				k.write()
			}
			return
		}
	}
}

// knows tells whether the registry has told what there is; else the disk has no less.
func (k *keeper) knows() bool {
	select {
	case <-k.routes.Ready():
		return !k.routes.Restored()
	default:
		return false
	}
}

// due tells whether it is time to write.
func (k *keeper) due() bool {
	if !k.knows() {
		return false
	}
	image := k.routes.Image()
	_, closing := k.routes.Sequence()
	return time.Since(k.began) >= max(k.last.pause(written{image.Sequence, image.Fresh, k.sessions.Keys()}, closing), writePause*k.took)
}

// pause is how long after the last write began the next is due, as something else is known now and the latest that closed
// a company or ended a credential has a sequence number.
func (w written) pause(now written, closing int64) time.Duration {
	switch {
	case closing > w.sequence:
		return writeSoon
	case now.sequence != w.sequence || !proto.Equal(now.keys, w.keys):
		return writeLater
	case now.fresh.After(w.fresh):
		return writeAnyway
	default:
		return math.MaxInt64
	}
}

// write writes the snapshot.
func (k *keeper) write() {
	k.began = time.Now()
	image := k.routes.Image()
	now := written{image.Sequence, image.Fresh, k.sessions.Keys()}
	size, err := k.files.WriteRoutes(&snapshotv1.Head{FreshTime: timestamppb.New(image.Fresh), Sequence: image.Sequence}, func(add func(*snapshotv1.Record) error) error {
		return errors.Join(addRoutes(image, add), add(&snapshotv1.Record{Part: &snapshotv1.Record_Keys{Keys: now.keys}}), addCredentials(k.sessions, add))
	})
	k.took = time.Since(k.began)
	switch failing := k.failing.Swap(err != nil); {
	case err != nil && !failing:
		k.log.Error("the route snapshot cannot be written; serving goes on without", zap.Error(err))
	case err == nil && failing:
		k.log.Info("the route snapshot is written again")
	}
	if err == nil {
		k.last = now
		k.writtenAt.Store(k.began.UnixNano())
		k.log.Debug("the route snapshot was written", zap.Int64("bytes", size), zap.Duration("took", k.took))
	}
}

// addRoutes adds the clusters and the routes. Messages are used again, so that a million routes leave little behind.
func addRoutes(image *routes.Image, add func(*snapshotv1.Record) error) error {
	for _, c := range image.Clusters() {
		if err := add(&snapshotv1.Record{Part: &snapshotv1.Record_Cluster{Cluster: c}}); err != nil {
			return err
		}
	}
	var err error
	messages, n := make([]registryv1.Route, perRecord), 0
	batch := &registryv1.RouteBatch{Routes: make([]*registryv1.Route, perRecord)}
	record := &snapshotv1.Record{Part: &snapshotv1.Record_Routes{Routes: batch}}
	for i := range messages {
		batch.Routes[i] = &messages[i]
	}
	image.Each(func(r *routes.Route) bool {
		m := batch.Routes[n]
		m.CompanyId, m.DatabaseId = append(m.CompanyId[:0], r.CompanyID[:]...), append(m.DatabaseId[:0], r.DatabaseID[:]...)
		m.Slug, m.Cluster, m.State, m.Version = r.Slug, r.Cluster, r.State, r.Version
		m.SchemaVersion, m.PasswordVersion = r.SchemaVersion, r.PasswordVersion
		if n++; n == perRecord {
			n, err = 0, add(record)
		}
		return err == nil
	})
	if err != nil || n == 0 {
		return err
	}
	batch.Routes = batch.Routes[:n]
	return add(record)
}

// addCredentials adds what is known of sessions and API keys.
func addCredentials(s *session.Sessions, add func(*snapshotv1.Record) error) error {
	var err error
	byTime := map[time.Time]*snapshotv1.Revoked{}
	s.EachRevoked(func(id uuid.UUID, until time.Time) bool {
		r := byTime[until]
		if r == nil {
			r = &snapshotv1.Revoked{ForgetTime: timestamppb.New(until)}
			byTime[until] = r
		}
		if r.Ids = append(r.Ids, id[:]); len(r.Ids) == perRecord {
			err = add(&snapshotv1.Record{Part: &snapshotv1.Record_Revoked{Revoked: r}})
			delete(byTime, until)
		}
		return err == nil
	})
	for _, r := range byTime {
		err = errors.Join(err, add(&snapshotv1.Record{Part: &snapshotv1.Record_Revoked{Revoked: r}}))
	}
	if err != nil {
		return err
	}
	s.EachAPIKey(func(hash credential.Hash, caller *registryv1.ResolveCredentialResponse, until time.Time) bool {
		err = add(&snapshotv1.Record{Part: &snapshotv1.Record_ApiKey{ApiKey: &snapshotv1.ApiKey{Hash: hash[:], Caller: caller, ForgetTime: timestamppb.New(until)}}})
		return err == nil
	})
	return err
}
