// Package routes is the gateway's replica of where every tenant lives: filled by a snapshot from the registry, kept by
// the changes that follow it, and read without a lock. It serves on while the registry is away, and tells how old it is.
//
// It also passes on which credentials ended, and which tenants' connections have to be drained; acting on that is
// packages session's and conns'.
package routes

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// Route is where one tenant lives. It is never changed: a change makes another.
type Route struct {
	CompanyID, DatabaseID uuid.UUID
	Slug                  string
	Cluster               string
	State                 registryv1.CompanyState
	Version               int64
	SchemaVersion         string
	PasswordVersion       int32
}

// Events are what others do about changes. They are called in the order of the stream, by one goroutine.
type Events struct {
	// Drain is called when connections to a database are no longer good: its tenant moved, was closed, or has another
	// password.
	Drain func(databaseID uuid.UUID)
	// Revoked is called with sessions and API keys that no longer work, and until when that has to be remembered.
	Revoked func(sessions, apiKeys []uuid.UUID, until time.Time)
}

// Table is the replica. Run it, then look up.
type Table struct {
	client   registryv1.RouteServiceClient
	instance string
	events   Events
	log      *zap.Logger

	state    atomic.Pointer[state]
	clusters atomic.Pointer[map[string]*registryv1.Cluster]
	fresh    atomic.Int64 // when the stream last spoke, in Unix nanoseconds
	sequence int64        // Run's alone

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	ready   chan struct{} // closed with the first snapshot
}

// state is one whole snapshot with the changes since. Its maps are safe for readers beside the one writer.
type state struct {
	byID   sync.Map // uuid.UUID → *Route
	bySlug sync.Map // string → *Route
}

// New returns a table that follows a registry. instance names this gateway.
func New(client registryv1.RouteServiceClient, instance string, events Events, log *zap.Logger) *Table {
	t := &Table{client: client, instance: instance, events: events, log: log, changed: make(chan struct{}), ready: make(chan struct{})}
	t.state.Store(&state{})
	t.clusters.Store(&map[string]*registryv1.Cluster{})
	return t
}

// Ready is closed when the first snapshot is whole.
func (t *Table) Ready() <-chan struct{} { return t.ready }

// Age is how long ago the registry last said something: a few seconds at most while it is there.
func (t *Table) Age() time.Duration {
	at := t.fresh.Load()
	if at == 0 {
		return -1
	}
	return time.Since(time.Unix(0, at))
}

// ByID returns a company's route.
func (t *Table) ByID(company uuid.UUID) (*Route, bool) {
	r, ok := t.state.Load().byID.Load(company)
	if !ok {
		return nil, false
	}
	return r.(*Route), true
}

// BySlug returns the route of the company with a slug.
func (t *Table) BySlug(slug string) (*Route, bool) {
	r, ok := t.state.Load().bySlug.Load(slug)
	if !ok {
		return nil, false
	}
	return r.(*Route), true
}

// Cluster returns a cluster.
func (t *Table) Cluster(name string) (*registryv1.Cluster, bool) {
	c, ok := (*t.clusters.Load())[name]
	return c, ok
}

// arrival is how long a route may take to come here from a company that just signed up.
const arrival = time.Second

// Open returns the route of a company whose tenants may be served. NOT_FOUND `COMPANY_NOT_FOUND`; PERMISSION_DENIED
// `COMPANY_SUSPENDED`; UNAVAILABLE `COMPANY_NOT_READY` in any other state but ACTIVE, and before the first snapshot.
//
// A company that is not here yet may be a moment old: its route is waited for, shortly.
func (t *Table) Open(ctx context.Context, find func(*Table) (*Route, bool)) (*Route, error) {
	r, ok := find(t)
	if !ok {
		if r, ok = t.wait(ctx, find); !ok {
			select {
			case <-t.ready:
				return nil, fault.New(codes.NotFound, fault.CompanyNotFound, "there is no such company")
			default:
				return nil, fault.New(codes.Unavailable, fault.CompanyNotReady, "this gateway does not know the companies yet").RetryIn(arrival)
			}
		}
	}
	switch r.State {
	case registryv1.CompanyState_COMPANY_STATE_ACTIVE:
		return r, nil
	case registryv1.CompanyState_COMPANY_STATE_SUSPENDED:
		return nil, fault.New(codes.PermissionDenied, fault.CompanySuspended, "the company is suspended")
	default:
		return nil, fault.New(codes.Unavailable, fault.CompanyNotReady, "the company is not open now").RetryIn(arrival)
	}
}

func (t *Table) wait(ctx context.Context, find func(*Table) (*Route, bool)) (*Route, bool) {
	patience := time.NewTimer(arrival)
	defer patience.Stop()
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		if r, ok := find(t); ok {
			return r, true
		}
		select {
		case <-changed:
		case <-patience.C:
			return nil, false
		case <-ctx.Done():
			return nil, false
		}
	}
}

const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
	// silence is how long a stream that lives is silent at most; the registry's heartbeat comes more often.
	silence = 15 * time.Second
)

// Run follows the registry until the context ends, and goes on where it was after the stream broke.
func (t *Table) Run(ctx context.Context) {
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
	stream, err := t.client.WatchRoutes(ctx, &registryv1.WatchRoutesRequest{ResumeAfter: t.sequence, Instance: t.instance})
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
	state    *state
	clusters map[string]*registryv1.Cluster
}

// take applies one message and returns the snapshot that it belongs to, nil for none.
func (t *Table) take(m *registryv1.WatchRoutesResponse, loading *snapshot) *snapshot {
	switch e := m.GetEvent().(type) {
	case *registryv1.WatchRoutesResponse_SnapshotStart:
		return &snapshot{state: &state{}, clusters: map[string]*registryv1.Cluster{}}
	case *registryv1.WatchRoutesResponse_Routes:
		if loading != nil {
			for _, r := range e.Routes.GetRoutes() {
				loading.state.put(routeOf(r), nil)
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
			t.swap(loading)
		}
	case *registryv1.WatchRoutesResponse_Route:
		t.Put(routeOf(e.Route))
	case *registryv1.WatchRoutesResponse_RouteRemoved:
		t.remove(uuid.UUID(e.RouteRemoved.GetCompanyId()))
	case *registryv1.WatchRoutesResponse_CredentialsRevoked:
		t.events.Revoked(uuids(e.CredentialsRevoked.GetSessionIds()), uuids(e.CredentialsRevoked.GetApiKeyIds()), e.CredentialsRevoked.GetForgetTime().AsTime())
	case *registryv1.WatchRoutesResponse_Checkpoint:
	}
	t.sequence = m.GetSequence()
	return nil
}

// swap puts a whole snapshot in place of what was known.
func (t *Table) swap(s *snapshot) {
	before := t.state.Load()
	t.clusters.Store(&s.clusters)
	t.state.Store(s.state)
	before.byID.Range(func(id, old any) bool {
		now, ok := s.state.byID.Load(id)
		if !ok {
			t.events.Drain(old.(*Route).DatabaseID)
		} else {
			t.drain(old.(*Route), now.(*Route))
		}
		return true
	})
	select {
	case <-t.ready:
	default:
		close(t.ready)
		t.log.Info("the routes are known")
	}
	t.announce()
}

// Put makes a route known, unless a newer version of it is. Run calls it, and so may whoever has no registry to follow,
// such as a benchmark.
func (t *Table) Put(r *Route) {
	s := t.state.Load()
	old, _ := t.ByID(r.CompanyID)
	if old != nil && old.Version > r.Version {
		return
	}
	s.put(r, old)
	if old != nil {
		t.drain(old, r)
	}
	t.announce()
}

func (s *state) put(r, old *Route) {
	s.byID.Store(r.CompanyID, r)
	s.bySlug.Store(r.Slug, r)
	if old != nil && old.Slug != r.Slug {
		s.bySlug.CompareAndDelete(old.Slug, old)
	}
}

func (t *Table) remove(company uuid.UUID) {
	old, ok := t.ByID(company)
	if !ok {
		return
	}
	s := t.state.Load()
	s.byID.Delete(company)
	s.bySlug.CompareAndDelete(old.Slug, old)
	t.events.Drain(old.DatabaseID)
	t.announce()
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
