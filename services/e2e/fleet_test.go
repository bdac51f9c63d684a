package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// fleet is a registry and two copies of the provisioner, each a process to kill, and a product of a few tables, so that many
// tenants are made in little time.
type fleet struct {
	*apart
	sets     string
	versions []string // of the core set, the oldest first
	copies   [2]*copyOfProvisioner
}

// copyOfProvisioner is one copy, at an address that stays its when it is started again.
type copyOfProvisioner struct {
	*process
	args []string
	ops  *grpc.ClientConn
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{apart: newApart(t), sets: newDirectory(t)}
	f.addFile("CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, amount integer NOT NULL DEFAULT 0);\nCREATE TABLE applied (version text NOT NULL);")
	require.NoError(t, os.WriteFile(filepath.Join(f.sets, "seed.sql"), []byte("INSERT INTO things (name) SELECT 'seed' WHERE NOT EXISTS (SELECT FROM things);"), 0o600))
	f.serve("TENANTRY_REGISTRY", "registry", f.registryArgs...)
	host, port := splitAddress(t, f.env["TENANTRY_ADMIN_DSN"])
	ok(t, f.tenantry("cluster", "register", "main", "--host", host, "--port", port, "--tls", "disable"))
	admin := filepath.Join(f.keys, "admin.dsn")
	require.NoError(t, os.WriteFile(admin, []byte(f.env["TENANTRY_ADMIN_DSN"]), 0o600))
	f.env["TENANTRY_SECOND_PROVISIONER"] = freeAddress(t)
	for i, variable := range []string{"TENANTRY_PROVISIONER", "TENANTRY_SECOND_PROVISIONER"} {
		f.copies[i] = &copyOfProvisioner{ops: f.dial(variable, asOperator), args: []string{"provisioner", "--cluster", "main=" + admin,
			"--master-key", filepath.Join(f.keys, "master.hex"), "--migrations", f.sets, "--spares", "3", "--instance", fmt.Sprintf("copy-%d", i+1),
			"--listen", f.env[variable], "--tls-ca", f.env["TENANTRY_CA"], "--tls-cert", filepath.Join(f.certificates, "provisioner.pem"),
			"--tls-key", filepath.Join(f.certificates, "provisioner-key.pem")}}
		f.restart(i)
	}
	f.patiently(func(ctx context.Context, on *grpc.ClientConn) error {
		_, err := provisionerv1.NewRolloutServiceClient(on).ListRollouts(ctx, &provisionerv1.ListRolloutsRequest{})
		return err
	}, 0)
	return f
}

// restart starts a copy; one that runs is killed before.
func (f *fleet) restart(i int) {
	c := f.copies[i]
	if c.process != nil {
		c.kill()
		c.wait(f.t)
	}
	c.process = startProcess(f.t, f.variables(), c.args...)
}

// addFile adds a file to the core set that also notes that it was applied, which must happen once.
func (f *fleet) addFile(sql string) string {
	version := fmt.Sprintf("%08d", len(f.versions)+1)
	text := sql + "\nINSERT INTO applied (version) VALUES ('" + version + "');"
	path := filepath.Join(f.sets, "core", version+"_file.up.sql")
	require.NoError(f.t, os.MkdirAll(filepath.Dir(path), 0o755))
	// It appears whole: a copy may be reading the directory.
	require.NoError(f.t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(f.t, os.Rename(path+".new", path))
	f.versions = append(f.versions, version)
	return version
}

// patiently calls until it has an answer that is not "later", first one copy and then the other. A call has long enough for
// the slowest there is on a slow machine, the judging of a release; one whose copy dies ends with it.
func (f *fleet) patiently(call func(ctx context.Context, on *grpc.ClientConn) error, first int) {
	f.t.Helper()
	deadline := time.Now().Add(2 * patience)
	for i := first; ; i++ {
		ctx, cancel := context.WithTimeout(f.t.Context(), 40*time.Second)
		err := call(ctx, f.copies[i%2].ops)
		cancel()
		if err == nil {
			return
		}
		later := fault.Retryable(err) || fault.HasReason(err, fault.Cancelled) || status.Code(err) == codes.DeadlineExceeded
		require.True(f.t, later && time.Now().Before(deadline), "%v", err)
		time.Sleep(20 * time.Millisecond)
	}
}

// signUp signs a company up, without a password, whose hash would take longer than the rest.
func (f *fleet) signUp(slug string, first int) company {
	f.t.Helper()
	request := &provisionerv1.CreateTenantRequest{RequestId: uuid.NewString(), Company: &registryv1.CompanyDraft{Name: slug, Slug: slug},
		Owner: &registryv1.OwnerDraft{Name: "Owner", Email: "owner@" + slug + ".example"}}
	c := company{slug: slug}
	f.patiently(func(ctx context.Context, on *grpc.ClientConn) error {
		got, err := provisionerv1.NewProvisionerServiceClient(on).CreateTenant(ctx, request)
		c.id = got.GetCompanyId()
		return err
	}, first)
	return c
}

func (f *fleet) signUpMany(n int) {
	f.t.Helper()
	next := make(chan int, n)
	for i := range n {
		next <- i + 1
	}
	close(next)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range next {
				f.signUp("c"+strconv.Itoa(i), i)
			}
		})
	}
	group.Wait()
}

func (f *fleet) startRollout(first int, r *provisionerv1.StartRolloutRequest) (id string) {
	f.t.Helper()
	f.patiently(func(ctx context.Context, on *grpc.ClientConn) error {
		got, err := provisionerv1.NewRolloutServiceClient(on).StartRollout(ctx, r)
		id = got.GetRollout().GetRolloutId()
		return err
	}, first)
	return id
}

func (f *fleet) rollout(first int, id string) (r *provisionerv1.Rollout) {
	f.t.Helper()
	f.patiently(func(ctx context.Context, on *grpc.ClientConn) error {
		got, err := provisionerv1.NewRolloutServiceClient(on).GetRollout(ctx, &provisionerv1.GetRolloutRequest{RolloutId: id})
		r = got.GetRollout()
		return err
	}, first)
	return r
}

// ended waits until a rollout has ended.
func (f *fleet) ended(first int, id string) *provisionerv1.Rollout {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r := f.rollout(first, id)
		switch r.GetState() {
		case provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING, provisionerv1.RolloutState_ROLLOUT_STATE_PAUSED:
		default:
			return r
		}
		require.True(f.t, time.Now().Before(deadline), "the rollout does not end: %v", r)
		time.Sleep(20 * time.Millisecond)
	}
}

// databases are the names of companies' databases by slug, of all that are not deleted.
func (f *fleet) databases() map[string]string {
	f.t.Helper()
	out := map[string]string{}
	for _, line := range f.read(f.env["TENANTRY_REGISTRY_DSN"], `SELECT c.slug || ' tenant_' || replace(d.id::text, '-', '')
		FROM companies c JOIN tenant_databases d ON d.company_id = c.id WHERE c.state <> 'DELETED'`) {
		slug, database, _ := strings.Cut(line, " ")
		out[slug] = database
	}
	return out
}

// requireAt requires that each of these databases has had each file up to a version once, and by the word of the real Atlas
// CLI, on some of them, nothing half done.
func (f *fleet) requireAt(databases map[string]string, version string) {
	f.t.Helper()
	var want []string
	for _, v := range f.versions {
		if v <= version {
			want = append(want, v)
		}
	}
	cli, err := atlascli.New(atlasCLI())
	require.NoError(f.t, err)
	looked := 0
	for slug, database := range databases {
		require.Equal(f.t, want, f.inDatabase(database, `SELECT version FROM applied UNION ALL
			SELECT version || ' half done' FROM atlas_schema_revisions.atlas_schema_revisions WHERE applied <> total OR error <> '' ORDER BY version`), slug)
		if looked++; looked <= 3 {
			status, err := cli.Status(f.t.Context(), f.databaseDSN(database), f.atlasForm(), "")
			require.NoError(f.t, err)
			require.Equal(f.t, version, status.Current)
			require.Equal(f.t, version == f.versions[len(f.versions)-1], status.OK, "%s: %+v", slug, status)
		}
	}
}

// atlasForm is the core set as the CLI reads it: the same files, sealed, in another directory.
func (f *fleet) atlasForm() string {
	f.t.Helper()
	dir := filepath.Join(f.t.TempDir(), "core")
	require.NoError(f.t, os.Mkdir(dir, 0o755))
	for _, version := range f.versions {
		text, err := os.ReadFile(filepath.Join(f.sets, "core", version+"_file.up.sql"))
		require.NoError(f.t, err)
		require.NoError(f.t, os.WriteFile(filepath.Join(dir, version+"_file.sql"), text, 0o600))
	}
	ok(f.t, runTenantry(f.t, nil, "migration", "hash", "core", "--migrations", filepath.Dir(dir)))
	return dir
}
