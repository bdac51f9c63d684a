package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// session is what a login gave.
type session struct {
	// Gateway is the address that it is good for: a token is not shown to any other.
	Gateway      string    `json:"gateway"`
	Email        string    `json:"email"`
	CompanyID    string    `json:"company_id"`
	UserID       string    `json:"user_id"`
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	ExpiresAt    time.Time `json:"expires_at"`
}

// sessionStore keeps one session in a file. Its lock is held for as long as it is open: a refresh token works once, so
// two commands must not use it side by side.
type sessionStore struct {
	path string
	lock *os.File
}

func openSessionStore(getenv func(string) string) (*sessionStore, error) {
	dir := getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("the session's directory: %w", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	dir = filepath.Join(dir, "tenantry")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the session's directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "session.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the session's lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("the session's lock: %w", err), lock.Close())
	}
	return &sessionStore{path: filepath.Join(dir, "session.json"), lock: lock}, nil
}

// close gives the lock up.
func (s *sessionStore) close() { _ = s.lock.Close() } // Nothing was written to it.

// load returns the session; os.ErrNotExist where there is none.
func (s *sessionStore) load() (session, error) {
	var kept session
	text, err := os.ReadFile(s.path)
	if err != nil {
		return kept, err
	}
	if err := json.Unmarshal(text, &kept); err != nil {
		return kept, fmt.Errorf("%s: %w", s.path, err)
	}
	return kept, nil
}

// save replaces the session whole.
func (s *sessionStore) save(kept session) error {
	text, err := json.Marshal(kept) //nolint:gosec // to a file that its owner alone may read
	if err != nil {
		return err
	}
	temp := s.path + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("keep the session: %w", err)
	}
	return os.Rename(temp, s.path)
}

func (s *sessionStore) forget() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
