package registry_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// removal removes the one cluster that there is.
func (s *system) removal() error {
	_, err := registryv1.NewClusterServiceClient(s.as("operator/zoe")).RemoveCluster(s.t.Context(), &registryv1.RemoveClusterRequest{Name: "local"})
	return err
}

func TestAClusterGoesWhenOnlyEndedCompaniesWereOnItAndTheyStayKnown(t *testing.T) {
	t.Parallel()
	s := start(t)
	failed, err := s.tenants().ReserveTenant(t.Context(), s.request())
	require.NoError(t, err)
	requireFault(t, s.removal(), codes.FailedPrecondition, fault.ClusterNotEmpty)
	gave := &registryv1.FailTenantRequest{CompanyId: failed.GetReservation().GetTenant().GetCompanyId(), Reason: "no room"}
	_, err = s.tenants().FailTenant(t.Context(), gave)
	require.NoError(t, err)
	d := s.deletionsOf(s.company())
	for _, state := range []registryv1.CompanyState{active, suspended, maintenance} {
		d.put(state)
		requireFault(t, s.removal(), codes.FailedPrecondition, fault.ClusterNotEmpty)
	}
	_, err = d.begin(0)
	require.NoError(t, err)
	f := requireFault(t, s.removal(), codes.FailedPrecondition, fault.ClusterNotEmpty)
	require.Equal(t, "local", f.Metadata["cluster"])
	_, err = d.end()
	require.NoError(t, err)

	require.NoError(t, s.removal())
	requireFault(t, s.removal(), codes.NotFound, fault.ClusterNotFound)
	for _, id := range []string{d.id, gave.GetCompanyId()} {
		out, err := registryv1.NewCompanyServiceClient(s.as("operator/zoe")).GetCompany(t.Context(), &registryv1.GetCompanyRequest{Company: id})
		require.NoError(t, err)
		require.Equal(t, "local", out.GetCompany().GetCluster(), "where it was stays known")
		require.NotEmpty(t, out.GetCompany().GetDatabase())
	}
	require.Equal(t, 1, s.audits(d.id, "company.deleted"))
	require.Equal(t, []string{"operator/zoe"}, s.query("SELECT actor FROM audit_events WHERE action = 'cluster.removed' AND subject = 'local'"))

	// A signup that failed there is taken up again where there is room.
	_, err = registryv1.NewClusterServiceClient(s.as("operator/zoe")).RegisterCluster(t.Context(), &registryv1.RegisterClusterRequest{Name: "north", Host: "h", Port: 1})
	require.NoError(t, err)
	again := s.request()
	again.RequestId, again.Company, again.Owner = "request-1", &registryv1.CompanyDraft{Name: "Company 1"}, &registryv1.OwnerDraft{Name: "Ada", Email: "Ada1@example.com", Password: password}
	out, err := s.tenants().ReserveTenant(t.Context(), again)
	require.NoError(t, err)
	require.Equal(t, gave.GetCompanyId(), out.GetReservation().GetTenant().GetCompanyId())
	require.Equal(t, "north", out.GetReservation().GetTenant().GetCluster())
}

func TestOfASignupAndTheRemovalOfItsClusterAtOnceTheFirstWins(t *testing.T) {
	t.Parallel()
	s := start(t)
	const cluster = "SELECT FROM clusters WHERE name = $1 FOR UPDATE"
	reserve := func() error { _, err := s.tenants().ReserveTenant(t.Context(), s.request()); return err }
	errs := s.queued(cluster, "local", reserve, s.removal)
	require.NoError(t, errs[0])
	requireFault(t, errs[1], codes.FailedPrecondition, fault.ClusterNotEmpty)

	id := s.query("SELECT id::text FROM companies")[0]
	_, err := s.tenants().FailTenant(t.Context(), &registryv1.FailTenantRequest{CompanyId: id, Reason: "no room"})
	require.NoError(t, err)
	errs = s.queued(cluster, "local", s.removal, reserve)
	require.NoError(t, errs[0])
	requireFault(t, errs[1], codes.ResourceExhausted, fault.NoClusterAvailable)
}

func TestOfADeletionsEndAndTheRemovalOfItsClusterAtOnceBothAreDone(t *testing.T) {
	t.Parallel()
	s := start(t)
	d := s.deletionsOf(s.company())
	_, err := d.begin(0)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.query("SELECT (purge_at < now())::text FROM companies")[0] == "true" }, 10*time.Second, time.Millisecond)
	end := func() error { _, err := d.end(); return err }
	for _, err := range s.queued("SELECT FROM clusters WHERE name = $1 FOR UPDATE", "local", end, s.removal) {
		require.NoError(t, err)
	}
}
