package routes_test

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
)

// model is what a table must equal: plain maps.
type model struct {
	byID   map[uuid.UUID]routes.Route
	bySlug map[string]uuid.UUID
}

func (m *model) put(r routes.Route) {
	old, ok := m.byID[r.CompanyID]
	if ok && old.Version > r.Version {
		return
	}
	if ok && old.Slug != r.Slug && m.bySlug[old.Slug] == r.CompanyID {
		delete(m.bySlug, old.Slug)
	}
	m.byID[r.CompanyID], m.bySlug[r.Slug] = r, r.CompanyID
}

func (m *model) remove(id uuid.UUID) {
	if r, ok := m.byID[id]; ok {
		delete(m.byID, id)
		if m.bySlug[r.Slug] == id {
			delete(m.bySlug, r.Slug)
		}
	}
}

func TestATableEqualsAPlainMapWhateverHappensWhileOthersRead(t *testing.T) {
	t.Parallel()
	const companies, slugs = 300, 350
	ids := make([]uuid.UUID, companies)
	for i := range ids {
		ids[i] = uuid.New()
	}
	rapid.Check(t, func(t *rapid.T) {
		table := routes.New(nil, "test", routes.Events{Drain: func(uuid.UUID) {}}, nil)
		m := &model{byID: map[uuid.UUID]routes.Route{}, bySlug: map[string]uuid.UUID{}}
		var wrong atomic.Pointer[string]
		stop := make(chan struct{})
		var readers sync.WaitGroup
		defer readers.Wait()
		end := sync.OnceFunc(func() { close(stop) })
		defer end()
		for range 2 {
			readers.Go(func() { read(table, ids, stop, &wrong) })
		}
		draw := func(version int) routes.Route {
			return routes.Route{CompanyID: ids[rapid.IntRange(0, companies-1).Draw(t, "company")], DatabaseID: uuid.New(), Version: int64(version),
				Slug: "s" + strconv.Itoa(rapid.IntRange(0, slugs-1).Draw(t, "slug")), Cluster: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "cluster"), State: active}
		}
		for step := range rapid.IntRange(1, 400).Draw(t, "steps") {
			switch what := rapid.IntRange(0, 99).Draw(t, "what"); {
			case what < 75:
				// Now and then an old version comes late.
				r := draw(step - rapid.IntRange(0, 2).Draw(t, "late"))
				m.put(r)
				table.Put(&r)
			case what < 98:
				id := ids[rapid.IntRange(0, companies-1).Draw(t, "removed")]
				m.remove(id)
				table.Remove(id)
			default:
				m = &model{byID: map[uuid.UUID]routes.Route{}, bySlug: map[string]uuid.UUID{}}
				var some []*routes.Route
				for range rapid.IntRange(0, 200).Draw(t, "size") {
					r := draw(step)
					if _, taken := m.bySlug[r.Slug]; !taken && m.byID[r.CompanyID].Slug == "" {
						m.put(r)
						some = append(some, &r)
					}
				}
				table.Swap(some)
			}
		}
		end()
		readers.Wait()
		if text := wrong.Load(); text != nil {
			t.Fatal(*text)
		}
		for _, id := range ids {
			got, ok := table.ByID(id)
			want, known := m.byID[id]
			if ok != known || ok && *got != want {
				t.Fatalf("company %s: got %+v, want %+v", id, got, want)
			}
		}
		for i := range slugs {
			slug := "s" + strconv.Itoa(i)
			got, ok := table.BySlug(slug)
			id, known := m.bySlug[slug]
			if ok != known || ok && *got != m.byID[id] {
				t.Fatalf("slug %s: got %+v, want that of %s", slug, got, id)
			}
		}
	})
}

// read looks everything up until told to stop: what is found is what was asked for.
func read(table *routes.Table, ids []uuid.UUID, stop <-chan struct{}, wrong *atomic.Pointer[string]) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		id := ids[i%len(ids)]
		if r, ok := table.ByID(id); ok {
			if r.CompanyID != id {
				text := fmt.Sprintf("asked for %s and got %s", id, r.CompanyID)
				wrong.Store(&text)
			}
			if other, ok := table.BySlug(r.Slug); ok && other.Slug != r.Slug {
				text := fmt.Sprintf("asked for %s and got %s", r.Slug, other.Slug)
				wrong.Store(&text)
			}
		}
	}
}

func TestALookUpAllocatesNothing(t *testing.T) {
	table, some := filled(t, 1000)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_, a := table.ByID(some[7].CompanyID)
		_, b := table.BySlug(some[7].Slug)
		if !a || !b {
			t.Error("it is not there")
		}
	}))
}

func TestARouteTakesFewBytes(t *testing.T) {
	const most = 300
	require.Less(t, bytesEach(t, 20_000), float64(most))
}

// many is how many tenants the benchmarks have.
const many = 1_000_000

// The keys are looked up in another order than that in which their routes lie in memory, and are themselves at hand, as
// those of a call are that was just read.
func BenchmarkByID(b *testing.B) {
	table, some := filled(b, many)
	ids := make([]uuid.UUID, many)
	for i, j := range rand.Perm(many) {
		ids[i] = some[j].CompanyID
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := table.ByID(ids[i]); !ok {
			b.Fatal("it is not there")
		}
		if i++; i == many {
			i = 0
		}
	}
}

// BenchmarkTwoLoads is the least that finding one of so many can take: a slot and what it points to, at random places of memory.
func BenchmarkTwoLoads(b *testing.B) {
	width := bits.Len(many) + 1
	slots := make([]*routes.Route, 1<<width) // As many as the index has.
	for i := range slots {
		if i < many {
			slots[i] = made(i)
			continue
		}
		slots[i] = slots[i-many]
	}
	rand.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
	at := uint64(1)
	for b.Loop() {
		r := slots[at*0x9E3779B97F4A7C15>>(64-width)] // Fibonacci hashing: Knuth, TAOCP 3, 6.4.
		at = at*3 + uint64(r.Version)
	}
}

func BenchmarkBySlug(b *testing.B) {
	table, some := filled(b, many)
	slugs := make([]string, many)
	for i, j := range rand.Perm(many) {
		slugs[i] = strings.Clone(some[j].Slug)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := table.BySlug(slugs[i]); !ok {
			b.Fatal("it is not there")
		}
		if i++; i == many {
			i = 0
		}
	}
}

// BenchmarkMemory tells the bytes that a table takes for each of a million tenants.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(bytesEach(b, many), "B/tenant")
	}
}

// BenchmarkMemoryOfTenThousand is that of a small fleet.
func BenchmarkMemoryOfTenThousand(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(bytesEach(b, 10_000), "B/tenant")
	}
}

// BenchmarkSnapshot loads a million routes as they come from a registry, over a connection in memory.
func BenchmarkSnapshot(b *testing.B) {
	const batch = 1000
	batches := make([]*registryv1.WatchRoutesResponse, many/batch)
	for i := range batches {
		some := &registryv1.RouteBatch{}
		for j := range batch {
			id := uuid.New()
			r := route(id, "company-"+strconv.Itoa(i*batch+j), 1, active)
			r.SchemaVersion = "20261101000013"
			some.Routes = append(some.Routes, r)
		}
		batches[i] = &registryv1.WatchRoutesResponse{Sequence: 1, Event: &registryv1.WatchRoutesResponse_Routes{Routes: some}}
	}
	for b.Loop() {
		f := start(b)
		s := f.next()
		begun := time.Now()
		s.say <- &registryv1.WatchRoutesResponse{Sequence: 1, Event: &registryv1.WatchRoutesResponse_SnapshotStart{SnapshotStart: &registryv1.SnapshotStart{}}}
		for _, m := range batches {
			s.say <- m
		}
		s.end(1)
		<-f.table.Ready()
		b.ReportMetric(time.Since(begun).Seconds(), "s/snapshot")
	}
}

// bytesEach is what the heap grows by with a table, for each tenant.
func bytesEach(tb testing.TB, n int) float64 {
	tb.Helper()
	before := heap()
	table := routes.New(nil, "test", routes.Events{}, nil)
	for i := range n {
		table.Put(made(i))
	}
	grown := heap() - before
	runtime.KeepAlive(table)
	return float64(grown) / float64(n)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// made is a route as one read off the wire: no part of it is shared with another.
func made(i int) *routes.Route {
	number := strconv.Itoa(i)
	return &routes.Route{CompanyID: uuid.New(), DatabaseID: uuid.New(), Slug: "company-" + number, Cluster: "cluster-" + strconv.Itoa(i%200), Version: 1,
		SchemaVersion: "20261101" + fmt.Sprintf("%06d", i%3), State: active, PasswordVersion: 1}
}

// filled is a table, and copies of its routes.
func filled(tb testing.TB, n int) (*routes.Table, []routes.Route) {
	tb.Helper()
	table := routes.New(nil, "test", routes.Events{}, nil)
	some := make([]routes.Route, n)
	for i := range some {
		r := made(i)
		some[i] = *r
		table.Put(r)
	}
	return table, some
}
