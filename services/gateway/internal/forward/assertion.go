package forward

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
	"google.golang.org/grpc/codes"

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
	recent *otter.Cache[subject, string]
}

func newAssertions(signer *token.Signer) (*assertions, error) {
	recent, err := otter.New(&otter.Options[subject, string]{
		MaximumSize:      assertionsKept,
		ExpiryCalculator: otter.ExpiryWriting[subject, string](assertionReuse),
	})
	if err != nil {
		return nil, fmt.Errorf("forward: %w", err)
	}
	return &assertions{signer: signer, recent: recent}, nil
}

// of returns an assertion of the caller for an upstream.
func (a *assertions) of(c identity.Caller, audience string) (string, error) {
	if !c.IsTenant() {
		return "", fault.New(codes.PermissionDenied, fault.MethodNotAllowed,
			"forwarded calls are made for a company, and %s acts for none", c.Actor())
	}
	key := subject{c.CompanyID, c.UserID, c.SessionID, c.APIKeyID, strings.Join(c.Roles, rolesSeparation), audience}
	if signed, ok := a.recent.GetIfPresent(key); ok {
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

func (a *assertions) close() { a.recent.StopAllGoroutines() }
