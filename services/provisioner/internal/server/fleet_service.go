package server

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/provisioner/internal/fleet"
)

type fleetService struct {
	provisionerv1.UnimplementedFleetServiceServer
	*Server
}

// sweepers is how many tenants a sweep works on at once.
const sweepers = 4

// sweep calls work for each selected tenant, some at once, and sends what it returns. newWorker makes what one of those
// at work needs and what gives that up.
func sweep[M any](ctx context.Context, s *Server, selector *provisionerv1.Selector, send func(M) error,
	newWorker func() (work func(ctx context.Context, t *registryv1.Tenant) M, done func() error, err error),
) error {
	if selector == nil {
		selector = &provisionerv1.Selector{}
	}
	if err := s.checkSelector(ctx, selector); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	queue, results := make(chan *registryv1.Tenant), make(chan M)
	group.Go(func() error {
		defer close(queue)
		return s.Runner.Each(ctx, selector, func(t *registryv1.Tenant) error {
			select {
			case queue <- t:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	workers, working := errgroup.WithContext(ctx)
	for range sweepers {
		workers.Go(func() (err error) {
			work, done, err := newWorker()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			for t := range queue {
				m := work(working, t)
				select {
				case results <- m:
				case <-working.Done():
					return working.Err()
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(results)
		return workers.Wait()
	})
	group.Go(func() error {
		for m := range results {
			if err := send(m); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

func nothing() error { return nil }

// SweepDrift implements the contract.
func (s fleetService) SweepDrift(r *provisionerv1.SweepDriftRequest, out grpc.ServerStreamingServer[provisionerv1.SweepDriftResponse]) error {
	return sweep(out.Context(), s.Server, r.GetSelector(), out.Send, func() (func(context.Context, *registryv1.Tenant) *provisionerv1.SweepDriftResponse, func() error, error) {
		c, err := s.checker(out.Context())
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context, t *registryv1.Tenant) *provisionerv1.SweepDriftResponse {
			found, err := driftOf(ctx, c, t)
			return &provisionerv1.SweepDriftResponse{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), Drift: found, Error: fleet.MigrationError(err)}
		}, c.Close, nil
	})
}

// SweepInstallPlugin implements the contract.
func (s fleetService) SweepInstallPlugin(r *provisionerv1.SweepInstallPluginRequest, out grpc.ServerStreamingServer[provisionerv1.SweepInstallPluginResponse]) error {
	return sweep(out.Context(), s.Server, r.GetSelector(), out.Send, func() (func(context.Context, *registryv1.Tenant) *provisionerv1.SweepInstallPluginResponse, func() error, error) {
		return func(ctx context.Context, t *registryv1.Tenant) *provisionerv1.SweepInstallPluginResponse {
			applied, err := s.install(ctx, t, r.GetPlugin())
			return &provisionerv1.SweepInstallPluginResponse{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), Applied: applied, Error: fleet.MigrationError(err)}
		}, nothing, nil
	})
}

// SweepUninstallPlugin implements the contract.
func (s fleetService) SweepUninstallPlugin(r *provisionerv1.SweepUninstallPluginRequest, out grpc.ServerStreamingServer[provisionerv1.SweepUninstallPluginResponse]) error {
	return sweep(out.Context(), s.Server, r.GetSelector(), out.Send, func() (func(context.Context, *registryv1.Tenant) *provisionerv1.SweepUninstallPluginResponse, func() error, error) {
		return func(ctx context.Context, t *registryv1.Tenant) *provisionerv1.SweepUninstallPluginResponse {
			err := s.uninstall(ctx, t, r.GetPlugin(), r.GetPurge())
			return &provisionerv1.SweepUninstallPluginResponse{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), Error: fleet.MigrationError(err)}
		}, nothing, nil
	})
}

// rotateWithin is how long a role may take to get its password and the registry to take its version: once begun, both are
// done, though the caller goes away.
const rotateWithin = 10 * time.Second

// rotate gives a tenant's role its next password. Between the two steps, and if the second is not reached, gateways find
// out by trying the next version; whoever rotates next makes the same one again.
func (s *Server) rotate(ctx context.Context, t *registryv1.Tenant) (version int32, err error) {
	err = s.Clusters.Exclusive(ctx, t.GetCluster(), "password of "+t.GetDatabaseId(), func(*pgx.Conn) error {
		// As it is since nobody else rotates it.
		now, err := s.inUse(ctx, t.GetCompanyId())
		if err != nil {
			return err
		}
		if now.GetDatabaseId() != t.GetDatabaseId() {
			return fault.New(codes.FailedPrecondition, fault.DatabaseChanged, "the company has got another database meanwhile").With("company_id", t.GetCompanyId())
		}
		id, err := uuid.Parse(t.GetDatabaseId())
		if err != nil {
			return err
		}
		next := now.GetPasswordVersion() + 1
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rotateWithin)
		defer cancel()
		if err := s.Clusters.Open(ctx, t.GetCluster(), id, next); err != nil {
			return err
		}
		if _, err := s.Tenants.RecordPasswordVersion(ctx, &registryv1.RecordPasswordVersionRequest{CompanyId: t.GetCompanyId(), DatabaseId: t.GetDatabaseId(),
			PasswordVersion: next, Actor: actor(ctx)}); err != nil {
			return err
		}
		version = next
		return nil
	})
	return version, err
}

// SweepRotatePasswords implements the contract.
func (s fleetService) SweepRotatePasswords(r *provisionerv1.SweepRotatePasswordsRequest, out grpc.ServerStreamingServer[provisionerv1.SweepRotatePasswordsResponse]) error {
	return sweep(out.Context(), s.Server, r.GetSelector(), out.Send, func() (func(context.Context, *registryv1.Tenant) *provisionerv1.SweepRotatePasswordsResponse, func() error, error) {
		return func(ctx context.Context, t *registryv1.Tenant) *provisionerv1.SweepRotatePasswordsResponse {
			version, err := s.rotate(ctx, t)
			return &provisionerv1.SweepRotatePasswordsResponse{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), PasswordVersion: version, Error: fleet.MigrationError(err)}
		}, nothing, nil
	})
}

// Examine implements the contract.
func (s fleetService) Examine(r *provisionerv1.ExamineRequest, out grpc.ServerStreamingServer[provisionerv1.ExamineResponse]) error {
	return s.Doctor.Examine(out.Context(), r.GetMend(), out.Send)
}
