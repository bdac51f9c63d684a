package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/metadata"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/token"
)

// remembering is how many allocations a call of a remembered token may cost; parsing one costs ten times that.
const remembering = 12

func TestATokenIsVerifiedOnceAndAnAssertionToo(t *testing.T) { // Not parallel: others' allocations would count.
	f := start(t)
	readings := identity.Caller{Kind: identity.Upstream, Name: "upstream/readings"}
	assertion, err := f.own.SignAssertion(claims(), readings.Name)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		certified identity.Caller
		md        metadata.MD
	}{
		"access token": {identity.Caller{}, metadata.Pairs("authorization", "Bearer "+f.sign(claims()))},
		"assertion":    {readings, metadata.Pairs("tenantry-assertion", assertion)},
	} {
		first, err := f.sessions.Authenticate(t.Context(), c.certified, c.md)
		require.NoError(t, err, name)
		again, err := f.sessions.Authenticate(t.Context(), c.certified, c.md)
		require.NoError(t, err, name)
		require.Equal(t, first, again, name)
		allocations := testing.AllocsPerRun(100, func() { _, err = f.sessions.Authenticate(context.Background(), c.certified, c.md) })
		require.NoError(t, err, name)
		require.LessOrEqual(t, allocations, float64(remembering), name)
	}
}

func TestManyFirstCallsAtOnceAllFindTheKeys(t *testing.T) {
	t.Parallel()
	f := start(t)
	var group errgroup.Group
	for range 64 {
		signed := f.sign(claims())
		group.Go(func() error { _, err := f.bearer(signed); return err })
	}
	require.NoError(t, group.Wait())
}

func TestARememberedTokenEndsWhenItDoes(t *testing.T) {
	t.Parallel()
	f := start(t)
	c := claims()
	c.ExpiresAt = time.Now().Add(-3 * time.Second) // Good for two seconds more, since clocks differ.
	signed := f.sign(c)
	_, err := f.bearer(signed)
	require.NoError(t, err)
	require.Eventually(t, func() bool { _, err := f.bearer(signed); return fault.HasReason(err, fault.TokenExpired) }, 20*time.Second, 50*time.Millisecond)
}

func TestARevokedSessionEndsWhatIsRememberedOfItAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	revoked, other := claims(), claims()
	tokens := []string{f.sign(revoked), f.sign(other)}
	for range 3 {
		for _, signed := range tokens {
			_, err := f.bearer(signed)
			require.NoError(t, err)
		}
	}
	f.sessions.Revoke([]uuid.UUID{revoked.SessionID}, nil, time.Now().Add(time.Minute))
	_, err := f.bearer(tokens[0])
	requireReason(t, err, fault.CredentialsInvalid)
	_, err = f.bearer(tokens[1])
	require.NoError(t, err)

	f.closed.Store(other.CompanyID, true)
	_, err = f.bearer(tokens[1])
	requireReason(t, err, fault.CompanySuspended)
}

func TestWhatIsRememberedOfATokenEndsWithTheKeyThatSignedIt(t *testing.T) {
	t.Parallel()
	f := start(t)
	signed := f.sign(claims())
	_, err := f.bearer(signed)
	require.NoError(t, err)
	f.registry.mu.Lock()
	f.registry.keys = []token.Key{signer(t).Keys()[0]}
	f.registry.mu.Unlock()
	require.Eventually(t, func() bool { return f.sessions.LoadKeys(t.Context()) }, 20*time.Second, 50*time.Millisecond)
	_, err = f.bearer(signed)
	requireReason(t, err, fault.CredentialsInvalid)
}

func TestWhatIsRememberedOfAnAssertionIsGoodForItsUpstreamAlone(t *testing.T) {
	t.Parallel()
	f := start(t)
	assertion, err := f.own.SignAssertion(claims(), "upstream/readings")
	require.NoError(t, err)
	for range 3 {
		_, err = f.call(identity.Caller{Kind: identity.Upstream, Name: "upstream/readings"}, "tenantry-assertion", assertion)
		require.NoError(t, err)
		_, err = f.call(identity.Caller{Kind: identity.Upstream, Name: "upstream/other"}, "tenantry-assertion", assertion)
		requireReason(t, err, fault.CredentialsInvalid)
		_, err = f.bearer(assertion)
		requireReason(t, err, fault.CredentialsInvalid)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	f := start(b)
	md := metadata.Pairs("authorization", "Bearer "+f.sign(claims()))
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := f.sessions.Authenticate(context.Background(), identity.Caller{}, md); err != nil {
				b.Fatal(err)
			}
		}
	})
}
