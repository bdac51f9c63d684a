// Package store keeps the central database: every change of a company's state, its audit event and its route change are
// made here, in one transaction. It speaks the contract's messages and knows nothing of calls or callers.
package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// AccessTokenLife is how long an access token is good for, and so how long gateways have to remember that its session
// was revoked.
const AccessTokenLife = 10 * time.Minute

// Store is the central database.
type Store struct{ pool *pgxpool.Pool }

// New returns the store behind a pool, which stays the caller's to close.
func New(pool *pgxpool.Pool) *Store { return &Store{pool} }

// Ping proves that the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.pool.Ping(ctx) }

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// none says that a query found nothing.
func none(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

func timestamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// newID is a UUIDv7.
func newID() (uuid.UUID, error) { return uuid.NewV7() }

func companyNotFound(company string) error {
	return fault.New(codes.NotFound, fault.CompanyNotFound, "there is no company %q", company).With("company", company)
}

// prefixed is a row with columns before those that are scanned.
type prefixed struct {
	pgx.Row
	first []any
}

func (p prefixed) Scan(rest ...any) error { return p.Row.Scan(slices.Concat(p.first, rest)...) }
