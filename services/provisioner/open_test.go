package provisioner_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

// A copy that starts closes what it finds open. If that were what another copy is making just then, both would change the
// same row, and PostgreSQL refuses one of them: `tuple concurrently updated`.
func TestNoDatabaseIsOpenWhileItIsMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	open := make(chan map[string]bool, len(w.clusters))
	for _, s := range w.clusters {
		conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
		require.NoError(t, err)
		go func() {
			seen := map[string]bool{}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)); open <- seen }()
			for ctx.Err() == nil {
				var name string
				rows, err := conn.Query(context.WithoutCancel(ctx), `SELECT datname FROM pg_database WHERE datallowconn AND datname NOT IN ('postgres', 'template1')
					AND (datacl IS NULL OR EXISTS (SELECT FROM aclexplode(datacl) WHERE grantee = 0))`)
				if err == nil {
					_, err = pgx.ForEachRow(rows, []any{&name}, func() error { seen[name] = true; return nil })
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	w.signUp(3)
	for i, file := range []string{"core/00000003_c.up.sql", "core/00000004_d.up.sql", "core/00000005_e.up.sql"} {
		w.write(file, "CREATE INDEX ON things (name);")
		w.finish(w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId())
		_, err := w.tenants().CreateTenant(t.Context(), signup(4+i))
		require.NoError(t, err)
		drift, err := w.tenants().CheckDrift(t.Context(), &provisionerv1.CheckDriftRequest{Company: "c1"})
		require.NoError(t, err)
		require.False(t, drift.GetDrifted(), "%v", drift)
	}
	stop()
	for range w.clusters {
		require.Empty(t, <-open)
	}
}

func TestACopyThatStartsClosesWhatIsOpenAndLeavesAloneWhatIsBeingMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(2) // One on each cluster.
	w.stop()
	dsn := w.clusters["one"].DSN("postgres")
	query(t, dsn, "CREATE DATABASE theirs TEMPLATE template0")
	query(t, dsn, "CREATE DATABASE being_made TEMPLATE template0 ALLOW_CONNECTIONS false")
	w.startProvisioner()
	for _, slug := range []string{"c1", "c2"} {
		_, err := w.tenants().MigrateTenant(t.Context(), &provisionerv1.MigrateTenantRequest{Company: slug}) // It uses the cluster.
		require.NoError(t, err)
	}
	require.Equal(t, []string{"being_made true", "theirs false"}, query(t, dsn, `SELECT datname || ' ' || (datacl IS NULL)::text FROM pg_database
		WHERE datname IN ('theirs', 'being_made') ORDER BY 1`))
}
