package registry_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

type routeStream = grpc.ServerStreamingClient[registryv1.WatchRoutesResponse]

func (s *system) watch(ctx context.Context, after int64) routeStream {
	s.t.Helper()
	stream, err := registryv1.NewRouteServiceClient(s.as("service/gateway")).WatchRoutes(ctx, &registryv1.WatchRoutesRequest{ResumeAfter: after, Instance: "test"})
	require.NoError(s.t, err)
	return stream
}

// next is the next event that is no heartbeat.
func next(t *testing.T, stream routeStream) *registryv1.WatchRoutesResponse {
	t.Helper()
	for {
		m, err := stream.Recv()
		require.NoError(t, err)
		if m.GetCheckpoint() == nil {
			return m
		}
	}
}

// snapshot reads one whole and returns its routes by slug.
func snapshot(t *testing.T, stream routeStream) (map[string]*registryv1.Route, int64) {
	t.Helper()
	require.NotNil(t, next(t, stream).GetSnapshotStart())
	require.Equal(t, "local", next(t, stream).GetCluster().GetName())
	out := map[string]*registryv1.Route{}
	for {
		m := next(t, stream)
		if m.GetSnapshotEnd() != nil {
			return out, m.GetSequence()
		}
		for _, r := range m.GetRoutes().GetRoutes() {
			out[r.GetSlug()] = r
		}
	}
}

func TestAWatcherGetsASnapshotAndThenEveryChange(t *testing.T) {
	t.Parallel()
	s := start(t)
	a := s.company()
	_, err := s.tenants().ReserveTenant(t.Context(), s.request())
	require.NoError(t, err)
	stream := s.watch(t.Context(), 0)
	routes, sequence := snapshot(t, stream)
	require.Len(t, routes, 1, "a company that is being made has no route")
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_ACTIVE, routes["company-1"].GetState())

	b := s.company()
	m := next(t, stream)
	require.Equal(t, sequence+1, m.GetSequence())
	require.Equal(t, b.GetTenant().GetSlug(), m.GetRoute().GetSlug())
	_, err = registryv1.NewCompanyServiceClient(s.as("operator/ops")).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: a.GetTenant().GetSlug(), Reason: "x"})
	require.NoError(t, err)
	m = next(t, stream)
	require.Equal(t, sequence+2, m.GetSequence())
	require.Equal(t, registryv1.CompanyState_COMPANY_STATE_SUSPENDED, m.GetRoute().GetState())
	require.Equal(t, routes["company-1"].GetVersion()+1, m.GetRoute().GetVersion())
	_, err = s.tenants().RecordSchemaVersion(t.Context(), &registryv1.RecordSchemaVersionRequest{CompanyId: a.GetTenant().GetCompanyId(), DatabaseId: a.GetTenant().GetDatabaseId(), SchemaVersion: "9"})
	require.NoError(t, err)
	require.Equal(t, "9", next(t, stream).GetRoute().GetSchemaVersion())

	again := s.watch(t.Context(), sequence)
	first, err := again.Recv()
	require.NoError(t, err)
	require.Equal(t, sequence, first.GetSequence(), "it is told at once where it is")
	require.Equal(t, sequence+3, first.GetCheckpoint().GetNewest(), "and how far behind")
	require.Equal(t, sequence+1, next(t, again).GetSequence(), "it resumes")
	for {
		m, err := stream.Recv()
		require.NoError(t, err)
		if m.GetCheckpoint() != nil {
			require.Equal(t, sequence+3, m.GetSequence(), "a heartbeat while nothing happens")
			require.Equal(t, sequence+3, m.GetCheckpoint().GetNewest())
			break
		}
	}
}

func TestChangesOfManyAtOnceComeWithoutAGapToEveryWatcherOfEveryCopy(t *testing.T) {
	t.Parallel()
	s := start(t)
	streams := []routeStream{s.watch(t.Context(), 0), s.watch(t.Context(), 0)}
	s.run() // Another copy; the first goes on.
	streams = append(streams, s.watch(t.Context(), 0))
	const writers, each = 4, 5
	var group sync.WaitGroup
	clients := make([]registryv1.TenantServiceClient, writers)
	for i := range clients {
		clients[i] = s.tenants()
	}
	errs := make([]error, writers)
	for i := range writers {
		group.Go(func() {
			for range each {
				q := s.request()
				if _, errs[i] = clients[i].ReserveTenant(t.Context(), q); errs[i] != nil {
					return
				}
				if _, errs[i] = clients[i].ActivateTenant(t.Context(), &registryv1.ActivateTenantRequest{CompanyId: q.GetCompanyId(), SchemaVersion: "1"}); errs[i] != nil {
					return
				}
			}
		})
	}
	for _, stream := range streams {
		routes, sequence := snapshot(t, stream)
		for len(routes) < writers*each {
			m := next(t, stream)
			require.Equal(t, sequence+1, m.GetSequence())
			sequence = m.GetSequence()
			routes[m.GetRoute().GetSlug()] = m.GetRoute()
		}
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestAWatcherWhoIsTooFarBehindGetsASnapshot(t *testing.T) {
	t.Parallel()
	s := start(t)
	for range 3 {
		s.company()
	}
	s.query("DELETE FROM route_events WHERE sequence < 3 RETURNING sequence::text")
	s.run() // One that remembers nothing.
	routes, _ := snapshot(t, s.watch(t.Context(), 1))
	require.Len(t, routes, 3)
	require.EqualValues(t, 4, next(t, s.watch(t.Context(), 3)).GetSequence())
	routes, _ = snapshot(t, s.watch(t.Context(), 1000))
	require.Len(t, routes, 3, "also one from a future that was undone")
}

func TestTheStreamEndsWithTheRegistryAndGoesOnAtTheNext(t *testing.T) {
	t.Parallel()
	s := start(t)
	stream := s.watch(t.Context(), 0)
	_, sequence := snapshot(t, stream)
	begun := time.Now()
	s.stop()
	var err error
	for err == nil { // A checkpoint may have been on its way.
		_, err = stream.Recv()
	}
	require.Less(t, time.Since(begun), 8*time.Second, "a stream does not hold the stopping up")
	s.run()
	s.company()
	require.Equal(t, sequence+1, next(t, s.watch(t.Context(), sequence)).GetSequence())
}

func TestManyVersionsAreToldInOneBatchWithoutThoseOfOtherDatabases(t *testing.T) {
	t.Parallel()
	s := start(t)
	a, b, c := s.company().GetTenant(), s.company().GetTenant(), s.company().GetTenant()
	stream := s.watch(t.Context(), 0)
	before, sequence := snapshot(t, stream)
	version := func(company, database, version string) *registryv1.RecordSchemaVersionRequest {
		return &registryv1.RecordSchemaVersionRequest{CompanyId: company, DatabaseId: database, SchemaVersion: version}
	}
	unknown := newID(t)
	for range 2 {
		out, err := s.tenants().RecordSchemaVersions(t.Context(), &registryv1.RecordSchemaVersionsRequest{Versions: []*registryv1.RecordSchemaVersionRequest{
			version(c.GetCompanyId(), c.GetDatabaseId(), "9"), version(a.GetCompanyId(), a.GetDatabaseId(), "9"),
			version(b.GetCompanyId(), newID(t), "9"), version(unknown, newID(t), "9"),
		}})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{b.GetCompanyId(), unknown}, out.GetNotRecorded())
	}
	told := map[string]*registryv1.Route{}
	for i := range 2 {
		m := next(t, stream)
		require.Equal(t, sequence+int64(i)+1, m.GetSequence(), "without a gap, and nothing twice")
		told[m.GetRoute().GetSlug()] = m.GetRoute()
	}
	for _, tenant := range []*registryv1.Tenant{a, c} {
		require.Equal(t, "9", told[tenant.GetSlug()].GetSchemaVersion())
		require.Equal(t, before[tenant.GetSlug()].GetVersion()+1, told[tenant.GetSlug()].GetVersion())
	}
	// The second batch was no news: what comes next is something else.
	_, err := s.tenants().RecordSchemaVersion(t.Context(), version(b.GetCompanyId(), b.GetDatabaseId(), "10"))
	require.NoError(t, err)
	m := next(t, stream)
	require.Equal(t, sequence+3, m.GetSequence())
	require.Equal(t, b.GetSlug(), m.GetRoute().GetSlug())

	_, err = s.tenants().RecordSchemaVersions(t.Context(), &registryv1.RecordSchemaVersionsRequest{Versions: []*registryv1.RecordSchemaVersionRequest{version("x", newID(t), "9")}})
	requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)
}

func TestARouteIsResolvedAsTheStreamTellsIt(t *testing.T) {
	t.Parallel()
	s := start(t)
	made := s.company().GetTenant()
	q := s.request()
	_, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	routes, _ := snapshot(t, s.watch(t.Context(), 0))
	client := registryv1.NewRouteServiceClient(s.as("service/gateway"))
	for _, company := range []string{made.GetCompanyId(), made.GetSlug()} {
		out, err := client.ResolveRoute(t.Context(), &registryv1.ResolveRouteRequest{Company: company})
		require.NoError(t, err)
		require.True(t, proto.Equal(routes[made.GetSlug()], out.GetRoute()), "%v", out)
	}
	for _, company := range []string{"nobody", newID(t), q.GetCompanyId()} {
		_, err := client.ResolveRoute(t.Context(), &registryv1.ResolveRouteRequest{Company: company})
		requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
	}
}
