package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// transacting opens a transaction, puts a note into it, and goes on with steps, once what is done meanwhile is done, until
// it is ended: with that.
func (s *system) transacting(ctx context.Context, meanwhile func()) error {
	s.t.Helper()
	stream, err := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).Transact(ctx)
	require.NoError(s.t, err)
	step := func(r *gatewayv1.TransactRequest) error {
		_ = stream.Send(r) // Whatever ended the stream, Recv tells.
		for {
			m, err := stream.Recv()
			if err != nil || m.GetEnd() != nil {
				return err
			}
		}
	}
	statement := func(sql string) error {
		return step(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Statement{Statement: &gatewayv1.Statement{Sql: sql}}})
	}
	require.NoError(s.t, step(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{}}}))
	require.NoError(s.t, statement("INSERT INTO people (name) VALUES ('Nobody')"))
	meanwhile()
	// It takes the stream of routes a moment to tell the gateway.
	for deadline := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		err = statement("SELECT 1")
	}
	return err
}

func TestATransactionEndsWithWhatItsCallerCameWith(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun := s.signUp("sun")
	people := s.connect(s.adminDSN(sun))
	owner := s.logIn(sun)
	keys := registryv1.NewApiKeyServiceClient(s.dial("TENANTRY_REGISTRY", asNobody))
	key, err := keys.CreateApiKey(owner, &registryv1.CreateApiKeyRequest{Name: "meters"})
	require.NoError(t, err)
	companies := registryv1.NewCompanyServiceClient(s.dial("TENANTRY_REGISTRY", asOperator))

	err = s.transacting(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key.GetKey()), func() {
		_, err := keys.RevokeApiKey(owner, &registryv1.RevokeApiKeyRequest{ApiKeyId: key.GetApiKey().GetApiKeyId()})
		require.NoError(t, err)
	})
	requireReason(t, err, codes.Unauthenticated, fault.CredentialsInvalid)
	left := s.logIn(sun)
	err = s.transacting(left, func() {
		_, err := registryv1.NewSessionServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).Logout(left, &registryv1.LogoutRequest{})
		require.NoError(t, err)
	})
	requireReason(t, err, codes.Unauthenticated, fault.CredentialsInvalid)
	err = s.transacting(owner, func() {
		_, err := companies.SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: "sun", Reason: "unpaid"})
		require.NoError(t, err)
	})
	requireReason(t, err, codes.PermissionDenied, fault.CompanySuspended)
	_, err = companies.ResumeCompany(t.Context(), &registryv1.ResumeCompanyRequest{Company: "sun"})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.works(owner) }, 20*time.Second, 20*time.Millisecond)
	err = s.transacting(owner, func() {
		_, err := provisionerv1.NewProvisionerServiceClient(s.dial("TENANTRY_PROVISIONER", asOperator)).
			DeleteTenant(t.Context(), &provisionerv1.DeleteTenantRequest{Company: "sun", ConfirmSlug: "sun"})
		require.NoError(t, err)
	})
	requireReason(t, err, codes.Unavailable, fault.CompanyNotReady)
	require.Equal(t, []string{"0"}, column(t, people, "SELECT count(*)::text FROM people WHERE name = 'Nobody'"), "each was rolled back")
}

// works tells whether a caller can run a statement.
func (s *system) works(ctx context.Context) bool {
	_, err := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "SELECT 1"})
	return err == nil
}
