package devserver

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
)

// Environment is how to reach a system: what dev.env holds, and what the CLI's verbs read from their environment.
type Environment struct {
	// Gateway, Registry and Provisioner are host:port.
	Gateway, Registry, Provisioner string
	// CA is the path of the authority's certificate.
	CA string
	// OperatorCert and OperatorKey are paths: with them one calls as an operator.
	OperatorCert, OperatorKey string
	// SignupCert and SignupKey are paths: with them one calls as the signup flow.
	SignupCert, SignupKey string
	// AdminDSN is the URI of the PostgreSQL server's administrator.
	AdminDSN string
	// RegistryDSN and ProvisionerDSN are the URIs of the services' own databases.
	RegistryDSN, ProvisionerDSN string
}

// variables are the fields by their names in the environment, in the order in which they are written.
func (e *Environment) variables() []variable {
	return []variable{
		{"TENANTRY_GATEWAY", &e.Gateway},
		{"TENANTRY_REGISTRY", &e.Registry},
		{"TENANTRY_PROVISIONER", &e.Provisioner},
		{"TENANTRY_CA", &e.CA},
		{"TENANTRY_OPERATOR_CERT", &e.OperatorCert},
		{"TENANTRY_OPERATOR_KEY", &e.OperatorKey},
		{"TENANTRY_SIGNUP_CERT", &e.SignupCert},
		{"TENANTRY_SIGNUP_KEY", &e.SignupKey},
		{"TENANTRY_ADMIN_DSN", &e.AdminDSN},
		{"TENANTRY_REGISTRY_DSN", &e.RegistryDSN},
		{"TENANTRY_PROVISIONER_DSN", &e.ProvisionerDSN},
	}
}

type variable struct {
	name  string
	value *string
}

// Lines are NAME=VALUE, as a shell reads them.
func (e Environment) Lines() []string {
	var lines []string
	for _, v := range e.variables() {
		lines = append(lines, v.name+"="+quote(*v.value))
	}
	return lines
}

// write replaces the file whole: who sees it sees all of it. It holds the administrator's password.
func (e Environment) write(path string) error {
	head := "# Written by `tenantry dev` once everything answered; gone when it stops. `set -a; . FILE; set +a` exports it all.\n"
	return replaceFile(path, []byte(head+strings.Join(e.Lines(), "\n")+"\n"))
}

// ReadEnvironment reads a file of NAME=VALUE lines such as dev.env: blank lines and comments are skipped, `export ` before
// a name and quotes around a value are taken off.
func ReadEnvironment(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("%s: line %d: got %q, want NAME=VALUE", path, n, line)
		}
		values[name] = unquote(value)
	}
	return values, lines.Err()
}

// plain are the characters that no shell gives a meaning to, in a value of an assignment.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_?"

func quote(value string) string {
	if strings.Trim(value, plain) == "" {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

func unquote(value string) string {
	if len(value) >= 2 && value[0] == '\'' && value[len(value)-1] == '\'' {
		return strings.ReplaceAll(value[1:len(value)-1], `'\''`, "'")
	}
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		return value[1 : len(value)-1]
	}
	return value
}
