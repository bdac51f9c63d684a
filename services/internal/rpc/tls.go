package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tenantry/tenantry/services/internal/identity"
)

// TLS names the files of one end of a connection, in PEM.
type TLS struct {
	// CA is the authority that signed every certificate of the system.
	CA string
	// Cert and Key are this end's own; a client may have none.
	Cert string
	Key  string
	// Peer, at a client, is the name that the server's certificate has to bear, such as `service/registry`: another of the
	// system's own servers at its address is not taken for it. Empty means that its host name is enough.
	Peer string
}

// rereadAfter is how old what was read of a certificate's files may be: renewed files are in use this much later,
// without a restart.
const rereadAfter = time.Minute

// Server returns what a server needs: TLS 1.3, and a client's certificate verified when it has one.
func (f TLS) Server() (credentials.TransportCredentials, error) {
	roots, err := f.roots()
	if err != nil {
		return nil, err
	}
	own := &keyPair{files: f}
	if _, err := own.load(); err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientCAs:      roots,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.load() },
	}), nil
}

// Client returns what a client needs: the server verified, and this end's certificate shown when there is one.
func (f TLS) Client() (credentials.TransportCredentials, error) {
	roots, err := f.roots()
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
	if f.Peer != "" {
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			server, err := identity.FromCertificate(state.PeerCertificates[0])
			if err == nil && server.Name != f.Peer {
				err = fmt.Errorf("rpc: the server is %s, want %s", server.Name, f.Peer)
			}
			return err
		}
	}
	if f.Cert != "" {
		own := &keyPair{files: f}
		if _, err := own.load(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.load() }
	}
	return credentials.NewTLS(cfg), nil
}

func (f TLS) roots() (*x509.CertPool, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("rpc: the authority's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("rpc: the authority's certificate: %s holds no certificate", f.CA)
	}
	return pool, nil
}

// keyPair is a certificate that is read again from time to time.
type keyPair struct {
	files TLS

	mu   sync.Mutex
	pair *tls.Certificate
	read time.Time
}

// load returns the certificate. Where the files cannot be read any more, it stays with what it read before.
func (k *keyPair) load() (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair != nil && time.Since(k.read) < rereadAfter {
		return k.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(k.files.Cert, k.files.Key)
	switch {
	case err == nil:
		k.pair = &pair
	case k.pair == nil:
		return nil, fmt.Errorf("rpc: this end's certificate: %w", err)
	}
	k.read = time.Now()
	return k.pair, nil
}
