package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// What the registry's access tokens say of themselves.
const (
	issuer   = "tenantry-registry"
	audience = "tenantry"
	kind     = "at+jwt"
)

// tokenLife is longer than a run.
const tokenLife = time.Hour

// claims are an access token's.
type claims struct {
	jwt.RegisteredClaims

	Company string   `json:"company"`
	Session string   `json:"sid"`
	Roles   []string `json:"roles"`
}

// signer makes access tokens with the registry's own key, which lies in the data directory of `tenantry dev`: 2,000
// logins would spend minutes on hashing passwords, and that is not measured here.
type signer struct {
	private ed25519.PrivateKey
	id      string
}

func loadSigner(path string) (*signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is a %T, want Ed25519", path, key)
	}
	x := base64.RawURLEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	thumb := sha256.Sum256(fmt.Appendf(nil, `{"crv":"Ed25519","kty":"OKP","x":"%s"}`, x))
	return &signer{private, base64.RawURLEncoding.EncodeToString(thumb[:])}, nil
}

// access is a token of some person of a company.
func (s *signer) access(company string) (string, error) {
	now := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: uuid.NewString(),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(tokenLife))},
		Company: company, Session: uuid.NewString(), Roles: []string{"admin"},
	})
	t.Header["kid"], t.Header["typ"] = s.id, kind
	return t.SignedString(s.private)
}

// verify checks an access token as any service would that has the registry's public keys by their ids.
func verify(signed string, keys map[string]ed25519.PublicKey) (company string, err error) {
	var c claims
	_, err = jwt.ParseWithClaims(signed, &c, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		key, ok := keys[id]
		if !ok || t.Header["typ"] != kind {
			return nil, errors.New("not one of ours")
		}
		return key, nil
	}, jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired())
	return c.Company, err
}
