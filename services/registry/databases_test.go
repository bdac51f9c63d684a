package registry_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// register adds a cluster beside the first.
func (s *system) register(name string) {
	s.t.Helper()
	_, err := registryv1.NewClusterServiceClient(s.as("operator/ops")).RegisterCluster(s.t.Context(),
		&registryv1.RegisterClusterRequest{Name: name, Host: "h", Port: 1, MaxTenants: 1})
	require.NoError(s.t, err)
}

// counts are the clusters with their tenants.
func (s *system) counts() []string {
	s.t.Helper()
	return s.query("SELECT name || ' ' || tenants FROM clusters ORDER BY 1")
}

func switchOf(t *testing.T, r *registryv1.Reservation) *registryv1.SwitchDatabaseRequest {
	t.Helper()
	return &registryv1.SwitchDatabaseRequest{CompanyId: r.GetTenant().GetCompanyId(), FromDatabaseId: r.GetTenant().GetDatabaseId(), ToDatabaseId: newID(t),
		Cluster: r.GetTenant().GetCluster(), SchemaVersion: "5", Action: "restored", Actor: "operator/zoe"}
}

func TestATenantIsActivatedOnTheDatabaseItGotAndNeverMovedByARepeat(t *testing.T) {
	t.Parallel()
	s := start(t)
	client := s.tenants()
	other := s.company()
	q := s.request()
	_, err := client.ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	stream := s.watch(t.Context(), 0)
	_, _ = snapshot(t, stream)
	activate := func(database string) (*registryv1.Tenant, error) {
		out, err := client.ActivateTenant(t.Context(), &registryv1.ActivateTenantRequest{CompanyId: q.GetCompanyId(), SchemaVersion: "1", DatabaseId: database})
		return out.GetTenant(), err
	}
	_, err = activate(other.GetTenant().GetDatabaseId())
	requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)
	_, err = activate("spare")
	requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)
	require.Equal(t, []string{"PROVISIONING"}, s.query("SELECT state FROM companies WHERE id = $1", q.GetCompanyId()))

	spare := newID(t)
	for _, database := range []string{spare, spare, newID(t), ""} {
		got, err := activate(database)
		require.NoError(t, err)
		require.Equal(t, spare, got.GetDatabaseId())
		require.Equal(t, active, got.GetState())
	}
	route := next(t, stream).GetRoute()
	require.Equal(t, q.GetCompanyId(), uuid.UUID(route.GetCompanyId()).String())
	require.Equal(t, spare, uuid.UUID(route.GetDatabaseId()).String())
	require.Equal(t, 1, s.audits(q.GetCompanyId(), "company.activated"))
}

func TestASwitchMovesTheRouteAndTheCountAndIsRepeatable(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("north")
	c := s.company()
	_ = s.company()
	require.Equal(t, []string{"local 2", "north 0"}, s.counts())
	s.query("UPDATE tenant_databases SET password_version = 4 WHERE company_id = $1 RETURNING 'x'", c.GetTenant().GetCompanyId())
	stream := s.watch(t.Context(), 2)
	q := switchOf(t, c)
	q.Cluster = "north"
	client := s.tenants()
	moved, err := client.SwitchDatabase(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, q.GetToDatabaseId(), moved.GetTenant().GetDatabaseId())
	require.Equal(t, "north", moved.GetTenant().GetCluster())
	require.Equal(t, "5", moved.GetTenant().GetSchemaVersion())
	require.EqualValues(t, 1, moved.GetTenant().GetPasswordVersion(), "a new role has its first password")
	again, err := client.SwitchDatabase(t.Context(), q)
	require.NoError(t, err)
	require.True(t, proto.Equal(moved, again))
	require.Equal(t, []string{"local 1", "north 1"}, s.counts())
	require.Equal(t, "operator/zoe company.restored", s.lastAudit(q.GetCompanyId()))
	require.Equal(t, 1, s.audits(q.GetCompanyId(), "company.restored"))
	for {
		if route := next(t, stream).GetRoute(); route != nil && uuid.UUID(route.GetDatabaseId()).String() == q.GetToDatabaseId() {
			require.Equal(t, "north", route.GetCluster())
			require.Equal(t, "5", route.GetSchemaVersion())
			break
		}
	}

	q.FromDatabaseId, q.ToDatabaseId, q.Cluster = q.GetToDatabaseId(), newID(t), "north"
	_, err = client.SwitchDatabase(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, []string{"local 1", "north 1"}, s.counts(), "on one cluster nothing is counted")
}

func TestANextPasswordVersionIsToldToTheGatewaysOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company().GetTenant()
	stream := s.watch(t.Context(), 0)
	routes, sequence := snapshot(t, stream)
	require.EqualValues(t, 1, routes[c.GetSlug()].GetPasswordVersion())
	record := func(version int32, database string) error {
		_, err := s.tenants().RecordPasswordVersion(t.Context(), &registryv1.RecordPasswordVersionRequest{CompanyId: c.GetCompanyId(), DatabaseId: database,
			PasswordVersion: version, Actor: "operator/zoe"})
		return err
	}
	for range 2 {
		require.NoError(t, record(2, c.GetDatabaseId()))
	}
	require.Equal(t, "operator/zoe company.password_rotated", s.lastAudit(c.GetCompanyId()))
	require.Equal(t, 1, s.audits(c.GetCompanyId(), "company.password_rotated"))
	require.NoError(t, record(3, c.GetDatabaseId()))
	for version := int32(2); version <= 3; version++ {
		m := next(t, stream)
		sequence++
		require.Equal(t, sequence, m.GetSequence())
		require.Equal(t, version, m.GetRoute().GetPasswordVersion())
	}

	for _, version := range []int32{2, 5} {
		f := requireFault(t, record(version, c.GetDatabaseId()), codes.InvalidArgument, fault.FieldInvalid)
		require.Equal(t, "password_version", f.Metadata["field"])
	}
	requireFault(t, record(4, newID(t)), codes.FailedPrecondition, fault.DatabaseChanged)
	_, err := s.tenants().BeginDeletion(t.Context(), &registryv1.BeginDeletionRequest{CompanyId: c.GetCompanyId(), PurgeTime: timestamppb.New(time.Now().Add(time.Hour))})
	require.NoError(t, err)
	requireFault(t, record(4, c.GetDatabaseId()), codes.FailedPrecondition, fault.CompanyStateInvalid)
}

func TestASwitchIsRefusedWhenTheDatabaseIsAnotherOrTheClusterUnknown(t *testing.T) {
	t.Parallel()
	s := start(t)
	c, other := s.company(), s.company()
	client := s.tenants()
	for name, refused := range map[string]struct {
		code   codes.Code
		reason string
		change func(*registryv1.SwitchDatabaseRequest)
	}{
		"neither":         {codes.FailedPrecondition, fault.DatabaseChanged, func(q *registryv1.SwitchDatabaseRequest) { q.FromDatabaseId = newID(t) }},
		"no cluster":      {codes.NotFound, fault.ClusterNotFound, func(q *registryv1.SwitchDatabaseRequest) { q.Cluster = "nowhere" }},
		"no company":      {codes.NotFound, fault.CompanyNotFound, func(q *registryv1.SwitchDatabaseRequest) { q.CompanyId = newID(t) }},
		"another's":       {codes.InvalidArgument, fault.FieldInvalid, func(q *registryv1.SwitchDatabaseRequest) { q.ToDatabaseId = other.GetTenant().GetDatabaseId() }},
		"without an id":   {codes.InvalidArgument, fault.FieldInvalid, func(q *registryv1.SwitchDatabaseRequest) { q.ToDatabaseId = "" }},
		"without a cause": {codes.InvalidArgument, fault.FieldInvalid, func(q *registryv1.SwitchDatabaseRequest) { q.Action = "" }},
	} {
		q := switchOf(t, c)
		refused.change(q)
		_, err := client.SwitchDatabase(t.Context(), q)
		require.Error(t, err, name)
		requireFault(t, err, refused.code, refused.reason)
	}
	got, err := client.GetTenant(t.Context(), &registryv1.GetTenantRequest{Company: c.GetTenant().GetSlug()})
	require.NoError(t, err)
	require.Equal(t, c.GetTenant().GetDatabaseId(), got.GetTenant().GetDatabaseId())
	require.Equal(t, []string{"local 2"}, s.counts())
}

func TestOnlyACompanyInUseIsSwitched(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	d := s.deletionsOf(c)
	q := switchOf(t, c)
	for _, state := range []registryv1.CompanyState{suspended, maintenance, active} {
		d.put(state)
		got, err := d.client.SwitchDatabase(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, state, got.GetTenant().GetState())
		q.FromDatabaseId, q.ToDatabaseId = q.GetToDatabaseId(), newID(t)
	}
	_, err := d.begin(time.Hour)
	require.NoError(t, err)
	_, err = d.client.SwitchDatabase(t.Context(), q)
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyStateInvalid)
	made, err := d.client.ReserveTenant(t.Context(), s.request())
	require.NoError(t, err)
	_, err = d.client.SwitchDatabase(t.Context(), switchOf(t, made.GetReservation()))
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyStateInvalid)
}

func TestOfTwoSwitchesAtOnceTheSecondFindsTheDatabaseChanged(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("north")
	c := s.company()
	first, second := switchOf(t, c), switchOf(t, c)
	first.Cluster, second.Cluster = "north", "north"
	client := s.tenants()
	call := func(q *registryv1.SwitchDatabaseRequest) func() error {
		return func() error { _, err := client.SwitchDatabase(t.Context(), q); return err }
	}
	errs := s.atOnce(c.GetTenant().GetCompanyId(), call(first), call(second), call(first))
	require.NoError(t, errs[0])
	requireFault(t, errs[1], codes.FailedPrecondition, fault.DatabaseChanged)
	require.NoError(t, errs[2], "a repeat")
	require.Equal(t, []string{first.GetToDatabaseId()}, s.query("SELECT id::text FROM tenant_databases"))
	require.Equal(t, []string{"local 0", "north 1"}, s.counts())
}

func TestAnEventIsRecordedAsItWasTold(t *testing.T) {
	t.Parallel()
	s := start(t)
	client, id := s.tenants(), s.company().GetTenant().GetCompanyId()
	record := func(q *registryv1.RecordEventRequest) error { _, err := client.RecordEvent(t.Context(), q); return err }
	require.NoError(t, record(&registryv1.RecordEventRequest{Action: "rollout.forced", CompanyId: id, Subject: "r1", Details: map[string]string{"files": "2"}, Actor: "operator/zoe"}))
	require.NoError(t, record(&registryv1.RecordEventRequest{Action: "drift.swept", Actor: "operator/zoe"}))
	out, err := registryv1.NewAuditServiceClient(s.as("operator/ops")).ListEvents(t.Context(), &registryv1.ListEventsRequest{PageSize: 2})
	require.NoError(t, err)
	swept, forced := out.GetEvents()[0], out.GetEvents()[1]
	require.Equal(t, "drift.swept", swept.GetAction())
	require.Empty(t, swept.GetCompanyId())
	require.Equal(t, "rollout.forced", forced.GetAction())
	require.Equal(t, id, forced.GetCompanyId())
	require.Equal(t, "operator/zoe", forced.GetActor())
	require.Equal(t, "r1", forced.GetSubject())
	require.Equal(t, map[string]string{"files": "2"}, forced.GetDetails())

	requireFault(t, record(&registryv1.RecordEventRequest{Action: "x", CompanyId: newID(t), Actor: "operator/zoe"}), codes.NotFound, fault.CompanyNotFound)
	requireFault(t, record(&registryv1.RecordEventRequest{Action: "x"}), codes.InvalidArgument, fault.FieldInvalid)
}

func TestWhoAskedForNothingIsTheCaller(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.company().GetTenant().GetCompanyId()
	_, err := s.tenants().AddPlugin(t.Context(), &registryv1.AddPluginRequest{CompanyId: id, Plugin: "bulk-sms"})
	require.NoError(t, err)
	require.Equal(t, "service/provisioner plugin.installed bulk-sms", s.lastAudit(id))
}
