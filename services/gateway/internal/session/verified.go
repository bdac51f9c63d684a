package session

import (
	"time"

	"github.com/tenantry/tenantry/services/gateway/internal/cache"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/token"
)

// verifiedKept is how many verified tokens are remembered, access tokens and assertions each: some 400 bytes a token.
const verifiedKept = 65_536

// proof is a token that was shown, by its hash so that no credential stays in memory, and to whom an assertion was made:
// one that is good for an upstream is not for another.
type proof struct {
	token    credential.Hash
	audience string
}

// bearer is whom a verified token speaks of.
type bearer struct {
	caller identity.Caller
	// by is the verifier that found the token good. With another set of keys it has to be verified again.
	by *token.Verifier
}

// verified remembers tokens whose signature was checked, which costs more than all else that the gateway does for a call.
// It does not know of revocation: Authenticate asks for that at each call.
type verified struct{ recent cache.Cache[proof, bearer] }

func newVerified() *verified {
	return &verified{cache.New[proof](cache.Options[bearer]{Most: verifiedKept, Life: func(b bearer) time.Duration { return time.Until(b.caller.ExpiresAt) }})}
}

// get returns whom a token speaks of that this verifier found good before and that has not ended.
func (v *verified) get(p proof, by *token.Verifier) (identity.Caller, bool) {
	b, ok := v.recent.Get(p)
	// The cache's clock is its own; the token's end is not left to it.
	if !ok || b.by != by || !time.Now().Before(b.caller.ExpiresAt) {
		return identity.Caller{}, false
	}
	return b.caller, true
}

func (v *verified) put(p proof, c identity.Caller, by *token.Verifier) {
	v.recent.Set(p, bearer{c, by})
}

func (v *verified) close() { v.recent.Close() }
