package forward

import (
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/gateway/internal/cache"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/token"
)

// AssertionLife is how long an assertion is good for: long enough for the work of a call, and for clocks that differ.
// Revoking the session or key behind it ends it earlier, as the gateway checks that when an upstream shows it.
const AssertionLife = 2 * time.Minute

// One assertion serves all calls of one caller to one upstream for a while, as signing costs more than forwarding. What
// an upstream gets is good for AssertionLife - assertionReuse at least.
const (
	assertionReuse  = 30 * time.Second
	assertionsKept  = 65_536
	rolesSeparation = ","
)

// subject is whom an assertion speaks of, and to whom.
type subject struct {
	company, user, session, apiKey uuid.UUID
	roles, audience                string
}

// assertions signs them and keeps those that can be used again.
type assertions struct {
	signer *token.Signer
	recent cache.Cache[subject, string]
}

func newAssertions(signer *token.Signer) *assertions {
	life := func(string) time.Duration { return assertionReuse }
	return &assertions{signer: signer, recent: cache.New[subject](cache.Options[string]{Most: assertionsKept, Life: life})}
}

// of returns an assertion of the caller for an upstream.
func (a *assertions) of(c identity.Caller, audience string) (string, error) {
	if !c.IsTenant() {
		return "", fault.New(codes.PermissionDenied, fault.MethodNotAllowed,
			"forwarded calls are made for a company, and %s acts for none", c.Actor())
	}
	key := subject{c.CompanyID, c.UserID, c.SessionID, c.APIKeyID, strings.Join(c.Roles, rolesSeparation), audience}
	if signed, ok := a.recent.Get(key); ok {
		return signed, nil
	}
	signed, err := a.signer.SignAssertion(token.Claims{
		CompanyID: c.CompanyID, UserID: c.UserID, SessionID: c.SessionID, APIKeyID: c.APIKeyID, Roles: c.Roles,
		ExpiresAt: time.Now().Add(AssertionLife),
	}, audience)
	if err != nil {
		return "", err
	}
	a.recent.Set(key, signed)
	return signed, nil
}

func (a *assertions) close() { a.recent.Close() }
