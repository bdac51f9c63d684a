package devserver

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/pki"
	"github.com/tenantry/tenantry/services/internal/rpc"
	"github.com/tenantry/tenantry/services/internal/token"
)

// secrets are the keys and certificates of a data directory, made at the first start and kept.
type secrets struct {
	// accessKey and assertionKey are PEM files: the registry's and the gateway's signing keys.
	accessKey, assertionKey string
	// masterKey is what tenants' role passwords are derived from.
	masterKey credential.MasterKey
	// postgresPassword is the database administrator's.
	postgresPassword string

	registry, provisioner, gateway, operator, signup rpc.TLS
}

func openSecrets(dir *directory) (*secrets, error) {
	if err := os.MkdirAll(dir.keys(), 0o700); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	s := &secrets{
		accessKey:    filepath.Join(dir.keys(), "access.pem"),
		assertionKey: filepath.Join(dir.keys(), "assertion.pem"),
	}
	for _, path := range []string{s.accessKey, s.assertionKey} {
		if err := keep(path, newSigningKey); err != nil {
			return nil, err
		}
	}
	masterKey := filepath.Join(dir.keys(), "master.hex")
	err := keep(masterKey, func() ([]byte, error) { return []byte(credential.NewMasterKey().Hex() + "\n"), nil })
	if err != nil {
		return nil, err
	}
	if s.masterKey, err = credential.LoadMasterKey(masterKey); err != nil {
		return nil, err
	}
	password := filepath.Join(dir.keys(), "postgres.password")
	if err := keep(password, func() ([]byte, error) { return []byte(rand.Text() + "\n"), nil }); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(password)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	s.postgresPassword = strings.TrimSpace(string(text))
	return s, s.issue(dir.certificates())
}

// issue makes the authority and a certificate for each of those who call or answer.
func (s *secrets) issue(dir string) error {
	authority, err := pki.Open(dir)
	if err != nil {
		return err
	}
	loopback := []string{"localhost", "127.0.0.1", "::1"}
	for _, want := range []struct {
		name  string
		hosts []string
		to    *rpc.TLS
	}{
		{"service/registry", loopback, &s.registry},
		{"service/provisioner", loopback, &s.provisioner},
		{"service/gateway", loopback, &s.gateway},
		{"operator/dev", nil, &s.operator},
		{"signup/dev", nil, &s.signup},
	} {
		files, err := authority.Issue(want.name, want.hosts...)
		if err != nil {
			return err
		}
		*want.to = rpc.TLS{CA: authority.CA(), Cert: files.Cert, Key: files.Key}
	}
	return nil
}

func newSigningKey() ([]byte, error) {
	signer, err := token.NewSigner()
	if err != nil {
		return nil, err
	}
	return signer.PEM()
}

// keep writes a file of a new secret, whole or not at all, unless it is there.
func keep(path string, fresh func() ([]byte, error)) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	secret, err := fresh()
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	return replaceFile(path, secret)
}

// replaceFile writes a file that its owner alone may read; others see the old or the new one, never a part.
func replaceFile(path string, content []byte) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
