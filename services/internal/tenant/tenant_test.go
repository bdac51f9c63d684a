package tenant_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantry/tenantry/services/internal/tenant"
)

func TestADatabaseIsNamedAfterItsIDAndNothingElse(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("01890A5D-AC96-774B-BCCE-B302099A8057")
	name := tenant.DatabaseName(id)
	require.Equal(t, "tenant_01890a5dac96774bbcceb302099a8057", name)
	back, ok := tenant.ParseDatabaseName(name)
	require.True(t, ok)
	require.Equal(t, id, back)
	for _, other := range []string{"", "postgres", "tenant_", name + "0", strings.ToUpper(name),
		"tenant_01890A5DAC96774BBCCEB302099A8057", "tenant_01890a5dac96774bbcceb302099a805g"} {
		_, ok := tenant.ParseDatabaseName(other)
		require.False(t, ok, other)
	}
}

func TestSlugsAreDNSLabelsThatNoIDCanBeTakenFor(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "sun-power", "3m", strings.Repeat("a", 63)} {
		require.NoError(t, tenant.CheckSlug(good), good)
	}
	for _, bad := range []string{"", "-a", "a-", "A", "a_b", "a.b", "é", strings.Repeat("a", 64),
		"01890a5d-ac96-774b-bcce-b302099a8057", "01890a5dac96774bbcceb302099a8057"} {
		require.Error(t, tenant.CheckSlug(bad), bad)
	}
}

func TestANameGivesAReadableSlug(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"Sun Power Ltd.": "sun-power-ltd", "Énergie d'Été": "energie-d-ete", "  --x--  ": "x", "日本": "company",
		"01890a5d-ac96-774b-bcce-b302099a8057": "company", strings.Repeat("ab ", 40): strings.TrimRight(strings.Repeat("ab-", 21), "-"),
	} {
		require.Equal(t, want, tenant.SlugOf(name), name)
	}
	require.Equal(t, "a-2", tenant.NumberedSlug("a", 2))
}

func TestWhateverTheNameItsSlugIsGood(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		slug := tenant.SlugOf(rapid.String().Draw(t, "name"))
		require.NoError(t, tenant.CheckSlug(slug))
		require.NoError(t, tenant.CheckSlug(tenant.NumberedSlug(slug, rapid.IntRange(1, 999999).Draw(t, "n"))))
	})
}
