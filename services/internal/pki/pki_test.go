package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/pki"
)

func TestACertificateBearsItsNameAndIsKeptWhileItIsGood(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := pki.Open(dir)
	require.NoError(t, err)
	files, err := a.Issue("service/gateway", "localhost", "127.0.0.1")
	require.NoError(t, err)

	cert := leaf(t, files)
	caller, err := identity.FromCertificate(cert)
	require.NoError(t, err)
	require.Equal(t, identity.Gateway, caller.Kind)
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(a.CA())
	require.NoError(t, err)
	require.True(t, roots.AppendCertsFromPEM(ca))
	for _, host := range []string{"localhost", "127.0.0.1"} {
		_, err = cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		require.NoError(t, err)
	}

	again, err := pki.Open(dir)
	require.NoError(t, err)
	_, err = again.Issue("service/gateway", "localhost", "127.0.0.1")
	require.NoError(t, err)
	require.Equal(t, cert.SerialNumber, leaf(t, files).SerialNumber)
	_, err = again.Issue("service/gateway", "localhost", "127.0.0.1", "gateway")
	require.NoError(t, err)
	require.NotEqual(t, cert.SerialNumber, leaf(t, files).SerialNumber)

	info, err := os.Stat(files.Key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestACertificateThatOnlyCallsIsNoServers(t *testing.T) {
	t.Parallel()
	a, err := pki.Open(t.TempDir())
	require.NoError(t, err)
	files, err := a.Issue("operator/alice")
	require.NoError(t, err)
	require.NotContains(t, leaf(t, files).ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	_, err = a.Issue("king/arthur")
	require.Error(t, err)
}

func TestADamagedAuthorityIsAnErrorAndNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := pki.Open(dir)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(a.CA(), []byte("garbage"), 0o600))
	_, err = pki.Open(dir)
	require.Error(t, err)
}

func leaf(t *testing.T, files pki.Files) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	require.NoError(t, err)
	return pair.Leaf
}
