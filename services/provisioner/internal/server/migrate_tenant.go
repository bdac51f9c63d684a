package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/fleet"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
)

// MigrateTenant implements the contract.
func (s provisionerService) MigrateTenant(ctx context.Context, r *provisionerv1.MigrateTenantRequest) (*provisionerv1.MigrateTenantResponse, error) {
	rel, err := s.newest(ctx)
	if err != nil {
		return nil, err
	}
	t, err := s.tenant(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	if err := hasDatabase(t); err != nil {
		return nil, err
	}
	opts := fleet.Options{Options: schema.Options{ToVersion: r.GetToVersion(), DryRun: r.GetDryRun()}}
	if r.GetPause() {
		opts.PauseFor = "migration/" + uuid.NewString()
	}
	warnings, err := s.gate(ctx, t, rel, opts.Options, r.GetForce())
	if err != nil {
		return nil, err
	}
	results, err := s.Migrator.Migrate(ctx, t, rel, opts)
	if err != nil {
		return nil, err
	}
	out := &provisionerv1.MigrateTenantResponse{CompanyId: t.GetCompanyId(), FromVersion: results[0].From, ToVersion: results[0].To, Warnings: warnings}
	out.Applied = appliedOf(results)
	for _, set := range results {
		out.Pending = append(out.Pending, pending(set)...)
	}
	current, err := s.Releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	if !r.GetDryRun() && out.GetToVersion() > current.CoreVersion {
		out.Warnings = append(out.Warnings, "new companies are still born at version "+current.CoreVersion+": start a rollout (`tenantry migrate`) to bring all")
	}
	return out, nil
}

// gate lets a tenant's pending files through unless something destructive was found in them and force is not set, and
// says what else was found in them.
func (s *Server) gate(ctx context.Context, t *registryv1.Tenant, rel *release.Release, opts schema.Options, force bool) (warnings []string, err error) {
	findings, err := s.Gate.Judge(ctx, rel)
	if err != nil || len(findings) == 0 {
		return nil, err
	}
	dry := opts
	dry.DryRun = true
	results, err := s.Migrator.Migrate(ctx, t, rel, fleet.Options{Options: dry})
	if err != nil {
		return nil, err
	}
	due := map[string]bool{}
	for _, set := range results {
		for _, f := range set.Pending {
			if set.Set != migrate.CoreName || opts.ToVersion == "" || f.Version <= opts.ToVersion {
				due[set.Set+"/"+f.Name] = true
			}
		}
	}
	findings = slices.DeleteFunc(findings, func(f *provisionerv1.Finding) bool { return !due[f.GetSet()+"/"+f.GetFile()] })
	for _, f := range findings {
		warnings = append(warnings, fmt.Sprintf("%s/%s: %s (%s)", f.GetSet(), f.GetFile(), f.GetMessage(), f.GetCode()))
	}
	if opts.DryRun {
		return warnings, nil
	}
	return warnings, s.pass(ctx, findings, force, "migration.forced", &registryv1.RecordEventRequest{CompanyId: t.GetCompanyId(), Subject: rel.Hash})
}

// newest is the release of what this copy's directory has now.
func (s *Server) newest(ctx context.Context) (*release.Release, error) {
	tree, err := s.Source.Load()
	if err != nil {
		return nil, err
	}
	return s.Releases.Ensure(ctx, tree)
}

func pending(set schema.SetResult) []*provisionerv1.PendingMigration {
	var out []*provisionerv1.PendingMigration
	for _, f := range set.Pending {
		out = append(out, &provisionerv1.PendingMigration{Version: f.Version, Description: f.Description, Set: set.Set})
	}
	return out
}

func hasDatabase(t *registryv1.Tenant) error {
	switch t.GetState() {
	case registryv1.CompanyState_COMPANY_STATE_ACTIVE, registryv1.CompanyState_COMPANY_STATE_SUSPENDED, registryv1.CompanyState_COMPANY_STATE_MAINTENANCE:
		return nil
	default:
		return fault.New(codes.FailedPrecondition, fault.CompanyStateInvalid, "the company is %s, want one that has a database", t.GetState()).With("state", t.GetState().String())
	}
}

// GetTenantStatus implements the contract.
func (s provisionerService) GetTenantStatus(ctx context.Context, r *provisionerv1.GetTenantStatusRequest) (*provisionerv1.GetTenantStatusResponse, error) {
	t, err := s.tenant(ctx, r.GetCompany())
	if err != nil {
		return nil, err
	}
	database, err := uuid.Parse(t.GetDatabaseId())
	if err != nil {
		return nil, err
	}
	name := tenant.DatabaseName(database)
	current, err := s.Releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	out := &provisionerv1.GetTenantStatusResponse{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), State: t.GetState(), Cluster: t.GetCluster(), Database: name,
		CurrentVersion: current.CoreVersion}
	if out.LastResult, err = s.Rollouts.Latest(ctx, t.GetCompanyId()); err != nil {
		return nil, err
	}
	if out.DatabaseExists, err = s.Clusters.Exists(ctx, t.GetCluster(), name); err != nil || !out.GetDatabaseExists() {
		return out, err
	}
	if out.DatabaseBytes, err = s.Clusters.Size(ctx, t.GetCluster(), name); err != nil {
		return nil, err
	}
	return out, s.sets(ctx, t, name, current, out)
}

// sets tells where each set stands against what this copy's directory has now, or, when that cannot be read as it should
// be, against the current release: a status is asked for most when something is wrong.
func (s *Server) sets(ctx context.Context, t *registryv1.Tenant, database string, against *release.Release, out *provisionerv1.GetTenantStatusResponse) (err error) {
	if tree, err := s.Source.Load(); err == nil {
		if newest, err := s.Releases.Ensure(ctx, tree); err == nil {
			against = newest
		}
	}
	conn, err := s.Clusters.Connect(ctx, t.GetCluster(), database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	results, err := schema.Bring(ctx, conn, against, t.GetPlugins(), schema.Options{DryRun: true})
	if err != nil {
		return err
	}
	for _, set := range results {
		out.Sets = append(out.Sets, &provisionerv1.SetStatus{Set: set.Set, Version: set.From, Pending: pending(set)})
		if set.Set == migrate.CoreName {
			out.SchemaVersion = set.From
		}
	}
	return nil
}
