package provisioner_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheTemplatesOfAnEarlierProgramGoWhenNoCopyHasUsedThemForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(2)
	names := func() string {
		return strings.Join(w.own("SELECT cluster || ' ' || name FROM templates ORDER BY 1"), ", ")
	}
	mine := w.own("SELECT DISTINCT name FROM templates")
	require.Len(t, mine, 1, "one release, in one way")
	require.Len(t, w.own("SELECT name FROM templates"), 2, "and two clusters")
	made := func(name string) {
		t.Helper()
		w.servers("CREATE DATABASE " + name + " ALLOW_CONNECTIONS false")
	}
	const earlier, other, unknown = "template_000000000001", "template_000000000002", "template_000000000003"
	for _, name := range []string{earlier, earlier + "_unfinished", other, unknown} {
		made(name)
	}
	w.own("INSERT INTO templates SELECT cluster, '" + other + "', now() - interval '23 hours' FROM templates")
	w.own("UPDATE templates SET used_at = now() - interval '1 year' WHERE name = '" + mine[0] + "'")
	w.own("INSERT INTO templates SELECT cluster, '" + earlier + "', now() - interval '25 hours' FROM templates WHERE name = '" + mine[0] + "'")
	w.own("INSERT INTO templates VALUES ('gone', '" + earlier + "', now() - interval '25 hours')")
	there := func(name string) int {
		return len(w.servers("SELECT datname::text FROM pg_database WHERE starts_with(datname, '" + name + "')"))
	}
	require.Eventually(t, func() bool { return !strings.Contains(names(), earlier) }, time.Minute, 100*time.Millisecond)
	require.Zero(t, there(earlier))
	require.Equal(t, 2, there(other), "a copy that runs may have it")
	require.Equal(t, 2, there(unknown), "nobody knows whose it is")
	require.Equal(t, 2, there(mine[0]), "a release has it")
	require.Eventually(t, func() bool {
		return len(w.own("SELECT name FROM templates WHERE name = '"+mine[0]+"' AND used_at > now() - interval '1 minute'")) == 2
	}, time.Minute, 100*time.Millisecond, "and this copy says so, over and over")
	_, err := w.tenants().CreateTenant(t.Context(), signup(3))
	require.NoError(t, err)
}
