package routes_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry says what a test tells it to, to each stream that is opened.
type registry struct {
	registryv1.UnimplementedRouteServiceServer
	streams chan *stream
	asked   atomic.Pointer[asked]
}

type stream struct {
	after int64
	say   chan *registryv1.WatchRoutesResponse // closed to break the stream
}

func (r *registry) WatchRoutes(q *registryv1.WatchRoutesRequest, out grpc.ServerStreamingServer[registryv1.WatchRoutesResponse]) error {
	s := &stream{after: q.GetResumeAfter(), say: make(chan *registryv1.WatchRoutesResponse)}
	select {
	case r.streams <- s:
	case <-out.Context().Done():
		return nil
	}
	for {
		select {
		case m, ok := <-s.say:
			if !ok {
				return nil
			}
			if err := out.Send(m); err != nil {
				return err
			}
		case <-out.Context().Done():
			return nil
		}
	}
}

// fixture is a table that follows a registry, and what it told others.
type fixture struct {
	t        testing.TB
	table    *routes.Table
	registry *registry
	stop     context.CancelFunc // ends Run

	mu      sync.Mutex
	drained []uuid.UUID
	revoked []uuid.UUID

	replaced atomic.Int32
}

func start(t testing.TB) *fixture {
	t.Helper()
	return startWith(t, nil)
}

// startWith is start with what is restored first, unless that is nil.
func startWith(t testing.TB, image *routes.Image) *fixture {
	t.Helper()
	f := &fixture{t: t, registry: &registry{streams: make(chan *stream)}}
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	registryv1.RegisterRouteServiceServer(server, f.registry)
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:registry", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	f.table = routes.New(registryv1.NewRouteServiceClient(conn), "test", routes.Events{
		Drain: func(id uuid.UUID) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.drained = append(f.drained, id)
		},
		Replaced: func() { f.replaced.Add(1) },
		Revoked: func(sessions, keys []uuid.UUID, _ time.Time) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.revoked = append(append(f.revoked, sessions...), keys...)
		},
	}, zaptest.NewLogger(t, zaptest.WrapOptions()))
	if image != nil {
		f.table.Restore(image)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	group.Go(func() { f.table.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		server.Stop()
		group.Wait()
		_ = conn.Close()
	})
	return f
}

func (f *fixture) next() *stream {
	f.t.Helper()
	select {
	case s := <-f.registry.streams:
		return s
	case <-time.After(30 * time.Second):
		require.Fail(f.t, "no stream was opened")
		return nil
	}
}

func (f *fixture) told() (drained, revoked []uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]uuid.UUID(nil), f.drained...), append([]uuid.UUID(nil), f.revoked...)
}

func (s *stream) snapshot(sequence int64, some ...*registryv1.Route) {
	s.say <- &registryv1.WatchRoutesResponse{Sequence: sequence, Event: &registryv1.WatchRoutesResponse_SnapshotStart{SnapshotStart: &registryv1.SnapshotStart{}}}
	s.say <- &registryv1.WatchRoutesResponse{Sequence: sequence, Event: &registryv1.WatchRoutesResponse_Cluster{Cluster: &registryv1.Cluster{Name: "local", Port: 5}}}
	s.say <- &registryv1.WatchRoutesResponse{Sequence: sequence, Event: &registryv1.WatchRoutesResponse_Routes{Routes: &registryv1.RouteBatch{Routes: some}}}
	s.end(sequence)
}

func (s *stream) end(sequence int64) {
	s.say <- &registryv1.WatchRoutesResponse{Sequence: sequence, Event: &registryv1.WatchRoutesResponse_SnapshotEnd{SnapshotEnd: &registryv1.SnapshotEnd{}}}
}

func (s *stream) route(sequence int64, r *registryv1.Route) {
	s.say <- &registryv1.WatchRoutesResponse{Sequence: sequence, Event: &registryv1.WatchRoutesResponse_Route{Route: r}}
}

func route(id uuid.UUID, slug string, version int64, state registryv1.CompanyState) *registryv1.Route {
	return &registryv1.Route{CompanyId: id[:], DatabaseId: id[:], Slug: slug, Cluster: "local", State: state, Version: version, PasswordVersion: 1}
}

const (
	active    = registryv1.CompanyState_COMPANY_STATE_ACTIVE
	suspended = registryv1.CompanyState_COMPANY_STATE_SUSPENDED
)

// eventually waits for what arrives by the stream.
func eventually(t testing.TB, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 30*time.Second, time.Millisecond)
}

func (f *fixture) knows(slug string) bool {
	_, ok := f.table.BySlug(slug)
	return ok
}

func TestASnapshotCountsOnceItIsWholeAndChangesFollow(t *testing.T) {
	t.Parallel()
	f := start(t)
	a, b := uuid.New(), uuid.New()
	s := f.next()
	require.Zero(t, s.after)
	s.say <- &registryv1.WatchRoutesResponse{Sequence: 7, Event: &registryv1.WatchRoutesResponse_SnapshotStart{SnapshotStart: &registryv1.SnapshotStart{}}}
	s.say <- &registryv1.WatchRoutesResponse{Sequence: 7, Event: &registryv1.WatchRoutesResponse_Routes{Routes: &registryv1.RouteBatch{Routes: []*registryv1.Route{route(a, "a", 1, active)}}}}
	require.False(t, f.knows("a"))
	_, err := f.table.Open(t.Context(), routes.Named("a"))
	require.True(t, fault.HasReason(err, fault.CompanyNotReady), "%v", err)
	s.end(7)
	<-f.table.Ready()
	eventually(t, func() bool { return f.knows("a") })

	s.route(8, route(b, "b", 1, active))
	s.route(9, route(a, "a2", 3, active))
	s.route(10, route(a, "stale", 2, active))
	s.say <- &registryv1.WatchRoutesResponse{Sequence: 11, Event: &registryv1.WatchRoutesResponse_RouteRemoved{RouteRemoved: &registryv1.RouteRemoved{CompanyId: b[:]}}}
	eventually(t, func() bool { drained, _ := f.told(); return len(drained) == 1 })
	require.False(t, f.knows("b"))
	require.False(t, f.knows("a"), "a slug that changed is free")
	require.False(t, f.knows("stale"))
	got, ok := f.table.ByID(a)
	require.True(t, ok)
	require.Equal(t, "a2", got.Slug)
	require.Less(t, f.table.Age(), time.Minute)
}

func TestTheTableServesOnAndResumesWhereItWas(t *testing.T) {
	t.Parallel()
	f := start(t)
	a, b := uuid.New(), uuid.New()
	s := f.next()
	s.snapshot(7, route(a, "a", 1, active), route(b, "b", 1, active))
	s.route(8, route(a, "a", 2, active))
	s.say <- &registryv1.WatchRoutesResponse{Sequence: 9, Event: &registryv1.WatchRoutesResponse_Checkpoint{Checkpoint: &registryv1.Checkpoint{}}}
	close(s.say)
	s = f.next()
	require.EqualValues(t, 9, s.after)
	require.True(t, f.knows("a"), "what is known goes on")
	cluster, ok := f.table.Cluster("local")
	require.True(t, ok)
	require.EqualValues(t, 5, cluster.GetPort())

	// A snapshot instead: what is no longer there is drained.
	s.snapshot(20, route(a, "a", 5, active))
	eventually(t, func() bool { return !f.knows("b") })
	drained, _ := f.told()
	require.Equal(t, []uuid.UUID{b}, drained)
}

func TestConnectionsAreDrainedWhenTheyAreNoLongerGood(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := uuid.New()
	s := f.next()
	s.snapshot(1, route(a, "a", 1, active))
	<-f.table.Ready()
	steps := []struct {
		change func(*registryv1.Route)
		drains bool
	}{
		{func(r *registryv1.Route) { r.SchemaVersion = "2" }, false},
		{func(r *registryv1.Route) { r.Slug = "a2" }, false},
		{func(r *registryv1.Route) { r.PasswordVersion = 2 }, true},
		{func(r *registryv1.Route) { r.Cluster = "other" }, true},
		{func(r *registryv1.Route) { r.State = suspended }, true},
	}
	r := route(a, "a", 1, active)
	want := 0
	for i, step := range steps {
		r.Version++
		step.change(r)
		s.route(int64(i+2), r)
		if step.drains {
			want++
		}
		eventually(t, func() bool { got, _ := f.table.ByID(a); return got.Version == r.GetVersion() })
		eventually(t, func() bool { drained, _ := f.told(); return len(drained) == want })
	}
	revoked := uuid.New()
	s.say <- &registryv1.WatchRoutesResponse{Sequence: 9, Event: &registryv1.WatchRoutesResponse_CredentialsRevoked{CredentialsRevoked: &registryv1.CredentialsRevoked{SessionIds: [][]byte{revoked[:]}}}}
	eventually(t, func() bool { _, got := f.told(); return len(got) == 1 && got[0] == revoked })
}

func TestOpenSaysWhyACompanyIsNotServedAndWaitsForOneThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	f := start(t)
	s := f.next()
	s.snapshot(1, route(uuid.New(), "closed", 1, suspended), route(uuid.New(), "held", 1, registryv1.CompanyState_COMPANY_STATE_MAINTENANCE))
	<-f.table.Ready()
	open := func(slug string) error {
		_, err := f.table.Open(t.Context(), routes.Named(slug))
		return err
	}
	for slug, reason := range map[string]string{"closed": fault.CompanySuspended, "held": fault.TenantMaintenance, "nobody": fault.CompanyNotFound} {
		require.True(t, fault.HasReason(open(slug), reason), slug)
	}
	var late sync.WaitGroup
	late.Go(func() {
		time.Sleep(50 * time.Millisecond)
		s.route(2, route(uuid.New(), "new", 1, active))
	})
	require.NoError(t, open("new"))
	late.Wait()
}

func TestReadersRunBesideTheWriter(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := uuid.New()
	s := f.next()
	s.snapshot(1, route(id, "a", 1, active))
	<-f.table.Ready()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			last := int64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, ok := f.table.ByID(id)
				if !ok || r.Version < last {
					t.Errorf("version %v after %d", r, last)
					return
				}
				last = r.Version
			}
		})
	}
	for v := int64(2); v < 300; v++ {
		s.route(v, route(id, "a", v, active))
	}
	close(stop)
	readers.Wait()
}
