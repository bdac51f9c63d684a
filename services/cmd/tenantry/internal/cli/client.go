package cli

import (
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// connect returns a connection to the service whose address is the setting `address`, with the certificate of a role
// (its settings are ROLE_CERT and ROLE_KEY), or without one for the empty role.
func (a *app) connect(address, role string) (*grpc.ClientConn, error) {
	target, err := a.settings.need(address)
	if err != nil {
		return nil, err
	}
	files, err := a.files(role)
	if err != nil {
		return nil, err
	}
	conn, err := rpc.Dial(target, files)
	if err != nil {
		return nil, usagef("", "%v", err)
	}
	return conn, nil
}

func (a *app) files(role string) (rpc.TLS, error) {
	var files rpc.TLS
	var err error
	if files.CA, err = a.settings.need(caFile); err != nil || role == "" {
		return files, err
	}
	if files.Cert, err = a.settings.need(role + "_CERT"); err != nil {
		return files, err
	}
	files.Key, err = a.settings.need(role + "_KEY")
	return files, err
}

// has tells whether there is a certificate of a role.
func (a *app) has(role string) (bool, error) {
	cert, err := a.settings.get(role + "_CERT")
	return cert != "", err
}

// isAbsent tells whether a call was never sent, as nobody listens at the address or speaks TLS as we do. grpc-go says so
// in words alone.
func isAbsent(err error) bool {
	return isUnreachable(err) && strings.Contains(fault.From(err).Text, "connection error")
}

// newRequestID makes an id under which a request can be repeated.
func newRequestID() string { return uuid.NewString() }
