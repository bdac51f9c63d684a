package cli

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tenantry/tenantry/services/internal/metrics"
	"github.com/tenantry/tenantry/services/registry"
)

// registryCmd is `tenantry registry`.
type registryCmd struct {
	serverFlags   `set:"port=7401"`
	databaseFlags `set:"service=REGISTRY"`
	SigningKey    []string      `name:"signing-key" required:"" type:"path" placeholder:"FILE" env:"TENANTRY_SIGNING_KEYS" help:"Ed25519 key in PEM that access tokens are signed with. Repeat it to rotate: the first signs, all verify."`
	GatewayLease  time.Duration `name:"gateway-lease" placeholder:"DURATION" env:"TENANTRY_GATEWAY_LEASE" help:"How long a gateway keeps its shares of the connection budgets when it is not heard of. Default: the registry's own."`
}

// Help is the long help.
func (registryCmd) Help() string {
	return `The central database must have been migrated: "tenantry migrate central".

Example:

    tenantry key new signing access.pem
    TENANTRY_REGISTRY_DSN=postgres://registry:secret@db/micro_power_manager tenantry registry \
        --tls-ca ca.pem --tls-cert registry.pem --tls-key registry-key.pem --signing-key access.pem`
}

// Run serves until it is interrupted.
func (c *registryCmd) Run(ctx context.Context) error {
	dsn, err := c.dsn(registryDSN)
	if err != nil {
		return err
	}
	return c.serve(ctx, func(ctx context.Context, log *zap.Logger, m *metrics.Metrics) (service, error) {
		return registry.New(ctx, registry.Config{TLS: c.tls(), DSN: dsn, SigningKeys: c.SigningKey, GatewayLease: c.GatewayLease, Metrics: m, Logger: log})
	})
}

// containsKeyword tells whether a DSN of the `name=value` kind sets a name.
func containsKeyword(dsn, name string) bool {
	for word := range strings.FieldsSeq(dsn) {
		if key, _, ok := strings.Cut(word, "="); ok && strings.EqualFold(key, name) {
			return true
		}
	}
	return false
}
