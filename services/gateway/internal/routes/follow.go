package routes

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
	// silence is how long a stream that lives is silent at most; the registry's heartbeat comes more often.
	silence = 15 * time.Second
)

// Run follows the registry until the context ends, and goes on where it was after the stream broke. Then no call is held
// any more.
func (t *Table) Run(ctx context.Context) {
	defer t.holds.close()
	wait := firstRetry
	for ctx.Err() == nil {
		spoke, err := t.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if spoke {
			wait = firstRetry
		}
		t.log.Warn("the registry's route stream broke; serving on with what is known", zap.Duration("age", t.Age()), zap.Error(err))
		select {
		case <-time.After(wait + rand.N(wait)):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastRetry)
	}
}

func (t *Table) follow(ctx context.Context) (spoke bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := t.client.WatchRoutes(ctx, &registryv1.WatchRoutesRequest{ResumeAfter: t.sequence.Load(), Instance: t.instance})
	if err != nil {
		return false, err
	}
	mute := time.AfterFunc(silence, func() { cancel(context.DeadlineExceeded) })
	defer mute.Stop()
	var loading *snapshot
	for {
		m, err := stream.Recv()
		if err != nil {
			return spoke, err
		}
		spoke = true
		mute.Reset(silence)
		t.fresh.Store(time.Now().UnixNano())
		loading = t.take(m, loading)
	}
}

// snapshot is one on its way.
type snapshot struct {
	replica  *replica
	clusters map[string]*registryv1.Cluster
	sequence int64
}

// take applies one message and returns the snapshot that it belongs to, nil for none.
func (t *Table) take(m *registryv1.WatchRoutesResponse, loading *snapshot) *snapshot {
	switch e := m.GetEvent().(type) {
	case *registryv1.WatchRoutesResponse_SnapshotStart:
		return &snapshot{replica: newReplica(), clusters: map[string]*registryv1.Cluster{}}
	case *registryv1.WatchRoutesResponse_Routes:
		if loading != nil {
			for _, r := range e.Routes.GetRoutes() {
				loading.replica.put(routeOf(r))
			}
		}
		return loading
	case *registryv1.WatchRoutesResponse_Cluster:
		if loading != nil {
			loading.clusters[e.Cluster.GetName()] = e.Cluster
			return loading
		}
		clusters := map[string]*registryv1.Cluster{}
		for name, c := range *t.clusters.Load() {
			clusters[name] = c
		}
		clusters[e.Cluster.GetName()] = e.Cluster
		t.clusters.Store(&clusters)
	case *registryv1.WatchRoutesResponse_SnapshotEnd:
		if loading != nil {
			loading.sequence = m.GetSequence()
			t.swap(loading)
			t.closing.Store(m.GetSequence()) // It may have.
		}
	case *registryv1.WatchRoutesResponse_Route:
		t.Put(routeOf(e.Route))
		if e.Route.GetState() != registryv1.CompanyState_COMPANY_STATE_ACTIVE {
			t.closing.Store(m.GetSequence())
		}
	case *registryv1.WatchRoutesResponse_RouteRemoved:
		t.remove(uuid.UUID(e.RouteRemoved.GetCompanyId()))
		t.closing.Store(m.GetSequence())
	case *registryv1.WatchRoutesResponse_CredentialsRevoked:
		t.closing.Store(m.GetSequence())
		t.events.Revoked(uuids(e.CredentialsRevoked.GetSessionIds()), uuids(e.CredentialsRevoked.GetApiKeyIds()), e.CredentialsRevoked.GetForgetTime().AsTime())
	case *registryv1.WatchRoutesResponse_Checkpoint:
		t.newest.Store(e.Checkpoint.GetNewest())
	}
	t.sequence.Store(m.GetSequence())
	// A registry that does not say what it knows makes no checkpoint before it has told all of that.
	if t.old.Load() && (t.Lag() == 0 || m.GetCheckpoint() != nil && t.Lag() < 0) {
		t.current()
	}
	return nil
}

// swap puts a whole snapshot in place of what was known.
func (t *Table) swap(s *snapshot) {
	t.writing.Lock()
	defer t.writing.Unlock()
	before := t.known.Load()
	t.clusters.Store(&s.clusters)
	t.known.Store(s.replica)
	t.sequence.Store(s.sequence)
	before.byID.each(func(old *Route) bool {
		if now := s.replica.byID.get(old.CompanyID); now != nil {
			t.drain(old, now)
		} else {
			t.events.Drain(old.DatabaseID)
		}
		return true
	})
	if t.events.Replaced != nil {
		t.events.Replaced()
	}
	t.current()
	t.announce()
	t.swapped()
}

// Put makes a route known, unless a newer version of it is. Run calls it, and so may whoever has no registry to follow,
// such as a benchmark.
func (t *Table) Put(r *Route) {
	t.writing.Lock()
	defer t.writing.Unlock()
	known := t.known.Load()
	if old := known.byID.get(r.CompanyID); old != nil && old.Version > r.Version {
		return
	}
	if old := known.put(r); old != nil {
		t.drain(old, r)
	}
	t.announce()
	t.holds.changed(r.CompanyID, r)
}

func (t *Table) remove(company uuid.UUID) {
	t.writing.Lock()
	defer t.writing.Unlock()
	old := t.known.Load().remove(company)
	if old == nil {
		return
	}
	t.events.Drain(old.DatabaseID)
	t.announce()
	t.holds.changed(company, nil)
}

// drain closes what was connected to where a tenant no longer is, or may no longer be reached.
func (t *Table) drain(old, now *Route) {
	if old.DatabaseID != now.DatabaseID || old.Cluster != now.Cluster || old.PasswordVersion != now.PasswordVersion ||
		now.State != registryv1.CompanyState_COMPANY_STATE_ACTIVE {
		t.events.Drain(old.DatabaseID)
	}
}

func (t *Table) announce() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
}

func routeOf(r *registryv1.Route) *Route {
	return &Route{
		CompanyID: uuid.UUID(r.GetCompanyId()), DatabaseID: uuid.UUID(r.GetDatabaseId()), Slug: r.GetSlug(), Cluster: r.GetCluster(),
		State: r.GetState(), Version: r.GetVersion(), SchemaVersion: r.GetSchemaVersion(), PasswordVersion: r.GetPasswordVersion(),
	}
}

func uuids(raw [][]byte) []uuid.UUID {
	out := make([]uuid.UUID, 0, len(raw))
	for _, b := range raw {
		if id, err := uuid.FromBytes(b); err == nil {
			out = append(out, id)
		}
	}
	return out
}
