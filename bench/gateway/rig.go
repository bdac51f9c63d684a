package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tenantry/tenantry/bench/harness"
	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

const (
	// rowsEach is how many rows a tenant's table has.
	rowsEach = 1000
	// core is tenants' schema: one small table, so that thousands of databases are made in a minute or two.
	core = `CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL, value text NOT NULL);
INSERT INTO items SELECT g, 'item ' || g, repeat('v', 60) FROM generate_series(1, 1000) g;
`
	// clientConns is over how many connections callers of one process spread, for every contender alike: nginx gives each
	// connection to one worker.
	clientConns = 8
	// signupsAtOnce is how many tenants are made side by side.
	signupsAtOnce = 8
	// budget is how many server connections there are for all tenants.
	budget = 100
)

// tenant is one company.
type tenant struct{ company, database, token string }

// rig is what the parts measure with; what it has is made when it is first needed.
type rig struct {
	binary  string
	report  *harness.Report
	sets    string
	system  *harness.System
	signer  *signer
	tenants []tenant
	logs    int
}

func (r *rig) stop() error {
	var err error
	if r.system != nil {
		err = errors.Join(r.drop(), r.system.Stop())
	}
	if r.sets != "" {
		err = errors.Join(err, os.RemoveAll(r.sets))
	}
	return err
}

// drop drops tenants' databases.
func (r *rig) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var databases []string
	for _, t := range r.tenants {
		databases = append(databases, t.database)
	}
	return r.system.Drop(ctx, databases)
}

// start starts the system unless it runs, with the budget for its cluster.
func (r *rig) start(ctx context.Context) (err error) {
	if r.system != nil {
		return nil
	}
	if r.sets, err = os.MkdirTemp("", "tenantry-bench-sets-"); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(r.sets, "core"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.sets, "core", "0001_items.up.sql"), []byte(core), 0o600); err != nil {
		return err
	}
	if r.system, err = harness.Start(ctx, r.binary, "--migrations", r.sets, "--spares", "0"); err != nil {
		return err
	}
	if r.signer, err = loadSigner(r.key("access.pem")); err != nil {
		return err
	}
	registry, err := r.system.Dial("TENANTRY_REGISTRY")
	if err != nil {
		return err
	}
	defer func() { _ = registry.Close() }() // Nothing is under way on it.
	clusters := registryv1.NewClusterServiceClient(registry)
	known, err := clusters.ListClusters(ctx, &registryv1.ListClustersRequest{})
	if err != nil {
		return err
	}
	for _, c := range known.GetClusters() {
		if _, err := clusters.RegisterCluster(ctx, &registryv1.RegisterClusterRequest{Name: c.GetName(), Host: c.GetHost(), Port: c.GetPort(), Tls: c.GetTls(),
			MaxTenants: c.GetMaxTenants(), ConnectionBudget: budget}); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) key(name string) string { return filepath.Join(r.system.Dir, "data", "keys", name) }
func (r *rig) certificate(name string) string {
	return filepath.Join(r.system.Dir, "data", "certificates", name)
}

// log is a new file for what a process says.
func (r *rig) log(name string) string {
	r.logs++
	return filepath.Join(r.system.Dir, fmt.Sprintf("%s-%d.log", name, r.logs))
}

// issue makes a certificate for the loopback and returns its files.
func (r *rig) issue(ctx context.Context, name string) (cert, key string, err error) {
	out, err := exec.CommandContext(ctx, r.binary, "certificate", "issue", name, "--dir", filepath.Dir(r.system.Env["TENANTRY_CA"]), "--host", "127.0.0.1", "--host", "localhost").CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("certificate of %s: %w\n%s", name, err, out)
	}
	file := strings.ReplaceAll(name, "/", "-")
	return r.certificate(file + ".pem"), r.certificate(file + "-key.pem"), nil
}

// service is a tenantry of its own process with an address.
type service struct {
	*child
	address string
}

// gateway starts a gateway of its own process that asks a registry, and waits until it is healthy.
func (r *rig) gateway(ctx context.Context, registry string, args ...string) (*service, error) {
	return r.serve(ctx, "gateway", append([]string{"--registry", registry, "--master-key", r.key("master.hex"), "--signing-key", r.key("assertion.pem"),
		"--instance", "bench-" + uuid.NewString()}, args...)...)
}

// serve starts one of the three services with its certificate, and waits until it is healthy.
func (r *rig) serve(ctx context.Context, name string, args ...string) (*service, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	args = append([]string{name, "--listen", address, "--tls-ca", r.system.Env["TENANTRY_CA"], "--tls-cert", r.certificate(name + ".pem"),
		"--tls-key", r.certificate(name + "-key.pem")}, args...)
	c, err := spawn(r.log(name), r.binary, []string{"TENANTRY_REGISTRY_DSN=" + r.system.Env["TENANTRY_REGISTRY_DSN"]}, args...)
	if err != nil {
		return nil, err
	}
	conns, err := dialMany(address, r.system.Env["TENANTRY_CA"], 1)
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	defer func() { _ = conns.close() }() // Nothing is under way on it.
	err = c.await(ctx, func(ctx context.Context) error {
		got, err := healthpb.NewHealthClient(conns[0]).Check(ctx, &healthpb.HealthCheckRequest{})
		if err == nil && got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			err = fmt.Errorf("it says %s", got.GetStatus())
		}
		return err
	})
	return &service{c, address}, err
}

// need returns this many tenants, and makes those that are not there yet.
func (r *rig) need(ctx context.Context, n int) ([]tenant, error) {
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	have := len(r.tenants)
	if have >= n {
		return r.tenants[:n], nil
	}
	conn, err := r.system.Dial("TENANTRY_PROVISIONER")
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	client := provisionerv1.NewProvisionerServiceClient(conn)
	made := make([]tenant, n-have)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(signupsAtOnce)
	var done atomic.Int64
	for i := range made {
		group.Go(func() error {
			slug := fmt.Sprintf("tenant-%d", have+i)
			got, err := client.CreateTenant(groupCtx, &provisionerv1.CreateTenantRequest{RequestId: uuid.NewString(),
				Company: &registryv1.CompanyDraft{Name: slug, Slug: slug}, Owner: &registryv1.OwnerDraft{Name: "Owner", Email: "owner@" + slug + ".example"}})
			if err != nil {
				return fmt.Errorf("sign up %s: %w", slug, err)
			}
			made[i].company = got.GetCompanyId()
			made[i].token, err = r.signer.access(got.GetCompanyId())
			if count := done.Add(1); count%500 == 0 {
				err = errors.Join(err, r.report.Printf("  %d of %d tenants made\n", count, len(made)))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := r.locate(ctx, made); err != nil {
		return nil, err
	}
	r.tenants = append(r.tenants, made...)
	return r.tenants, nil
}

// locate fills in the names of tenants' databases.
func (r *rig) locate(ctx context.Context, made []tenant) error {
	central, err := r.central(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = central.Close(context.WithoutCancel(ctx)) }() // It was only read.
	rows, err := central.Query(ctx, "SELECT company_id::text, 'tenant_' || replace(id::text, '-', '') FROM tenant_databases")
	if err != nil {
		return err
	}
	defer rows.Close()
	databases := map[string]string{}
	for rows.Next() {
		var company, database string
		if err := rows.Scan(&company, &database); err != nil {
			return err
		}
		databases[company] = database
	}
	for i := range made {
		made[i].database = databases[made[i].company]
	}
	return rows.Err()
}

// clients are connections to one address, for callers to share.
type clients []*grpc.ClientConn

func dialMany(address, ca string, n int) (clients, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("the authority's certificate cannot be read")
	}
	var out clients
	for range n {
		c, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})))
		if err != nil {
			return nil, errors.Join(err, out.close())
		}
		out = append(out, c)
	}
	return out, nil
}

// of is a caller's connection.
func (c clients) of(caller int) *grpc.ClientConn { return c[caller%len(c)] }

// sql is SqlService on a caller's connection.
func (c clients) sql(caller int) gatewayv1.SqlServiceClient {
	return gatewayv1.NewSqlServiceClient(c.of(caller))
}

func (c clients) close() error {
	var errs []error
	for _, conn := range c {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}
