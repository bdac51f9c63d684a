package registry_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// plugins are calls about one company's plugins.
type plugins struct {
	*system
	client registryv1.TenantServiceClient
	id     string
}

func (s *system) pluginsOf(id string) plugins { return plugins{s, s.tenants(), id} }

func (p plugins) add(plugin string, check bool) ([]string, error) {
	out, err := p.client.AddPlugin(p.t.Context(), &registryv1.AddPluginRequest{CompanyId: p.id, Plugin: plugin, CheckOnly: check, Actor: "operator/zoe"})
	return out.GetTenant().GetPlugins(), err
}

func (p plugins) remove(plugin string, check bool) ([]string, error) {
	out, err := p.client.RemovePlugin(p.t.Context(), &registryv1.RemovePluginRequest{CompanyId: p.id, Plugin: plugin, CheckOnly: check, Actor: "operator/zoe"})
	return out.GetTenant().GetPlugins(), err
}

func TestAPluginIsAddedAndRemovedOnceAndACheckChangesNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.pluginsOf(s.company().GetTenant().GetCompanyId())
	before := s.lastAudit(p.id)
	got, err := p.add("viber-messaging", true)
	require.NoError(t, err)
	require.Empty(t, got)
	require.Equal(t, before, s.lastAudit(p.id))
	for range 2 {
		got, err = p.add("viber-messaging", false)
		require.NoError(t, err)
		require.Equal(t, []string{"viber-messaging"}, got)
	}
	require.Equal(t, "operator/zoe plugin.installed viber-messaging", s.lastAudit(p.id))
	require.Equal(t, 1, s.audits(p.id, "plugin.installed"))
	got, err = p.add("bulk-sms", false)
	require.NoError(t, err)
	require.Equal(t, []string{"bulk-sms", "viber-messaging"}, got)

	got, err = p.remove("viber-messaging", true)
	require.NoError(t, err)
	require.Equal(t, []string{"bulk-sms", "viber-messaging"}, got)
	require.Zero(t, s.audits(p.id, "plugin.uninstalled"))
	for range 2 {
		got, err = p.remove("viber-messaging", false)
		require.NoError(t, err)
		require.Equal(t, []string{"bulk-sms"}, got)
	}
	require.Equal(t, "operator/zoe plugin.uninstalled viber-messaging", s.lastAudit(p.id))
	require.Equal(t, 1, s.audits(p.id, "plugin.uninstalled"))
}

func TestACheckRefusesAPluginAsTheChangeDoes(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.request()
	q.UsageType = "mini-grid"
	_, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	p := s.pluginsOf(q.GetCompanyId())
	for _, check := range []bool{true, false} {
		_, err = p.add("bulk-sms", check)
		requireFault(t, err, codes.FailedPrecondition, fault.CompanyStateInvalid)
		_, err = p.remove("bulk-sms", check)
		requireFault(t, err, codes.FailedPrecondition, fault.CompanyStateInvalid)
	}
	_, err = p.client.ActivateTenant(t.Context(), &registryv1.ActivateTenantRequest{CompanyId: p.id, SchemaVersion: "1"})
	require.NoError(t, err)
	for _, check := range []bool{true, false} {
		_, err = p.add("nothing", check)
		requireFault(t, err, codes.NotFound, fault.PluginNotFound)
		_, err = p.remove("nothing", check)
		requireFault(t, err, codes.NotFound, fault.PluginNotFound)
		_, err = p.add("sunking-shs", check)
		requireFault(t, err, codes.FailedPrecondition, fault.PluginUnsuitable)
		_, err = p.add("steama-sms", check)
		require.Equal(t, "steama-meter", requireFault(t, err, codes.FailedPrecondition, fault.PluginRequirementMissing).Metadata["requires"])
		nobody := s.pluginsOf(newID(t))
		_, err = nobody.add("bulk-sms", check)
		requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
		_, err = nobody.remove("bulk-sms", check)
		requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
	}
	got, err := p.remove("steama-sms", false)
	require.NoError(t, err, "one that it does not have, whatever that needs")
	require.Empty(t, got)

	for _, plugin := range []string{"steama-meter", "steama-sms"} {
		_, err = p.add(plugin, false)
		require.NoError(t, err)
	}
	for _, check := range []bool{true, false} {
		_, err = p.remove("steama-meter", check)
		require.Equal(t, "steama-sms", requireFault(t, err, codes.FailedPrecondition, fault.PluginRequired).Metadata["required_by"])
	}
	for _, plugin := range []string{"steama-sms", "steama-meter"} {
		_, err = p.remove(plugin, false)
		require.NoError(t, err)
	}
}

func TestASuspendedCompanyHasItsPluginsChangedAndADeletingOneNot(t *testing.T) {
	t.Parallel()
	s := start(t)
	d := s.deletionsOf(s.company())
	p := s.pluginsOf(d.id)
	for _, state := range []registryv1.CompanyState{suspended, maintenance} {
		d.put(state)
		_, err := p.add("bulk-sms", false)
		require.NoError(t, err)
		_, err = p.remove("bulk-sms", false)
		require.NoError(t, err)
	}
	_, err := d.begin(time.Hour)
	require.NoError(t, err)
	_, err = p.add("bulk-sms", false)
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyStateInvalid)
}

func TestTwoWhoAddOnePluginAtOnceBothSucceed(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.pluginsOf(s.company().GetTenant().GetCompanyId())
	add := func() error { _, err := p.add("bulk-sms", false); return err }
	for _, err := range s.atOnce(p.id, add, add) {
		require.NoError(t, err)
	}
	require.Equal(t, 1, s.audits(p.id, "plugin.installed"))
}

func TestAPluginDoesNotLoseWhatItNeedsToAnotherCallAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.pluginsOf(s.company().GetTenant().GetCompanyId())
	_, err := p.add("steama-meter", false)
	require.NoError(t, err)
	errs := s.atOnce(p.id,
		func() error { _, err := p.add("steama-sms", false); return err },
		func() error { _, err := p.remove("steama-meter", false); return err })
	require.NoError(t, errs[0])
	requireFault(t, errs[1], codes.FailedPrecondition, fault.PluginRequired)
}
