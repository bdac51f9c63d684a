package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/tenant"
)

// numberedSlugs is how many alternatives are tried to a slug that was made of a name, before a random one.
const numberedSlugs = 50

// Reserved is a recorded signup.
type Reserved struct {
	*registryv1.Reservation
	// PasswordHash is that of the owner's first password; empty when the signup had none.
	PasswordHash string

	request *registryv1.ReserveTenantRequest
}

// Same tells whether a request says what the recorded one said, passwords and proposed ids aside.
func (r *Reserved) Same(q *registryv1.ReserveTenantRequest) bool {
	return proto.Equal(r.request, canonical(q))
}

// canonical is a request without what may differ in a repeat, or must not be stored, in one way of writing.
func canonical(q *registryv1.ReserveTenantRequest) *registryv1.ReserveTenantRequest {
	c := proto.CloneOf(q)
	c.CompanyId, c.DatabaseId, c.Owner.Password = "", "", ""
	c.Owner.Email = strings.ToLower(c.GetOwner().GetEmail())
	slices.Sort(c.Plugins)
	return c
}

// Reservation returns what a request reserved: NOT_FOUND `RESERVATION_NOT_FOUND`.
func (s *Store) Reservation(ctx context.Context, requestID string) (*Reserved, error) {
	return reservation(ctx, s.pool, requestID)
}

func reservation(ctx context.Context, db querier, requestID string) (*Reserved, error) {
	var company, owner uuid.UUID
	var request []byte
	out := &Reserved{request: &registryv1.ReserveTenantRequest{}}
	err := db.QueryRow(ctx, "SELECT company_id, owner_id, request, coalesce(password_hash, '') FROM reservations WHERE request_id = $1", requestID).
		Scan(&company, &owner, &request, &out.PasswordHash)
	if none(err) {
		return nil, reservationNotFound(requestID)
	}
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(request, out.request); err != nil {
		return nil, fmt.Errorf("the stored request %s: %w", requestID, err)
	}
	t, err := scanTenant(db.QueryRow(ctx, selectTenant+" WHERE c.id = $1", company))
	if err != nil {
		return nil, err
	}
	draft := proto.CloneOf(out.request.GetCompany())
	draft.Slug = t.GetSlug()
	out.Reservation = &registryv1.Reservation{
		Tenant: t, RequestId: requestID, Company: draft, UsageType: out.request.GetUsageType(),
		OwnerId: owner.String(), OwnerName: out.request.GetOwner().GetName(), OwnerEmail: out.request.GetOwner().GetEmail(),
	}
	return out, nil
}

// Reserve records a new signup, all or nothing. A request that is recorded already is returned as it is, whether it is
// the same or not; a FAILED one is taken up again.
//
// Errors: ALREADY_EXISTS `SLUG_TAKEN`, `EMAIL_TAKEN`; NOT_FOUND `PLUGIN_NOT_FOUND`, `USAGE_TYPE_NOT_FOUND`,
// `CLUSTER_NOT_FOUND`; FAILED_PRECONDITION `PLUGIN_REQUIREMENT_MISSING`, `PLUGIN_UNSUITABLE`; RESOURCE_EXHAUSTED
// `NO_CLUSTER_AVAILABLE`.
func (s *Store) Reserve(ctx context.Context, actor string, q *registryv1.ReserveTenantRequest, passwordHash string) (*Reserved, error) {
	for attempt := 0; ; attempt++ {
		var out *Reserved
		err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
			if err := s.reserve(ctx, tx, actor, q, passwordHash, attempt); err != nil {
				return err
			}
			var err error
			out, err = reservation(ctx, tx, q.GetRequestId())
			return err
		})
		switch pg.Violated(err) {
		case "":
			return out, err
		case "reservations_pkey":
			// The same request, at the same time.
			return s.Reservation(ctx, q.GetRequestId())
		case "users_email_key":
			return nil, emailTaken(q.GetOwner().GetEmail()).Because(err)
		case "companies_slug_key":
			if q.GetCompany().GetSlug() != "" || attempt > numberedSlugs {
				return nil, slugTaken(q.GetCompany().GetSlug()).Because(err)
			}
			// Made of the name, and someone made the same at the same time: another one.
		default:
			return nil, err
		}
	}
}

func (s *Store) reserve(ctx context.Context, tx pgx.Tx, actor string, q *registryv1.ReserveTenantRequest, passwordHash string, attempt int) error {
	if err := checkUsageType(ctx, tx, q.GetUsageType()); err != nil {
		return err
	}
	if err := checkPlugins(ctx, tx, q.GetPlugins(), q.GetUsageType()); err != nil {
		return err
	}
	company, err := uuid.Parse(q.GetCompanyId())
	if err != nil {
		return fault.Invalid("company_id", "got %q, want a UUID", q.GetCompanyId())
	}
	database, err := uuid.Parse(q.GetDatabaseId())
	if err != nil {
		return fault.Invalid("database_id", "got %q, want a UUID", q.GetDatabaseId())
	}
	owner, err := newID()
	if err != nil {
		return err
	}
	slug, err := freeSlug(ctx, tx, q.GetCompany(), attempt)
	if err != nil {
		return err
	}
	c := q.GetCompany()
	if _, err := tx.Exec(ctx, `INSERT INTO companies (id, slug, name, email, phone, address, country_code, usage_type, state)
		VALUES ($1, $2, $3, $4, $5, $6, $7, nullif($8, ''), 'PROVISIONING')`,
		company, slug, c.GetName(), c.GetEmail(), c.GetPhone(), c.GetAddress(), c.GetCountryCode(), q.GetUsageType()); err != nil {
		return err
	}
	request, err := protojson.Marshal(canonical(q))
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO reservations (request_id, company_id, owner_id, request, password_hash) VALUES ($1, $2, $3, $4, nullif($5, ''))",
		q.GetRequestId(), company, owner, request, passwordHash); err != nil {
		return err
	}
	if err := insertOwner(ctx, tx, owner, company, q.GetOwner().GetEmail(), q.GetOwner().GetName(), passwordHash); err != nil {
		return err
	}
	for _, p := range q.GetPlugins() {
		if _, err := tx.Exec(ctx, "INSERT INTO company_plugins (company_id, plugin) VALUES ($1, $2)", company, p); err != nil {
			return err
		}
	}
	// Last, since all signups on a cluster wait for each other's count.
	cluster, err := place(ctx, tx, q.GetCluster())
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO tenant_databases (id, company_id, cluster) VALUES ($1, $2, $3)", database, company, cluster); err != nil {
		return err
	}
	return appendAudit(ctx, tx, event{actor: actor, action: "company.reserved", company: company,
		details: map[string]string{"slug": slug, "cluster": cluster, "request_id": q.GetRequestId()}})
}

// Rereserve takes a FAILED signup up again: PROVISIONING, with its owner and its place. One in another state stays as it
// is. Errors as Reserve's.
func (s *Store) Rereserve(ctx context.Context, actor string, r *Reserved) (*Reserved, error) {
	id, err := uuid.Parse(r.GetTenant().GetCompanyId())
	if err != nil {
		return nil, err
	}
	_, err = s.changeState(ctx, id, transition{actor: actor, action: "company.reserved", reason: "",
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_FAILED}, to: registryv1.CompanyState_COMPANY_STATE_PROVISIONING,
		also: func(ctx context.Context, tx pgx.Tx) error {
			owner, err := uuid.Parse(r.GetOwnerId())
			if err != nil {
				return err
			}
			if err := insertOwner(ctx, tx, owner, id, r.GetOwnerEmail(), r.GetOwnerName(), r.PasswordHash); err != nil {
				return err
			}
			cluster, err := place(ctx, tx, r.request.GetCluster())
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, "UPDATE tenant_databases SET cluster = $2 WHERE company_id = $1", id, cluster)
			return err
		}})
	switch pg.Violated(err) {
	case "users_email_key":
		return nil, emailTaken(r.GetOwnerEmail()).Because(err)
	case "companies_slug_key":
		return nil, slugTaken(r.GetTenant().GetSlug()).Because(err)
	}
	if err != nil {
		return nil, err
	}
	return s.Reservation(ctx, r.GetRequestId())
}

func insertOwner(ctx context.Context, tx pgx.Tx, id, company uuid.UUID, email, name, passwordHash string) error {
	_, err := tx.Exec(ctx, "INSERT INTO users (id, company_id, email, name, password_hash, roles) VALUES ($1, $2, lower($3), $4, nullif($5, ''), '{owner}')",
		id, company, email, name, passwordHash)
	return err
}

// freeSlug is the slug that was chosen, else one made of the name that nobody has yet.
func freeSlug(ctx context.Context, tx pgx.Tx, c *registryv1.CompanyDraft, attempt int) (string, error) {
	if c.GetSlug() != "" {
		return c.GetSlug(), nil
	}
	slug := tenant.SlugOf(c.GetName())
	candidates := []string{slug}
	for n := 2; n <= numberedSlugs; n++ {
		candidates = append(candidates, tenant.NumberedSlug(slug, n))
	}
	rows, err := tx.Query(ctx, "SELECT slug FROM companies WHERE slug = ANY($1) AND state NOT IN ('FAILED', 'DELETED')", candidates)
	if err != nil {
		return "", err
	}
	taken, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", err
	}
	if attempt < numberedSlugs/2 {
		for _, free := range candidates {
			if !slices.Contains(taken, free) {
				return free, nil
			}
		}
	}
	id := uuid.New()
	return tenant.NumberedSlug(slug, int(id[0])<<16|int(id[1])<<8|int(id[2])), nil
}

func emailTaken(email string) *fault.Error {
	return fault.New(codes.AlreadyExists, fault.EmailTaken, "the e-mail %q is another user's", email).With("email", email)
}
