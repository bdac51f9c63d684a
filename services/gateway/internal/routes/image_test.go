package routes_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// image is what was known an hour ago.
func image(t testing.TB, sequence int64, some ...*registryv1.Route) *routes.Image {
	t.Helper()
	i := routes.NewImage()
	i.Sequence, i.Fresh = sequence, time.Now().Add(-time.Hour)
	i.PutCluster(&registryv1.Cluster{Name: "local", Port: 4})
	require.NoError(t, i.PutRoutes(some))
	return i
}

func (s *stream) checkpoint(sequence, newest int64) {
	s.say <- &registryv1.WatchRoutesResponse{Sequence: sequence, Event: &registryv1.WatchRoutesResponse_Checkpoint{Checkpoint: &registryv1.Checkpoint{Newest: newest}}}
}

func ready(table *routes.Table) bool {
	select {
	case <-table.Ready():
		return true
	default:
		return false
	}
}

func TestAnImageHasAllThatATableKnows(t *testing.T) {
	t.Parallel()
	f := start(t)
	s := f.next()
	var some []*registryv1.Route
	for n := range 1200 {
		some = append(some, route(uuid.New(), fmt.Sprintf("c%d", n), 1, active))
	}
	some[3].State, some[4].SchemaVersion, some[5].PasswordVersion = suspended, "7", 3
	s.snapshot(7, some...)
	s.route(8, route(uuid.UUID(some[0].GetCompanyId()), "other", 2, active))
	eventually(t, func() bool { return f.knows("other") })
	s.checkpoint(8, 8)
	eventually(t, func() bool { return f.table.Lag() == 0 })

	got := f.table.Image()
	require.EqualValues(t, 8, got.Sequence)
	require.InDelta(t, 0, time.Since(got.Fresh), float64(time.Minute))
	require.EqualValues(t, 5, got.Clusters()["local"].GetPort())
	restored := routes.NewImage()
	restored.Sequence, restored.Fresh = got.Sequence, got.Fresh
	for _, c := range got.Clusters() {
		restored.PutCluster(c)
	}
	got.Each(func(r *routes.Route) bool {
		require.NoError(t, restored.PutRoutes([]*registryv1.Route{{CompanyId: r.CompanyID[:], DatabaseId: r.DatabaseID[:], Slug: r.Slug, Cluster: r.Cluster, State: r.State,
			Version: r.Version, SchemaVersion: r.SchemaVersion, PasswordVersion: r.PasswordVersion}}))
		return true
	})
	again := startWith(t, restored)
	f.table.Each(func(want *routes.Route) bool {
		r, ok := again.table.ByID(want.CompanyID)
		require.True(t, ok)
		require.Equal(t, *want, *r)
		return true
	})
	require.True(t, again.knows("other"))
	require.False(t, again.knows("c0"))
	require.Error(t, routes.NewImage().PutRoutes([]*registryv1.Route{{CompanyId: []byte{1}}}))
}

func TestARestoredTableIsReadyWhenTheRegistryHasToldAllItKnows(t *testing.T) {
	t.Parallel()
	a, b := uuid.New(), uuid.New()
	f := startWith(t, image(t, 7, route(a, "a", 3, active), route(b, "b", 1, active)))
	require.InDelta(t, time.Hour, f.table.Age(), float64(time.Minute), "its age is that of the image")
	require.True(t, f.knows("a"))
	require.Negative(t, f.table.Lag())
	s := f.next()
	require.EqualValues(t, 7, s.after, "it resumes")
	s.checkpoint(7, 9)
	eventually(t, func() bool { return f.table.Lag() == 2 })
	require.Less(t, f.table.Age(), time.Minute, "it lags, and the registry is not silent")
	s.route(8, route(a, "a", 2, suspended)) // It is known to be older than what the image has.
	eventually(t, func() bool { return f.table.Lag() == 1 })
	require.False(t, ready(f.table))
	require.True(t, f.table.Restored())
	s.route(9, route(b, "b", 2, suspended))
	<-f.table.Ready()
	eventually(t, func() bool { return !f.table.Restored() })
	require.Zero(t, f.table.Lag())
	got, _ := f.table.ByID(a)
	require.Equal(t, active, got.State)
	got, _ = f.table.ByID(b)
	require.Equal(t, suspended, got.State)
	newest, closing := f.table.Sequence()
	require.EqualValues(t, 9, newest)
	require.EqualValues(t, 9, closing)
	require.Zero(t, f.replaced.Load())
}

func TestARestoredTableTakesASnapshotOfARegistryThatHasNoLongerWhatCameAfterIt(t *testing.T) {
	t.Parallel()
	a, b := uuid.New(), uuid.New()
	f := startWith(t, image(t, 7, route(a, "a", 3, active), route(b, "b", 1, active)))
	s := f.next()
	s.snapshot(900, route(a, "a", 5, active))
	<-f.table.Ready()
	eventually(t, func() bool { return !f.knows("b") && !f.table.Restored() })
	drained, _ := f.told()
	require.Equal(t, []uuid.UUID{b}, drained)
	require.EqualValues(t, 1, f.replaced.Load(), "what ended meanwhile was not told")
	cluster, _ := f.table.Cluster("local")
	require.EqualValues(t, 5, cluster.GetPort())
}

func TestARegistryThatDoesNotSayWhatItKnowsMakesARestoredTableReadyToo(t *testing.T) {
	t.Parallel()
	f := startWith(t, image(t, 7, route(uuid.New(), "a", 3, active)))
	s := f.next()
	s.route(8, route(uuid.New(), "b", 1, active))
	eventually(t, func() bool { return f.knows("b") })
	require.False(t, ready(f.table))
	s.checkpoint(8, 0)
	<-f.table.Ready()
	require.Negative(t, f.table.Lag())
}

func TestATableThatSettlesForARestoredImageSaysSo(t *testing.T) {
	t.Parallel()
	f := startWith(t, image(t, 7, route(uuid.New(), "a", 3, active)))
	close(f.next().say)
	_, err := f.table.Open(t.Context(), routes.Named("a"))
	require.NoError(t, err)
	require.False(t, ready(f.table))
	f.table.Settle()
	require.True(t, ready(f.table))
	require.True(t, f.table.Restored())
	require.Greater(t, f.table.Age(), 50*time.Minute)
	_, err = f.table.Open(t.Context(), routes.Named("b"))
	require.True(t, fault.HasReason(err, fault.CompanyNotReady), "it may have come since: %v", err)
	s := f.next()
	s.checkpoint(7, 7)
	eventually(t, func() bool { return !f.table.Restored() })
	require.Less(t, f.table.Age(), time.Minute)
}
