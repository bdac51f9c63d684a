// Package seed fills a new tenant's database with what depends on the company: SQL that comes with the migration sets,
// with named parameters.
package seed

import (
	"context"
	"fmt"

	"ariga.io/atlas/sql/migrate"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// arguments are the parameters that a seed may name, all as text.
func arguments(r *registryv1.Reservation) pgx.NamedArgs {
	c := r.GetCompany()
	return pgx.NamedArgs{
		"company_id": r.GetTenant().GetCompanyId(), "company_name": c.GetName(), "company_slug": r.GetTenant().GetSlug(),
		"company_email": c.GetEmail(), "company_phone": c.GetPhone(), "company_address": c.GetAddress(),
		"country_code": c.GetCountryCode(), "usage_type": r.GetUsageType(),
		"owner_id": r.GetOwnerId(), "owner_name": r.GetOwnerName(), "owner_email": r.GetOwnerEmail(),
	}
}

// Run runs a seed in one transaction. Seeds are written so that running them again changes nothing. A statement that
// fails is FAILED_PRECONDITION `SEED_FAILED` with metadata statement and sqlstate.
func Run(ctx context.Context, conn *pgx.Conn, sql string, r *registryv1.Reservation) error {
	statements, err := migrate.Stmts(sql)
	if err != nil {
		return fault.New(codes.FailedPrecondition, fault.SeedFailed, "seed.sql cannot be split into statements").Because(err)
	}
	if len(statements) == 0 {
		return nil
	}
	args := arguments(r)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s.Text, pgx.QueryExecModeExec, args); err != nil {
				if code := pg.Code(err); code != "" && !pg.IsUnavailable(err) {
					return fault.New(codes.FailedPrecondition, fault.SeedFailed, "seed.sql: %v", err).
						With("statement", s.Text).With("sqlstate", code).Because(err)
				}
				return fmt.Errorf("seed: %w", err)
			}
		}
		return nil
	})
}
