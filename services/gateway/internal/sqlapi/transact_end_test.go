package sqlapi

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

func TestATransactionEndsAtTheNextStepOfACallerThatWouldGetNoOther(t *testing.T) {
	t.Parallel()
	const (
		openState   = registryv1.CompanyState_COMPANY_STATE_ACTIVE
		suspended   = registryv1.CompanyState_COMPANY_STATE_SUSPENDED
		deleting    = registryv1.CompanyState_COMPANY_STATE_DELETING
		maintenance = registryv1.CompanyState_COMPANY_STATE_MAINTENANCE
	)
	for name, caller := range map[string]identity.Caller{"person": person, "operator": {Kind: identity.Operator, Name: "operator/alice"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, Limits{}, caller)
			for step, s := range map[string]*gatewayv1.TransactRequest{"statement": run("SELECT 1"), "savepoint": savepoint("s"), "commit": commit(), "rollback": rollback()} {
				for _, c := range []struct {
					close  func()
					code   codes.Code
					reason string
				}{
					{func() { f.revoked.Store(true) }, codes.Unauthenticated, fault.CredentialsInvalid},
					{func() { f.put(suspended) }, codes.PermissionDenied, fault.CompanySuspended},
					{func() { f.put(deleting) }, codes.Unavailable, fault.CompanyNotReady},
				} {
					tx := f.begin(nil)
					tx.run("INSERT INTO items VALUES (3, 'c')")
					c.close()
					tx.send(s)
					_, _, err := tx.answer()
					requireReason(t, err, c.code, c.reason)
					require.Equal(t, "a,b", f.ask("SELECT name FROM items ORDER BY id"), "%s after %s", step, c.reason)
					f.revoked.Store(false)
					f.put(openState)
					f.settled()
					require.Eventually(t, func() bool {
						return f.ask("SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'") == ""
					}, patience, time.Millisecond, "nobody waits for PostgreSQL to say that it rolled back, but it does")
				}
			}
			// Maintenance waits for what is under way.
			tx := f.begin(nil)
			f.put(maintenance)
			tx.run("INSERT INTO items VALUES (3, 'c')")
			_, end := tx.do(commit())
			require.Equal(t, committed, end.GetStatus())
			require.NoError(t, tx.ended())
			require.Equal(t, "a,b,c", f.ask("SELECT name FROM items ORDER BY id"))
		})
	}
}
