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
	// Replaced is called after a whole snapshot from the registry came in place of what was known. What ended before it was
	// made is not told, so what was found out earlier about credentials may be wrong; nil where nobody cares.
	Replaced func()
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
	sequence atomic.Int64 // everything up to it is known; Run alone changes it
	newest   atomic.Int64 // what the registry knows, as it last said; 0 where it did not
	closing  atomic.Int64 // the last that closed a company or ended a credential
	old      atomic.Bool  // what is known was restored, and is not up to date yet

	writing sync.Mutex // one changes what is known at a time; readers take no lock
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	ready   chan struct{} // closed, with mu held, with the first snapshot
	holds   holds
}

// New returns a table that follows a registry. instance names this gateway. Without a registry, a table is what is Put.
func New(client registryv1.RouteServiceClient, instance string, events Events, log *zap.Logger) *Table {
	if log == nil {
		log = zap.NewNop()
	}
	t := &Table{client: client, instance: instance, events: events, log: log, resolver: newResolver(client), changed: make(chan struct{}), ready: make(chan struct{})}
	t.holds.queues = map[uuid.UUID][]*heldCall{}
	t.LimitHolds(HoldLimits{})
	t.known.Store(newReplica())
	t.clusters.Store(&map[string]*registryv1.Cluster{})
	return t
}

// Ready is closed when the first snapshot is whole, or what was restored is up to date, or by Settle.
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

// Company is whose route is wanted.
type Company struct {
	id   uuid.UUID
	slug string // empty where the id is known
}

// ID is the company with an id.
func ID(company uuid.UUID) Company { return Company{id: company} }

// Named is the company with an id or a slug.
func Named(company string) Company {
	if id, err := uuid.Parse(company); err == nil {
		return ID(id)
	}
	return Company{slug: company}
}

func (c Company) String() string {
	if c.slug != "" {
		return c.slug
	}
	return c.id.String()
}

// Find returns the route of a company that is here, whatever its state.
func (t *Table) Find(c Company) (*Route, bool) {
	if c.slug != "" {
		return t.BySlug(c.slug)
	}
	return t.ByID(c.id)
}

// Cluster returns a cluster.
func (t *Table) Cluster(name string) (*registryv1.Cluster, bool) {
	c, ok := (*t.clusters.Load())[name]
	return c, ok
}

// arrival is how long a route may take to come here from a company that just signed up.
const arrival = time.Second

// Open returns the route of a company whose tenants may be served. NOT_FOUND `COMPANY_NOT_FOUND`; PERMISSION_DENIED
// `COMPANY_SUSPENDED`; UNAVAILABLE `TENANT_MAINTENANCE`, or `COMPANY_NOT_READY` in any other state but ACTIVE, and before
// the first snapshot.
//
// A company that is not here yet may be a moment old: the registry is asked for it, and where that is away its route is
// waited for, shortly.
func (t *Table) Open(ctx context.Context, c Company) (*Route, error) {
	r, err := t.arrived(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, refusal := r.admits(""); refusal != nil {
		return nil, refusal
	}
	return r, nil
}

// Admit is Open for a call, which is held while its company is in maintenance or has an older core schema than the call
// wants; an empty minSchema wants none. When it was held for long enough it is UNAVAILABLE `TENANT_MAINTENANCE` or
// FAILED_PRECONDITION `SCHEMA_TOO_OLD`, and RESOURCE_EXHAUSTED `TOO_MANY_HELD` when as many are held as may be.
func (t *Table) Admit(ctx context.Context, c Company, minSchema string) (*Route, error) {
	r, err := t.arrived(ctx, c)
	if err != nil {
		return nil, err
	}
	later, refusal := r.admits(minSchema)
	switch {
	case refusal == nil:
		return r, nil
	case !later:
		return nil, refusal
	}
	// What it is held for is told by the stream, which may not have told of it at all.
	if _, ok := t.wait(ctx, c); !ok {
		return nil, refusal
	}
	return t.hold(ctx, r.CompanyID, minSchema)
}

// Remains tells whether what is under way for a company may go on: that nothing but maintenance keeps new calls away. Errors
// are those of Open, save TENANT_MAINTENANCE.
func (t *Table) Remains(ctx context.Context, company uuid.UUID) error {
	r, err := t.arrived(ctx, ID(company))
	if err != nil {
		return err
	}
	if later, refusal := r.admits(""); refusal != nil && !later {
		return refusal
	}
	return nil
}

// admits tells whether a call may go to where the route leads, and if not, why, and whether that will pass by itself.
// Versions compare as texts, as Atlas orders them.
func (r *Route) admits(minSchema string) (later bool, refusal *fault.Error) {
	switch r.State {
	case registryv1.CompanyState_COMPANY_STATE_ACTIVE:
		if r.SchemaVersion >= minSchema {
			return false, nil
		}
		return true, fault.New(codes.FailedPrecondition, fault.SchemaTooOld, "the company's schema is at %s, and the call wants %s", r.SchemaVersion, minSchema).
			With("wanted", minSchema).With("got", r.SchemaVersion).RetryIn(arrival)
	case registryv1.CompanyState_COMPANY_STATE_MAINTENANCE:
		return true, fault.New(codes.Unavailable, fault.TenantMaintenance, "the company is in maintenance").RetryIn(arrival)
	case registryv1.CompanyState_COMPANY_STATE_SUSPENDED:
		return false, fault.New(codes.PermissionDenied, fault.CompanySuspended, "the company is suspended")
	default:
		return false, fault.New(codes.Unavailable, fault.CompanyNotReady, "the company is not open now").RetryIn(arrival)
	}
}

func unknown() *fault.Error {
	return fault.New(codes.NotFound, fault.CompanyNotFound, "there is no such company")
}

// arrived returns a company's route, whatever its state.
func (t *Table) arrived(ctx context.Context, c Company) (*Route, error) {
	if r, ok := t.Find(c); ok {
		return r, nil
	}
	select {
	case <-t.ready:
		r, err := t.ask(ctx, c)
		if r != nil || ctx.Err() != nil || fault.HasReason(err, fault.CompanyNotFound) {
			return r, err
		}
	default:
	}
	if r, ok := t.wait(ctx, c); ok {
		return r, nil
	}
	select {
	case <-t.ready:
		if !t.old.Load() {
			return nil, unknown()
		}
		return nil, fault.New(codes.Unavailable, fault.CompanyNotReady, "the registry is away, and this gateway did not know the company when it last saw it").RetryIn(arrival)
	default:
		return nil, fault.New(codes.Unavailable, fault.CompanyNotReady, "this gateway does not know the companies yet").RetryIn(arrival)
	}
}

func (t *Table) wait(ctx context.Context, c Company) (*Route, bool) {
	patience := time.NewTimer(arrival)
	defer patience.Stop()
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		if r, ok := t.Find(c); ok {
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
