// Package pki makes certificates for development, tests and the demo: an authority of one's own and, signed by it, one
// certificate per service, operator, signup flow and upstream, whose URI SAN is what the others know it by (package
// identity). In production any authority that writes the same names will do; package rpc reads its files alike.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tenantry/tenantry/services/internal/identity"
)

// How long certificates last, and how close to its end one is made anew.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	renewBefore     = 30 * 24 * time.Hour
)

// Files are a certificate and its key, in PEM.
type Files struct {
	// Cert is the path of the certificate.
	Cert string
	// Key is the path of the private key, readable by its owner alone.
	Key string
}

// Authority signs certificates; its own are `ca.pem` and `ca-key.pem` in its directory.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open loads the authority of a directory, and makes both where there is none yet.
func Open(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	a := &Authority{dir: dir}
	cert, key, err := load(a.files("ca"))
	if errors.Is(err, fs.ErrNotExist) {
		return a, a.create()
	}
	if err != nil {
		return nil, fmt.Errorf("pki: the authority in %s: %w", dir, err)
	}
	a.cert, a.key = cert, key
	return a, nil
}

// CA is the path of the authority's certificate.
func (a *Authority) CA() string { return a.files("ca").Cert }

// Issue returns the certificate of a name such as `service/gateway` or `operator/alice`, good for a server at these
// hosts (names or addresses; none for one that only calls). One that is there already, is not near its end and has the
// same hosts is kept.
func (a *Authority) Issue(name string, hosts ...string) (Files, error) {
	uri := identity.URI(name)
	if _, err := identity.FromURI(uri); err != nil {
		return Files{}, err
	}
	files := a.files(strings.ReplaceAll(strings.TrimPrefix(name, "service/"), "/", "-"))
	if a.good(files, uri, hosts) {
		return files, nil
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		URIs:        []*url.URL{uri},
		NotAfter:    time.Now().Add(certificateLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, fmt.Errorf("pki: %w", err)
	}
	if err := a.sign(files, template, a.cert, key, a.key); err != nil {
		return Files{}, err
	}
	return files, nil
}

func (a *Authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Tenantry development authority"},
		NotAfter:              time.Now().Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if err := a.sign(a.files("ca"), template, template, key, key); err != nil {
		return err
	}
	a.cert, a.key, err = load(a.files("ca"))
	return err
}

// sign writes a certificate and its key: the key first, so that whoever finds a certificate finds its key.
func (a *Authority) sign(to Files, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if err := write(to.Key, "PRIVATE KEY", private, 0o600); err != nil {
		return err
	}
	return write(to.Cert, "CERTIFICATE", der, 0o644)
}

// good tells whether the files hold a certificate that Issue would make again.
func (a *Authority) good(files Files, uri *url.URL, hosts []string) bool {
	cert, _, err := load(files)
	if err != nil || time.Until(cert.NotAfter) < renewBefore || cert.CheckSignatureFrom(a.cert) != nil {
		return false
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != uri.String() || len(cert.DNSNames)+len(cert.IPAddresses) != len(hosts) {
		return false
	}
	for _, h := range hosts {
		if cert.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

func (a *Authority) files(name string) Files {
	return Files{Cert: filepath.Join(a.dir, name+".pem"), Key: filepath.Join(a.dir, name+"-key.pem")}
}

func load(files Files) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certDER, err := read(files.Cert)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := read(files.Key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", files.Key, files.Cert)
	}
	return cert, key, nil
}

func read(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", path)
	}
	return block.Bytes, nil
}

// write replaces a file whole: a reader sees the old or the new one.
func write(path, kind string, der []byte, mode fs.FileMode) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	return nil
}
