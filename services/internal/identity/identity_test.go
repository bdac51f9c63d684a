package identity_test

import (
	"crypto/x509"
	"net/url"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/identity"
)

func TestACertificatesNameTellsTheKindOfCaller(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]identity.Kind{
		"service/registry":    identity.Registry,
		"service/provisioner": identity.Provisioner,
		"service/gateway":     identity.Gateway,
		"operator/alice":      identity.Operator,
		"signup/web":          identity.Signup,
		"upstream/readings":   identity.Upstream,
	} {
		c, err := identity.FromCertificate(&x509.Certificate{URIs: []*url.URL{identity.URI(name)}})
		require.NoError(t, err, name)
		require.Equal(t, identity.Caller{Kind: want, Name: name}, c)
	}
}

func TestANameThatIsNotOursIsNobody(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"spiffe://elsewhere/operator/alice", "https://tenantry/operator/alice", "spiffe://tenantry/operator/",
		"spiffe://tenantry/operator", "spiffe://tenantry/service/other", "spiffe://tenantry/operator/a/b",
		"spiffe://tenantry/king/arthur", "spiffe://tenantry/operator/alice?x=1", "spiffe://u@tenantry/operator/alice",
	} {
		u, err := url.Parse(name)
		require.NoError(t, err)
		_, err = identity.FromURI(u)
		require.Error(t, err, name)
	}
	two := &x509.Certificate{URIs: []*url.URL{identity.URI("operator/a"), identity.URI("service/gateway")}}
	_, err := identity.FromCertificate(two)
	require.ErrorContains(t, err, "2 URI names")
	_, err = identity.FromCertificate(&x509.Certificate{})
	require.Error(t, err)
}

func TestACallerIsNamedByTheCredentialBeforeTheCertificate(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057")
	require.Equal(t, "user/"+id.String(), identity.Caller{Kind: identity.User, Name: "service/gateway", UserID: id}.Actor())
	require.Equal(t, "operator/alice", identity.Caller{Kind: identity.Operator, Name: "operator/alice"}.Actor())
	require.Equal(t, "anonymous", identity.FromContext(t.Context()).Actor())
}
