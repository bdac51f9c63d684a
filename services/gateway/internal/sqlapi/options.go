package sqlapi

import (
	"context"
	"regexp"

	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/pgsession"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

// requestIDMetadata is where a request's id is that the request does not name itself.
const requestIDMetadata = "x-request-id"

// requestID is what one is, as the contract has it.
var requestID = regexp.MustCompile(`^[ -~]{0,200}$`)

// opening is the call that opens a transaction as a request wants it: what is sent before its statements.
func opening(ctx context.Context, o *gatewayv1.TransactionOptions) (pgsession.Call, error) {
	call := pgsession.Call{Begin: "BEGIN"}
	switch o.GetIsolation() {
	case gatewayv1.IsolationLevel_ISOLATION_LEVEL_UNSPECIFIED:
	case gatewayv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED:
		call.Begin += " ISOLATION LEVEL READ COMMITTED"
	case gatewayv1.IsolationLevel_ISOLATION_LEVEL_REPEATABLE_READ:
		call.Begin += " ISOLATION LEVEL REPEATABLE READ"
	case gatewayv1.IsolationLevel_ISOLATION_LEVEL_SERIALIZABLE:
		call.Begin += " ISOLATION LEVEL SERIALIZABLE"
	}
	if o.GetReadOnly() {
		call.Begin += " READ ONLY"
	}
	var err error
	call.Settings, err = auditSettings(ctx, o.GetAudit())
	return call, err
}

// oneStatement is the call of one statement. It is a transaction without being opened as one, unless that is to be another
// kind than usual.
func oneStatement(ctx context.Context, o *gatewayv1.TransactionOptions, st pgsession.Statement) (pgsession.Call, error) {
	call, err := opening(ctx, o)
	if call.Begin == "BEGIN" {
		call.Begin = ""
	} else {
		call.End = "COMMIT"
	}
	call.Statements = []pgsession.Statement{st}
	return call, err
}

// auditSettings tell triggers who does it.
func auditSettings(ctx context.Context, a *gatewayv1.Audit) ([][2]string, error) {
	if a == nil {
		return nil, nil
	}
	id := a.GetRequestId()
	if given := metadata.ValueFromIncomingContext(ctx, requestIDMetadata); id == "" && len(given) > 0 {
		if id = given[0]; !requestID.MatchString(id) {
			return nil, fault.Invalid(requestIDMetadata, "got %d bytes of metadata, want at most 200, printable ASCII", len(id))
		}
	}
	caller := identity.FromContext(ctx)
	user := caller.Actor()
	if caller.UserID != uuid.Nil {
		user = caller.UserID.String()
	}
	return [][2]string{{"tenantry.user_id", user}, {"tenantry.request_id", id}}, nil
}
