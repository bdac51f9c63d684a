// Package credential makes and checks the secrets of Tenantry: people's passwords (argon2id), opaque tokens and API keys
// (random, kept as SHA-256), and the passwords of tenants' database roles, which are derived and kept nowhere.
//
// Signed tokens are package token's.
package credential

import (
	"context"
	"fmt"
	"runtime"

	"github.com/alexedwards/argon2id"
)

// passwordParams are those of OWASP's Password Storage Cheat Sheet for Argon2id: 19 MiB, two passes, one lane.
var passwordParams = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// Hasher hashes and compares people's passwords. Each hash takes 19 MiB and tens of milliseconds of a processor, so it
// runs no more of them at once than there are processors: a flood of logins waits and does not eat the memory.
type Hasher struct {
	slots chan struct{}
	// absent is the hash that a password is compared with where there is none, so that it takes as long.
	absent string
}

// NewHasher returns a hasher.
func NewHasher() (*Hasher, error) {
	absent, err := argon2id.CreateHash("a password that nobody has", passwordParams)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	return &Hasher{slots: make(chan struct{}, runtime.GOMAXPROCS(0)), absent: absent}, nil
}

// Hash returns the password's argon2id hash with its salt and parameters, in PHC string format.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release()
	hash, err := argon2id.CreateHash(password, passwordParams)
	if err != nil {
		return "", fmt.Errorf("credential: hash a password: %w", err)
	}
	return hash, nil
}

// Matches tells whether the hash is that of the password. An empty hash, of someone who has no password or does not
// exist, matches nothing and takes the same time.
func (h *Hasher) Matches(ctx context.Context, password, hash string) (bool, error) {
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer h.release()
	if hash == "" {
		if _, err := argon2id.ComparePasswordAndHash(password, h.absent); err != nil {
			return false, fmt.Errorf("credential: compare a password: %w", err)
		}
		return false, nil
	}
	ok, err := argon2id.ComparePasswordAndHash(password, hash)
	if err != nil {
		return false, fmt.Errorf("credential: compare a password: %w", err)
	}
	return ok, nil
}

// acquire waits for a turn; the context's error is returned as it is.
func (h *Hasher) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Hasher) release() { <-h.slots }
