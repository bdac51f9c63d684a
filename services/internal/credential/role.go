package credential

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"
)

// FirstPasswordVersion is the version of the derivation that a new role's password has.
const FirstPasswordVersion int32 = 1

// MasterKeySize is the size of a master key in bytes.
const MasterKeySize = 32

// scramIterations is few on purpose: iterations slow down the guessing of passwords that people choose, and nobody
// guesses 256 random bits. Each new connection pays for them, on the server and here.
const scramIterations = 16

// MasterKey is what the passwords of all tenants' database roles are derived from. The provisioner sets them, the
// gateway uses them, nothing stores them.
type MasterKey struct{ key []byte }

// NewMasterKey makes a random key.
func NewMasterKey() MasterKey {
	key := make([]byte, MasterKeySize)
	rand.Read(key) // Never fails: crypto/rand.
	return MasterKey{key}
}

// LoadMasterKey reads a key from a file that holds it as 64 hex digits.
func LoadMasterKey(path string) (MasterKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return MasterKey{}, fmt.Errorf("credential: read the master key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != MasterKeySize {
		return MasterKey{}, fmt.Errorf("credential: %s: want a master key of %d hex digits", path, 2*MasterKeySize)
	}
	return MasterKey{key}, nil
}

// Hex is the key as a file holds it.
func (k MasterKey) Hex() string { return hex.EncodeToString(k.key) }

// String keeps the key out of logs.
func (MasterKey) String() string { return "MasterKey(secret)" }

// RolePassword derives the password of a tenant database's role: HKDF-SHA-256 (RFC 5869) of the master key, with the
// database's id and the version as the info. Another version is another password.
func (k MasterKey) RolePassword(databaseID uuid.UUID, version int32) (string, error) {
	if len(k.key) != MasterKeySize {
		return "", errors.New("credential: there is no master key")
	}
	info := fmt.Sprintf("tenantry role %s v%d", databaseID, version)
	password, err := hkdf.Key(sha256.New, k.key, nil, info, 32)
	if err != nil {
		return "", fmt.Errorf("credential: derive a role's password: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(password), nil
}

// SealKey derives the key that seals a kind of file, such as `routes`, so that only who has the master key can have written
// it: HKDF-SHA-256 of the master key, with the kind as the info. It is no role's password.
func (k MasterKey) SealKey(kind string) ([]byte, error) {
	if len(k.key) != MasterKeySize {
		return nil, errors.New("credential: there is no master key")
	}
	key, err := hkdf.Key(sha256.New, k.key, nil, "tenantry seal "+kind, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("credential: derive the key of a seal: %w", err)
	}
	return key, nil
}

// SCRAMVerifier is what PostgreSQL stores of a password, in the form that CREATE ROLE … PASSWORD takes instead of one:
// `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY` (RFC 5802, RFC 7677; PostgreSQL's pg_authid). The password itself
// so never appears in a statement, which a server may log. The password must be ASCII, as SASLprep is not applied.
func SCRAMVerifier(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt) // Never fails: crypto/rand.
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("credential: SCRAM verifier: %w", err)
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, b64(salt), b64(stored[:]), b64(sign(salted, "Server Key"))), nil
}

func sign(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}
