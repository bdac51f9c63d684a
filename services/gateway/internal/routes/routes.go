// Package routes is the gateway's replica of where every tenant lives: filled by a snapshot from the registry, kept by
// the changes that follow it, and read without a lock. It serves on while the registry is away, and tells how old it is.
//
// It also passes on which credentials ended, and which tenants' connections have to be drained; acting on that is
// packages session's and conns'.
package routes

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// Route is where one tenant lives. It is never changed: a change makes another. Whoever gave one to a table has given it away.
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
	resolver *resolver

	known    atomic.Pointer[replica]
	clusters atomic.Pointer[map[string]*registryv1.Cluster]
	fresh    atomic.Int64 // when the stream last spoke, in Unix nanoseconds
	sequence int64        // Run's alone

	writing sync.Mutex // one changes what is known at a time; readers take no lock
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	ready   chan struct{} // closed with the first snapshot
}

// New returns a table that follows a registry. instance names this gateway. Without a registry, a table is what is Put.
func New(client registryv1.RouteServiceClient, instance string, events Events, log *zap.Logger) *Table {
	if log == nil {
		log = zap.NewNop()
	}
	t := &Table{client: client, instance: instance, events: events, log: log, resolver: newResolver(client), changed: make(chan struct{}), ready: make(chan struct{})}
	t.known.Store(newReplica())
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
	r := t.known.Load().byID.get(company)
	return r, r != nil
}

// BySlug returns the route of the company with a slug.
func (t *Table) BySlug(slug string) (*Route, bool) {
	r := t.known.Load().bySlug.get(slug)
	return r, r != nil
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
				return nil, unknown()
			default:
				return nil, fault.New(codes.Unavailable, fault.CompanyNotReady, "this gateway does not know the companies yet").RetryIn(arrival)
			}
		}
	}
	return opened(r)
}

// opened returns a route if its tenant may be served.
func opened(r *Route) (*Route, error) {
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
