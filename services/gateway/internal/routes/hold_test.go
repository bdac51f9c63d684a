package routes_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/internal/fault"
)

const paused = registryv1.CompanyState_COMPANY_STATE_MAINTENANCE

// held is a table without a registry, with one company.
type held struct {
	t       *testing.T
	table   *routes.Table
	id      uuid.UUID
	version int64
}

func newHeld(t *testing.T, limits routes.HoldLimits) *held {
	t.Helper()
	h := &held{t: t, table: routes.New(nil, "test", routes.Events{Drain: func(uuid.UUID) {}}, nil), id: uuid.New()}
	h.table.LimitHolds(limits)
	h.put(active, "1")
	return h
}

func (h *held) put(state registryv1.CompanyState, schema string) {
	h.version++
	h.table.Put(&routes.Route{CompanyID: h.id, DatabaseID: h.id, Slug: "a", State: state, Version: h.version, SchemaVersion: schema})
}

func (h *held) admit(ctx context.Context, minSchema string) (*routes.Route, error) {
	return h.table.Admit(ctx, routes.ID(h.id), minSchema)
}

// waits waits until so many calls are held.
func (h *held) waits(n int) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { calls, _ := h.table.Held(); return calls == n }, 10*time.Second, 100*time.Microsecond)
}

func requireRefused(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	require.Error(t, err)
	f := fault.From(err)
	require.Equal(t, reason, f.Reason, "%v", err)
	require.Equal(t, code, f.Code)
	return f
}

func TestHeldCallsGoOnInTheOrderInWhichTheyCame(t *testing.T) {
	t.Parallel()
	const calls = 200
	h := newHeld(t, routes.HoldLimits{})
	h.put(paused, "1")
	var mu sync.Mutex
	var order []int
	var group sync.WaitGroup
	for i := range calls {
		group.Go(func() {
			r, err := h.admit(t.Context(), "")
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
			if err != nil || r.SchemaVersion != "2" {
				t.Errorf("call %d: %v %v", i, r, err)
			}
		})
		h.waits(i + 1)
	}
	h.put(paused, "2")
	h.waits(calls)
	h.put(active, "2")
	group.Wait()
	// Between the end of the waiting and the list a processor may be taken away from a few of them.
	near := 0
	for at, i := range order {
		if at-i < 10 && i-at < 10 {
			near++
		}
	}
	require.Greater(t, near, calls/2, "%v", order)
	n, longest := h.table.Held()
	require.Zero(t, n)
	require.Positive(t, longest)
}

func TestAHeldCallEndsWithTheTimeTheDeadlineOrTheCaller(t *testing.T) {
	t.Parallel()
	h := newHeld(t, routes.HoldLimits{Time: 50 * time.Millisecond})
	h.put(paused, "1")
	_, err := h.admit(t.Context(), "")
	require.Positive(t, requireRefused(t, err, codes.Unavailable, fault.TenantMaintenance).RetryAfter)

	long := newHeld(t, routes.HoldLimits{Time: time.Hour})
	long.put(paused, "1")
	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = long.admit(hurried, "")
	requireRefused(t, err, codes.Unavailable, fault.TenantMaintenance)

	ctx, goAway := context.WithCancel(t.Context())
	gone, stays := make(chan error, 1), make(chan error, 1)
	go func() { _, err := long.admit(ctx, ""); gone <- err }()
	long.waits(1)
	go func() { _, err := long.admit(t.Context(), ""); stays <- err }()
	long.waits(2)
	goAway()
	require.ErrorIs(t, <-gone, context.Canceled)
	long.waits(1)
	long.put(suspended, "1")
	requireRefused(t, <-stays, codes.PermissionDenied, fault.CompanySuspended)

	long.put(paused, "1")
	go func() { _, err := long.admit(t.Context(), ""); stays <- err }()
	long.waits(1)
	long.table.Remove(long.id)
	requireRefused(t, <-stays, codes.NotFound, fault.CompanyNotFound)
}

func TestACallThatGivesUpDoesNotStopTheOnesBehindIt(t *testing.T) {
	t.Parallel()
	h := newHeld(t, routes.HoldLimits{Time: time.Hour})
	for range 200 {
		h.put(paused, "1")
		ctx, goAway := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i := range 9 {
			group.Go(func() {
				of := t.Context()
				if i%3 != 0 {
					of = ctx
				}
				if _, err := h.admit(of, ""); err != nil && of != ctx {
					t.Error(err)
				}
			})
		}
		h.waits(9)
		goAway() // They are on their way out when their turn comes.
		h.put(active, "1")
		group.Wait()
	}
}

func TestOnlySoManyCallsAreHeld(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]routes.HoldLimits{"of a company": {PerCompany: 3}, "in all": {Total: 3}} {
		h := newHeld(t, limits)
		h.put(paused, "1")
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				if _, err := h.admit(t.Context(), ""); err != nil {
					t.Error(name, err)
				}
			})
		}
		h.waits(3)
		_, err := h.admit(t.Context(), "")
		require.Positive(t, requireRefused(t, err, codes.ResourceExhausted, fault.TooManyHeld).RetryAfter, name)
		h.put(active, "1")
		group.Wait()
		_, err = h.admit(t.Context(), "")
		require.NoError(t, err)
	}
}

func TestACallWaitsForTheSchemaThatItWants(t *testing.T) {
	t.Parallel()
	h := newHeld(t, routes.HoldLimits{})
	done := make(chan *routes.Route, 1)
	go func() {
		r, err := h.admit(t.Context(), "20261101000003")
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	h.waits(1)
	_, err := h.admit(t.Context(), "1")
	require.NoError(t, err, "nobody else waits")
	h.put(paused, "1")
	h.put(paused, "20261101000003")
	h.put(active, "20261101000002")
	h.waits(1)
	h.put(active, "20261101000004")
	require.Equal(t, "20261101000004", (<-done).SchemaVersion)

	short := newHeld(t, routes.HoldLimits{Time: 20 * time.Millisecond})
	_, err = short.admit(t.Context(), "2")
	f := requireRefused(t, err, codes.FailedPrecondition, fault.SchemaTooOld)
	require.Equal(t, map[string]string{"wanted": "2", "got": "1"}, f.Metadata)
	require.Positive(t, f.RetryAfter)
}

func TestASnapshotLetsHeldCallsGoOn(t *testing.T) {
	t.Parallel()
	h := newHeld(t, routes.HoldLimits{})
	h.put(paused, "1")
	done := make(chan error, 1)
	go func() { _, err := h.admit(t.Context(), ""); done <- err }()
	h.waits(1)
	h.table.Swap([]*routes.Route{{CompanyID: h.id, Slug: "a", State: active, Version: 9}})
	require.NoError(t, <-done)
}

func TestATableThatStopsHoldsNobody(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := uuid.New()
	f.next().snapshot(1, route(id, "a", 1, paused))
	<-f.table.Ready()
	admit := func() error {
		_, err := f.table.Admit(t.Context(), routes.ID(id), "")
		return err
	}
	done := make(chan error, 1)
	go func() { done <- admit() }()
	eventually(t, func() bool { calls, _ := f.table.Held(); return calls == 1 })
	f.stop()
	requireRefused(t, <-done, codes.Unavailable, fault.TenantMaintenance)
	requireRefused(t, admit(), codes.Unavailable, fault.TenantMaintenance)
}

func TestAWantedSchemaIsOneVersion(t *testing.T) {
	t.Parallel()
	for _, bad := range []metadata.MD{metadata.Pairs(routes.MinSchemaMetadata, ""), metadata.Pairs(routes.MinSchemaMetadata, "1", routes.MinSchemaMetadata, "2"),
		metadata.Pairs(routes.MinSchemaMetadata, strings.Repeat("1", 101))} {
		_, err := routes.MinSchema(bad)
		requireRefused(t, err, codes.InvalidArgument, fault.FieldInvalid)
	}
	got, err := routes.MinSchema(metadata.Pairs("Tenantry-Min-Schema", "7"))
	require.NoError(t, err)
	require.Equal(t, "7", got)
	got, err = routes.MinSchema(nil)
	require.NoError(t, err)
	require.Empty(t, got)
}
