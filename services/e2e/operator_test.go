package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAServerIsDrainedAndTakesTenantsAgainOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	name, isText := objects(t, ok(t, s.tenantry("cluster", "list")))[0]["name"].(string)
	require.True(t, isText)

	drained := objects(t, ok(t, s.tenantry("cluster", "drain", name)))[0]
	require.Equal(t, true, drained["draining"])
	refused := s.tenantry("company", "create", "Sun Valley", "--owner-email", "ada@sun.example", "--json")
	require.Equal(t, 1, refused.code)
	require.Contains(t, refused.errOut, "NO_CLUSTER_AVAILABLE")

	for range 2 {
		undrained := objects(t, ok(t, s.tenantry("cluster", "undrain", name)))[0]
		require.Equal(t, false, undrained["draining"])
	}
	ok(t, s.tenantry("company", "create", "Sun Valley", "--owner-email", "ada@sun.example"))
	unknown := s.tenantry("cluster", "undrain", "nowhere", "--json")
	require.Equal(t, 1, unknown.code)
	require.Contains(t, unknown.errOut, "CLUSTER_NOT_FOUND")
}
