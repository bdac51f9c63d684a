package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tenantry/tenantry/services/internal/devserver"
)

// Names of settings, in the environment or in dev.env.
const (
	gatewayAddress     = "TENANTRY_GATEWAY"
	registryAddress    = "TENANTRY_REGISTRY"
	provisionerAddress = "TENANTRY_PROVISIONER"
	caFile             = "TENANTRY_CA"
	operatorRole       = "TENANTRY_OPERATOR"
	signupRole         = "TENANTRY_SIGNUP"
	adminDSN           = "TENANTRY_ADMIN_DSN"
	registryDSN        = "TENANTRY_REGISTRY_DSN"
	provisionerDSN     = "TENANTRY_PROVISIONER_DSN"
	passwordVariable   = "TENANTRY_PASSWORD"
	tokenVariable      = "TENANTRY_TOKEN"
)

// settings tell the verbs where the services are and who is calling: the environment first, then a dev.env.
type settings struct {
	getenv func(string) string
	// file is the dev.env that the command line names; empty means to look for one.
	file string

	// loaded and values are what the file holds, once it was read.
	loaded bool
	values map[string]string
}

// get returns a setting, empty when there is none.
func (s *settings) get(name string) (string, error) {
	if value := s.getenv(name); value != "" {
		return value, nil
	}
	if err := s.load(); err != nil {
		return "", err
	}
	return s.values[name], nil
}

// need returns a setting that the command cannot do without.
func (s *settings) need(name string) (string, error) {
	value, err := s.get(name)
	if err != nil {
		return "", err
	}
	if value == "" {
		return "", usagef("Start `tenantry dev` here, set "+name+", or name a file of settings with --env.",
			"%s is not set, and there is no %s here or in a directory above that says it", name, devEnv)
	}
	return value, nil
}

var devEnv = filepath.Join(".tenantry", devserver.EnvironmentFile)

func (s *settings) load() error {
	if s.loaded {
		return nil
	}
	path := s.file
	if path == "" {
		found, err := findAbove(devEnv)
		if err != nil {
			return err
		}
		if found == "" {
			s.loaded = true
			return nil
		}
		path = found
	}
	values, err := devserver.ReadEnvironment(path)
	if err != nil {
		return usagef("`tenantry dev` writes this file once everything answers, and removes it when it stops.", "read settings: %v", err)
	}
	s.values, s.loaded = values, true
	return nil
}

// findAbove returns the path of a file that is in the working directory or in the nearest one above; empty when there is
// none.
func findAbove(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", nil
		}
		dir = parent
	}
}

// secretFile reads a secret from a file; a newline at its end is not part of it.
func secretFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", usagef("", "%v", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
