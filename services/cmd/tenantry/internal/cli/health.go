package cli

import (
	"context"
	"errors"
	"strings"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tenantry/tenantry/services/internal/rpc"
)

// healthCmd is `tenantry health`.
type healthCmd struct {
	Address string `arg:"" placeholder:"HOST:PORT" help:"Where the server answers."`
	TLSCA   string `name:"tls-ca" type:"path" placeholder:"FILE" env:"TENANTRY_TLS_CA" help:"Certificate of the authority that signed the server's. Default: TENANTRY_CA."`
}

// Help is the long help.
func (healthCmd) Help() string {
	return `For orchestrators and images without a shell. It exits 0 when the server can do its work, 1 when the server says that it cannot, 4 when none answers.

Example:

    tenantry health localhost:7400 --tls-ca /certificates/ca.pem --timeout 3s`
}

// Run asks once.
func (c *healthCmd) Run(ctx context.Context, a *app) error {
	// An orchestrator knows where it listens, and may have been told so as `:7400`.
	if strings.HasPrefix(c.Address, ":") {
		c.Address = "localhost" + c.Address
	}
	files := rpc.TLS{CA: c.TLSCA}
	if files.CA == "" {
		var err error
		if files, err = a.files(""); err != nil {
			return err
		}
	}
	conn, err := rpc.Dial(c.Address, files)
	if err != nil {
		return usagef("", "%v", err)
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	got, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return errors.New(c.Address + " says " + got.GetStatus().String())
	}
	return a.printf("%s\n", got.GetStatus())
}
