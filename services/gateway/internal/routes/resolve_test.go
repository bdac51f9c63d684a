package routes_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// asked is the answers to those who ask for a route.
type asked struct {
	calls   atomic.Int32
	release chan struct{} // answers wait until it is closed
	routes  map[string]*registryv1.Route
	err     error
}

func (r *registry) ResolveRoute(ctx context.Context, q *registryv1.ResolveRouteRequest) (*registryv1.ResolveRouteResponse, error) {
	a := r.asked.Load()
	if a == nil {
		return nil, fault.New(codes.Unavailable, fault.Unavailable, "the registry only tells")
	}
	a.calls.Add(1)
	select {
	case <-a.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.err != nil {
		return nil, a.err
	}
	if found := a.routes[q.GetCompany()]; found != nil {
		return &registryv1.ResolveRouteResponse{Route: found}, nil
	}
	return nil, fault.New(codes.NotFound, fault.CompanyNotFound, "there is no company %q", q.GetCompany())
}

// many makes as many calls at once, lets the registry answer when all are made, and returns what they returned.
func (f *fixture) many(a *asked, n int, open func() (*routes.Route, error)) (found []*routes.Route, errs []error) {
	f.t.Helper()
	a.release = make(chan struct{})
	f.registry.asked.Store(a)
	found, errs = make([]*routes.Route, n), make([]error, n)
	var begun, ended sync.WaitGroup
	begun.Add(n)
	for i := range n {
		ended.Go(func() {
			begun.Done()
			found[i], errs[i] = open()
		})
	}
	begun.Wait()
	eventually(f.t, func() bool { return a.calls.Load() > 0 })
	close(a.release)
	ended.Wait()
	return found, errs
}

func TestACompanyThatIsNotHereIsAskedForOnceHoweverManyWait(t *testing.T) {
	t.Parallel()
	f := start(t)
	s := f.next()
	s.snapshot(1, route(uuid.New(), "other", 1, active))
	<-f.table.Ready()
	id := uuid.New()
	for name, open := range map[string]func() (*routes.Route, error){
		"its slug": func() (*routes.Route, error) { return f.table.Open(t.Context(), routes.Named("new")) },
		"its id":   func() (*routes.Route, error) { return f.table.Open(t.Context(), routes.ID(id)) },
	} {
		a := &asked{routes: map[string]*registryv1.Route{"new": route(id, "new", 1, active), id.String(): route(id, "new", 1, active)}}
		found, errs := f.many(a, 100, open)
		for i := range found {
			require.NoError(t, errs[i])
			require.Equal(t, id, found[i].DatabaseID)
		}
		require.EqualValues(t, 1, a.calls.Load(), name)
	}
	a := &asked{}
	_, errs := f.many(a, 100, func() (*routes.Route, error) { return f.table.Open(t.Context(), routes.Named("nobody")) })
	for _, err := range errs {
		require.True(t, fault.HasReason(err, fault.CompanyNotFound), "%v", err)
	}
	require.EqualValues(t, 1, a.calls.Load(), "that there is none is an answer, too")
	for range 100 {
		_, err := f.table.Open(t.Context(), routes.Named("nobody"))
		require.True(t, fault.HasReason(err, fault.CompanyNotFound), "%v", err)
	}
	require.Less(t, a.calls.Load(), int32(20), "it is remembered for a while")

	// What the stream says counts, whatever was answered.
	s.route(2, route(id, "new", 2, suspended))
	eventually(t, func() bool { return f.knows("new") })
	_, err := f.table.Open(t.Context(), routes.Named(id.String()))
	require.True(t, fault.HasReason(err, fault.CompanySuspended), "%v", err)
	s.route(3, route(uuid.New(), "nobody", 1, active))
	eventually(t, func() bool { return f.knows("nobody") })
	_, err = f.table.Open(t.Context(), routes.Named("nobody"))
	require.NoError(t, err)
}

func TestACompanyIsWaitedForWhereItCannotBeAskedFor(t *testing.T) {
	t.Parallel()
	f := start(t)
	s := f.next()
	_, err := f.table.Open(t.Context(), routes.Named("new"))
	require.True(t, fault.HasReason(err, fault.CompanyNotReady), "before the first snapshot: %v", err)
	s.snapshot(1, route(uuid.New(), "other", 1, active))
	<-f.table.Ready()
	a := &asked{err: fault.New(codes.Unavailable, fault.DatabaseUnavailable, "a database cannot be reached")}
	var late sync.WaitGroup
	late.Go(func() {
		eventually(t, func() bool { return a.calls.Load() > 0 })
		time.Sleep(50 * time.Millisecond)
		s.route(2, route(uuid.New(), "new", 1, active))
	})
	_, errs := f.many(a, 1, func() (*routes.Route, error) { return f.table.Open(t.Context(), routes.Named("new")) })
	require.NoError(t, errs[0])
	late.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	a = &asked{release: make(chan struct{})}
	f.registry.asked.Store(a)
	var waits sync.WaitGroup
	waits.Go(func() {
		_, err := f.table.Open(ctx, routes.Named("nobody"))
		if err == nil || ctx.Err() == nil {
			t.Errorf("who went away got %v", err)
		}
	})
	eventually(t, func() bool { return a.calls.Load() > 0 })
	cancel()
	waits.Wait()
	close(a.release)
}
