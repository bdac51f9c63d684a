package provisioner_test

import (
	"io"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

func (w *world) backups() provisionerv1.BackupServiceClient {
	return provisionerv1.NewBackupServiceClient(w.dial(w.address, "operator/ops"))
}

// copied is a backup in memory.
type copied struct {
	manifest *provisionerv1.BackupManifest
	data     [][]byte
	trailer  *provisionerv1.BackupTrailer
}

func (w *world) backup(slug string) (c copied) {
	w.t.Helper()
	stream, err := w.backups().BackupTenant(w.t.Context(), &provisionerv1.BackupTenantRequest{Company: slug})
	for _, m := range all(w.t, stream, err) {
		switch part := m.GetPart().(type) {
		case *provisionerv1.BackupTenantResponse_Manifest:
			c.manifest = part.Manifest
		case *provisionerv1.BackupTenantResponse_Data:
			c.data = append(c.data, part.Data)
		case *provisionerv1.BackupTenantResponse_Trailer:
			c.trailer = part.Trailer
		}
	}
	require.NotNil(w.t, c.manifest)
	require.NotNil(w.t, c.trailer)
	return c
}

func (w *world) restore(slug string, c copied, anyCompany bool) (*provisionerv1.RestoreTenantResponse, error) {
	w.t.Helper()
	stream, err := w.backups().RestoreTenant(w.t.Context())
	require.NoError(w.t, err)
	send := func(m *provisionerv1.RestoreTenantRequest) {
		if err := stream.Send(m); err != nil {
			require.ErrorIs(w.t, err, io.EOF)
		}
	}
	send(&provisionerv1.RestoreTenantRequest{Part: &provisionerv1.RestoreTenantRequest_Start{Start: &provisionerv1.RestoreStart{Company: slug, Manifest: c.manifest, AnyCompany: anyCompany}}})
	for _, data := range c.data {
		send(&provisionerv1.RestoreTenantRequest{Part: &provisionerv1.RestoreTenantRequest_Data{Data: data}})
	}
	if c.trailer != nil {
		send(&provisionerv1.RestoreTenantRequest{Part: &provisionerv1.RestoreTenantRequest_Trailer{Trailer: c.trailer}})
	}
	return stream.CloseAndRecv()
}

// rights are all that roles may do in a database, by the group's and everyone's names.
const rights = `SELECT n.nspname || '.' || c.relname || ' ' || a.grantee::regrole::text || ' ' || a.privilege_type FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
	aclexplode(c.relacl) a WHERE a.grantee <> c.relowner UNION ALL SELECT n.nspname || ' ' || a.grantee::regrole::text || ' ' || a.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner
	UNION ALL SELECT 'default ' || d.defaclobjtype::text || ' ' || a.grantee::regrole::text || ' ' || a.privilege_type FROM pg_default_acl d, aclexplode(d.defaclacl) a
	UNION ALL SELECT 'function ' || p.oid::regprocedure::text || ' ' || a.grantee::regrole::text FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee <> p.proowner ORDER BY 1`

func TestACopyTakesThePlaceOfACompanysDatabaseOnlyWhenItIsWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signUp(2)
	for range 3 {
		w.database("c1", "INSERT INTO things (name) SELECT repeat(md5(i::text), 100) FROM generate_series(1, 500) i")
	}
	before, old := w.database("c1", rights), w.company("c1").GetDatabase()
	c := w.backup("c1")
	require.Equal(t, "c1", c.manifest.GetSlug())
	require.Equal(t, "00000002", c.manifest.GetSchemaVersion())
	w.database("c1", "DELETE FROM things")
	w.write("core/00000003_c.up.sql", "ALTER TABLE things ADD color text DEFAULT 'red';")
	w.finish(w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId())

	damaged := c
	damaged.data = append([][]byte(nil), c.data...)
	damaged.data[len(damaged.data)/2] = append([]byte(nil), damaged.data[len(damaged.data)/2]...)
	for i := range damaged.data[len(damaged.data)/2] {
		damaged.data[len(damaged.data)/2][i] ^= 0x55
	}
	short, cut := c, c
	cut.trailer = nil
	short.data = c.data[:len(c.data)-1]
	wrong := c
	wrong.trailer = &provisionerv1.BackupTrailer{Bytes: c.trailer.GetBytes(), Sha256: make([]byte, 32)}
	for name, bad := range map[string]copied{"damaged": damaged, "short": short, "cut off": cut, "another sum": wrong} {
		_, err := w.restore("c1", bad, false)
		require.Equal(t, fault.BackupInvalid, fault.From(err).Reason, "%s: %v", name, err)
	}
	_, err := w.restore("c1", wrong, false)
	require.Equal(t, "trailer.sha256", requireFault(t, err, codes.InvalidArgument, fault.BackupInvalid).Fields[0].Path)
	_, err = w.restore("c2", c, false)
	requireFault(t, err, codes.FailedPrecondition, fault.BackupMismatch)
	require.Equal(t, old, w.company("c1").GetDatabase(), "it keeps what it has")
	require.Eventually(t, func() bool {
		return len(w.servers("SELECT datname FROM pg_database WHERE datname LIKE 'tenant_%'")) == 2
	}, time.Minute, 100*time.Millisecond,
		"nothing is left of what failed")

	got, err := w.restore("c1", c, false)
	require.NoError(t, err)
	require.Equal(t, w.company("c1").GetDatabase(), got.GetDatabase())
	require.NotEqual(t, old, got.GetDatabase())
	require.Equal(t, "00000003", got.GetSchemaVersion(), "the copy is brought to the release")
	require.Equal(t, []string{"1500 red"}, w.database("c1", "SELECT count(*) || ' ' || min(color) FROM things"))
	require.Equal(t, before, w.database("c1", rights))
	require.Equal(t, []string{"1501"}, w.database("c1", "INSERT INTO things (name) VALUES ('x') RETURNING id::text"), "sequences go on")
	require.Empty(t, w.own("SELECT database_id::text FROM condemned WHERE reason = 'RESTORING'"))
	w.own("UPDATE condemned SET drop_after = now() WHERE reason = 'REPLACED' RETURNING 'x'")
	require.Eventually(t, func() bool { return len(w.servers("SELECT datname FROM pg_database WHERE datname = '"+old+"'")) == 0 }, time.Minute, 100*time.Millisecond)

	_, err = w.restore("c2", c, true)
	require.NoError(t, err)
	require.Equal(t, []string{"1500"}, w.database("c2", "SELECT count(*)::text FROM things"))
}

func TestACloneIsACompanyOfItsOwnWithACopyOfTheData(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 1)
	w.write("clone.sql", "UPDATE company SET name = @company_name, owner = @owner_email;")
	w.finish(w.start(&provisionerv1.StartRolloutRequest{}).GetRolloutId())
	w.signUp(1)
	w.database("c1", "INSERT INTO things (name) VALUES ('lamp')")
	q := &provisionerv1.CloneTenantRequest{RequestId: uuid.NewString(), Source: "c1", Company: &registryv1.CompanyDraft{Name: "Twin", Slug: "twin"},
		Owner: &registryv1.OwnerDraft{Name: "T", Email: "twin@example.com"}}
	first, err := w.backups().CloneTenant(t.Context(), q)
	require.NoError(t, err)
	again, err := w.backups().CloneTenant(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, first.GetCompanyId(), again.GetCompanyId())
	require.Equal(t, []string{"lamp"}, w.database("twin", "SELECT name FROM things"))
	require.Equal(t, []string{"Twin twin@example.com"}, w.database("twin", "SELECT name || ' ' || owner FROM company"))
	w.database("twin", "DELETE FROM things")
	require.Equal(t, []string{"lamp"}, w.database("c1", "SELECT name FROM things"))
	require.NotEqual(t, w.company("c1").GetDatabase(), w.company("twin").GetDatabase())
	q.RequestId, q.Source = uuid.NewString(), "nobody"
	_, err = w.backups().CloneTenant(t.Context(), q)
	requireFault(t, err, codes.NotFound, fault.CompanyNotFound)
}
