package credential

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// apiKeyStart is how every API key begins, so that people and secret scanners know one when they see it.
const apiKeyStart = "tny_"

// Hash is the SHA-256 of an opaque secret: what is stored and looked up. The secrets are random and long, so a slow
// hash would add nothing.
type Hash [sha256.Size]byte

// HashOf hashes an opaque secret.
func HashOf(secret string) Hash { return sha256.Sum256([]byte(secret)) }

// APIKey is a new key.
type APIKey struct {
	// Key is the whole key, shown once: `tny_`, 8 characters, `_`, 40 characters.
	Key string
	// Prefix is its beginning, up to the second `_`: what it is known by.
	Prefix string
	// Hash is what is stored.
	Hash Hash
}

// NewAPIKey makes a random key with 200 bits of secret.
func NewAPIKey() APIKey {
	prefix := apiKeyStart + random(5)
	key := prefix + "_" + random(25)
	return APIKey{Key: key, Prefix: prefix, Hash: HashOf(key)}
}

// IsAPIKey tells whether a bearer credential is an API key rather than a token, by its form alone.
func IsAPIKey(bearer string) bool { return strings.HasPrefix(bearer, apiKeyStart) }

// NewRefreshToken makes a random opaque token with 256 bits.
func NewRefreshToken() string { return random(32) }

// random is n random bytes in lower-case base32, which survives double clicks, URLs and shells.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // Never fails: crypto/rand.
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}
