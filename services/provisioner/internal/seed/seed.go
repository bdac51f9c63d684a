// Package seed fills a new tenant's database with SQL that comes with the migration sets: what is the same for every
// company when the database is made, and what depends on the company, by named parameters, when it gets one.
package seed

import (
	"context"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// Seed is a seed.sql, or a clone.sql, in its two parts. Each part is run in one transaction and one round trip, and is written so that
// running it again changes nothing.
type Seed struct {
	// InTemplate says that what is common may be run once, when the template is made, and copied with it: the file has a line
	// `-- tenantry:common template`. Without it each database gets its own, of which now(), random() and gen_random_uuid()
	// are others.
	InTemplate bool

	file               string
	common, particular []string
}

// inTemplate is the line that says InTemplate.
var inTemplate = regexp.MustCompile(`(?m)^--\s*tenantry:common\s+template\s*$`)

// Parse splits a file: statements that name no parameter are common to all companies, and run before the others.
func Parse(file, sql string) (*Seed, error) {
	statements, err := migrate.Statements(sql)
	if err != nil {
		return nil, fault.New(codes.FailedPrecondition, fault.SeedFailed, "%s cannot be split into statements: %v", file, err).Because(err)
	}
	s := &Seed{file: file, InTemplate: inTemplate.MatchString(sql)}
	for _, text := range statements {
		_, named, err := pgx.NamedArgs{}.RewriteQuery(context.Background(), nil, text, nil)
		if err != nil {
			return nil, fmt.Errorf("seed: %w", err)
		}
		if len(named) == 0 {
			s.common = append(s.common, text)
		} else {
			s.particular = append(s.particular, text)
		}
	}
	return s, nil
}

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

// Common runs what is the same for every company. A statement that fails is FAILED_PRECONDITION `SEED_FAILED` with
// metadata statement and sqlstate.
func (s *Seed) Common(ctx context.Context, conn *pgx.Conn) error {
	return s.run(ctx, conn, s.common, nil)
}

// Company runs what depends on the company. Errors are Common's.
func (s *Seed) Company(ctx context.Context, conn *pgx.Conn, r *registryv1.Reservation) error {
	return s.run(ctx, conn, s.particular, arguments(r))
}

// Rehearse has PostgreSQL plan what Company runs, without running it, on the connection that will: a session looks up all
// that it needs to know of tables when it first meets them, which takes longer than the work itself. It makes no promise.
func (s *Seed) Rehearse(ctx context.Context, conn *pgx.Conn) {
	for _, text := range s.particular {
		sql, values, err := pgx.NamedArgs{}.RewriteQuery(ctx, conn, text, nil)
		if err == nil {
			// What cannot be planned will say so when it is run.
			_, _ = conn.PgConn().ExecParams(ctx, "EXPLAIN "+sql, make([][]byte, len(values)), nil, nil, nil).Close()
		}
	}
}

// run sends all statements at once, as one message, which PostgreSQL runs as one transaction.
func (s *Seed) run(ctx context.Context, conn *pgx.Conn, statements []string, args pgx.NamedArgs) error {
	if len(statements) == 0 {
		return nil
	}
	batch := &pgconn.Batch{}
	for _, text := range statements {
		sql, values, err := args.RewriteQuery(ctx, conn, text, nil)
		if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
		texts := make([][]byte, len(values))
		for i, v := range values {
			texts[i] = fmt.Append(nil, v)
		}
		batch.ExecParams(sql, texts, nil, nil, nil)
	}
	results := conn.PgConn().ExecBatch(ctx, batch)
	done := 0
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err == nil {
			done++
		}
	}
	err := results.Close()
	if code := pg.Code(err); code != "" && !pg.IsUnavailable(err) {
		return fault.New(codes.FailedPrecondition, fault.SeedFailed, "%s: %v", s.file, err).
			With("statement", statements[min(done, len(statements)-1)]).With("sqlstate", code).Because(err)
	}
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return nil
}
