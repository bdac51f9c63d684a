// Package token makes and checks the two kinds of signed token: the access token a person gets at login, which the
// registry signs, and the assertion that tells an upstream for which company a call is made, which the gateway signs.
// Both are JWTs (RFC 7519) signed with Ed25519 (RFC 8037); they differ in issuer, audience and `typ`, so that neither
// passes for the other.
//
// Opaque secrets are package credential's.
package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// Key is a public key that verifies tokens.
type Key struct {
	// ID is the key's RFC 7638 thumbprint; a token's header names it.
	ID string
	// Public is the key.
	Public ed25519.PublicKey
}

// NewKey names a public key by its thumbprint.
func NewKey(public ed25519.PublicKey) Key {
	// RFC 7638: the required members in lexical order, without white space; for OKP these are crv, kty and x (RFC 8037).
	members := fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, base64.RawURLEncoding.EncodeToString(public))
	sum := sha256.Sum256([]byte(members))
	return Key{ID: base64.RawURLEncoding.EncodeToString(sum[:]), Public: public}
}

// Signer signs tokens with one key and publishes it with others that still verify: how keys are rotated.
type Signer struct {
	private ed25519.PrivateKey
	keys    []Key
}

// NewSigner makes a signer with a new random key.
func NewSigner() (*Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return signerOf(private), nil
}

// LoadSigner reads private keys from PEM files (PKCS #8, as `openssl genpkey -algorithm ed25519` writes them). The first
// signs; all verify. To rotate, put the new key second, wait until every verifier has it, then put it first; drop the
// old one when its last token has ended.
func LoadSigner(paths ...string) (*Signer, error) {
	if len(paths) == 0 {
		return nil, errors.New("token: no signing key was given")
	}
	var s *Signer
	for _, path := range paths {
		private, err := loadKey(path)
		if err != nil {
			return nil, fmt.Errorf("token: signing key %s: %w", path, err)
		}
		if s == nil {
			s = signerOf(private)
			continue
		}
		s.keys = append(s.keys, signerOf(private).keys...)
	}
	return s, nil
}

// PEM is the signing key as LoadSigner reads it.
func (s *Signer) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.private)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Keys are the public keys that verify, the signing one first.
func (s *Signer) Keys() []Key { return s.keys }

func signerOf(private ed25519.PrivateKey) *Signer {
	public := ed25519.PublicKey(private[ed25519.SeedSize:])
	return &Signer{private: private, keys: []Key{NewKey(public)}}
}

func loadKey(path string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("want a PEM block PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("got a %T, want an Ed25519 key", key)
	}
	return private, nil
}
