package rpc

import (
	"context"
	"net"
	"strings"

	"google.golang.org/grpc/peer"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

// Limiter refuses calls that are too many, whether they are served or forwarded. Its errors are faults. It is not asked
// about health checks.
type Limiter interface {
	// Arrive is asked first of all, with what the certificate proves and the connection's address. open tells that anyone
	// may call the method.
	Arrive(certified identity.Caller, from net.Addr, open bool) error
	// Guessed is told of a call that came without a credential, or with one that is not good, where one was needed.
	Guessed(certified identity.Caller, from net.Addr)
	// Begin is asked when it is known who calls, and that it may. It may take its time, but not longer than the context. A call
	// for which it returns nil has begun, and End is told when that call has ended.
	Begin(context.Context, *identity.Caller) error
	End(*identity.Caller)
}

// unlimited begins the names of the methods that the limiter is not asked about: a busy server is not a sick one.
const unlimited = "/grpc.health.v1.Health/"

// limits is who has to be asked about the call, nil for nobody.
func (c *call) limits(p *peer.Peer) Limiter {
	if p == nil || strings.HasPrefix(c.method, unlimited) {
		return nil
	}
	return c.cfg.Limits
}

// isGuess tells whether a call was refused for its credential. One that has ended was a good one.
func isGuess(err error) bool {
	return fault.HasReason(err, fault.CredentialsInvalid) || fault.HasReason(err, fault.CredentialsMissing)
}
