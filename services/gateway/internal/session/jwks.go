package session

import (
	"crypto/ed25519"
	"encoding/base64"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/token"
)

// KeysOf reads one issuer's keys of a key set.
func KeysOf(set *registryv1.GetJwksResponse, issuer string) []token.Key {
	var keys []token.Key
	for _, k := range set.GetKeys() {
		public, err := base64.RawURLEncoding.DecodeString(k.GetX())
		if err != nil || len(public) != ed25519.PublicKeySize || k.GetIssuer() != issuer {
			continue
		}
		keys = append(keys, token.NewKey(ed25519.PublicKey(public)))
	}
	return keys
}

// JSONWebKeys writes keys as a key set has them.
func JSONWebKeys(keys []token.Key, issuer string) []*registryv1.JsonWebKey {
	var out []*registryv1.JsonWebKey
	for _, k := range keys {
		out = append(out, &registryv1.JsonWebKey{Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(k.Public),
			Kid: k.ID, Alg: "EdDSA", Use: "sig", Issuer: issuer})
	}
	return out
}
