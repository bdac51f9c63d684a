// Package limits refuses calls that are too many: of one company, of one credential, from one address before it is known
// who calls, and of all together once the gateway cannot keep up. Who is refused is told for how long. Before that, it slows
// down whoever calls so much that others wait.
//
// Rates are token buckets. Which calls wait for a tenant's connections, and who is next, is package conns' to know; this
// one keeps the gateway itself alive, and passwords and credentials from being guessed.
package limits

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

// Config says what is too many; the zero value limits nothing. Rates are calls a second, 0 for any number.
type Config struct {
	// PerCompany is the rate of one company's calls, whoever makes them. What one second allows may come at once.
	PerCompany float64
	// PerCredential is the rate of one session's or API key's calls. What an upstream calls with an assertion of it counts
	// apart. What one second allows may come at once.
	PerCredential float64
	// PerAddress is the rate at which one client address, or one /64 network of IPv6, may call methods that anyone may call,
	// such as Login; and, counted apart, the rate at which it may show credentials that are not good: while those are too
	// many, all its calls are refused before anything is checked. What five seconds allow may come at once. Who has a
	// certificate is not limited. The address is the connection's: no metadata is trusted.
	PerAddress float64
	// MaxInFlight is how many calls run at once before calls are shed, fewer while the gateway is overloaded; 0 for any
	// number. See inFlight.
	MaxInFlight int
	// Pacing slows down a company that makes most of the calls while others wait for processors because of it. See pacing.
	Pacing bool
}

// bursts, in seconds of the rate: people come in bunches, programs need not.
const (
	burst        = 1
	addressBurst = 5
)

// highestRate bounds rates, far above what a gateway can serve and far below where durations overflow.
const highestRate = 1e9

// Check tells what is wrong with the configuration.
func (c Config) Check() error {
	for name, r := range map[string]float64{"company": c.PerCompany, "credential": c.PerCredential, "address": c.PerAddress} {
		if math.IsNaN(r) || r < 0 || r > highestRate {
			return fmt.Errorf("limits: got a rate per %s of %v, want 0 to %g calls a second", name, r, highestRate)
		}
	}
	if c.MaxInFlight < 0 {
		return fmt.Errorf("limits: got %d calls in flight at most, want 0 or more", c.MaxInFlight)
	}
	return nil
}

// Limits refuses calls, as an rpc.Limiter. Run it while the server runs; Close it afterwards.
type Limits struct {
	companies   *buckets[uuid.UUID]
	credentials *buckets[credential]
	open        *buckets[netip.Addr] // calls that anyone may make
	guesses     *buckets[netip.Addr] // credentials that were not good
	inFlight    *inFlight
	pacing      *pacing
}

// credential is what a caller shows: a session or an API key, and the upstream that shows an assertion of it.
type credential struct {
	id       uuid.UUID
	upstream string
}

// New returns limits, nil when nothing is limited.
func New(cfg Config) (*Limits, error) {
	if err := cfg.Check(); err != nil || cfg == (Config{}) {
		return nil, err
	}
	return &Limits{
		companies:   newBuckets[uuid.UUID]("company", cfg.PerCompany, burst, bucketsKept),
		credentials: newBuckets[credential]("credential", cfg.PerCredential, burst, bucketsKept),
		open:        newBuckets[netip.Addr]("address", cfg.PerAddress, addressBurst, bucketsKept),
		guesses:     newBuckets[netip.Addr]("address", cfg.PerAddress, addressBurst, bucketsKept),
		inFlight:    newInFlight(cfg.MaxInFlight),
		pacing:      newPacing(cfg.Pacing),
	}, nil
}

// Run adapts to the gateway's load until the context ends.
func (l *Limits) Run(ctx context.Context) {
	if l == nil || l.inFlight == nil && l.pacing == nil {
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	waits := newWaits()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := waits.read()
			l.inFlight.observe(now.median)
			l.pacing.observe(now)
		}
	}
}

// Close forgets everything.
func (l *Limits) Close() {
	if l == nil {
		return
	}
	l.companies.close()
	l.credentials.close()
	l.open.close()
	l.guesses.close()
}

// Arrive implements rpc.Limiter.
func (l *Limits) Arrive(certified identity.Caller, from net.Addr, open bool) error {
	address, ok := addressOf(certified, from)
	if !ok {
		return nil
	}
	if open {
		return l.open.take(address, time.Now())
	}
	return l.guesses.check(address)
}

// Guessed implements rpc.Limiter.
func (l *Limits) Guessed(certified identity.Caller, from net.Addr) {
	if address, ok := addressOf(certified, from); ok {
		// That call has an answer already. The next is what is refused.
		l.guesses.spend(address)
	}
}

// Begin implements rpc.Limiter.
func (l *Limits) Begin(ctx context.Context, c *identity.Caller) error {
	if exempt(c.Kind) {
		return nil
	}
	if c.IsTenant() {
		// The credential first: what one that is refused tries is no matter of the others of its company.
		now := time.Now()
		if err := l.credentials.take(credentialOf(c), now); err != nil {
			return err
		}
		if err := l.companies.take(c.CompanyID, now); err != nil {
			return err
		}
	}
	if !l.inFlight.begin(c.CompanyID) {
		return fault.New(codes.Unavailable, fault.Overloaded, "more calls run here than can be served; this one was not begun").
			RetryIn(shedFor/2 + rand.N(shedFor))
	}
	if err := l.pacing.wait(ctx, c.CompanyID); err != nil {
		l.inFlight.end(c.CompanyID)
		return err
	}
	return nil
}

// shedFor is after how long a call that was shed may be tried again, on average: not all at once.
const shedFor = time.Second

// End implements rpc.Limiter.
func (l *Limits) End(c *identity.Caller) {
	if !exempt(c.Kind) {
		l.inFlight.end(c.CompanyID)
	}
}

// exempt tells whose calls are never too many: those of the people who run the system, and of its own services.
func exempt(k identity.Kind) bool {
	switch k {
	case identity.Operator, identity.Signup, identity.Registry, identity.Provisioner, identity.Gateway:
		return true
	case identity.Anonymous, identity.User, identity.APIKey, identity.Upstream:
	}
	return false
}

func credentialOf(c *identity.Caller) credential {
	of := credential{id: c.SessionID}
	if of.id == uuid.Nil {
		of.id = c.APIKeyID
	}
	if c.Kind == identity.Upstream {
		of.upstream = c.Name
	}
	return of
}

// addressOf is where a caller without a certificate calls from: its address, or its network where one client has a whole
// one (RFC 6177, section 2). It is false for who is not limited by it.
func addressOf(certified identity.Caller, from net.Addr) (netip.Addr, bool) {
	tcp, ok := from.(*net.TCPAddr)
	if !ok || certified.Kind != identity.Anonymous {
		return netip.Addr{}, false
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	if address.Is6() {
		network, err := address.Prefix(64)
		return network.Addr(), err == nil
	}
	return address, address.IsValid()
}

// Refusals are how many calls each limit refused so far.
type Refusals struct{ Company, Credential, Address, InFlight, Pacing uint64 }

// Stats are the limits' doings.
type Stats struct {
	Refusals
	// InFlight is how many calls run that are counted, Limit with how many calls begin to be shed; 0 for never.
	InFlight, Limit int
	// Slowed is how many companies are slowed down now, Delayed how many calls had to wait for that so far.
	Slowed  int
	Delayed uint64
}

// Stats returns them.
func (l *Limits) Stats() Stats {
	if l == nil {
		return Stats{}
	}
	calls, limit, shed := l.inFlight.stats()
	slowed, delayed, late := l.pacing.stats()
	return Stats{Refusals{l.companies.refusals(), l.credentials.refusals(), l.open.refusals() + l.guesses.refusals(), shed, late}, calls, limit, slowed, delayed}
}
