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

const selectReservation = "SELECT r.owner_id, r.request, coalesce(r.password_hash, ''), " + tenantColumns +
	" FROM reservations r JOIN companies c ON c.id = r.company_id JOIN tenant_databases d ON d.company_id = c.id WHERE r.request_id = $1"

func scanReservation(row pgx.Row) (*Reserved, error) {
	var owner uuid.UUID
	var request []byte
	out := &Reserved{request: &registryv1.ReserveTenantRequest{}}
	t, err := scanTenant(prefixed{row, []any{&owner, &request, &out.PasswordHash}})
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(request, out.request); err != nil {
		return nil, fmt.Errorf("the stored request of company %s: %w", t.GetCompanyId(), err)
	}
	draft := proto.CloneOf(out.request.GetCompany())
	draft.Slug = t.GetSlug()
	out.Reservation = &registryv1.Reservation{
		Tenant: t, RequestId: out.request.GetRequestId(), Company: draft, UsageType: out.request.GetUsageType(),
		OwnerId: owner.String(), OwnerName: out.request.GetOwner().GetName(), OwnerEmail: out.request.GetOwner().GetEmail(),
	}
	return out, nil
}

// Reservation returns what a request reserved: NOT_FOUND `RESERVATION_NOT_FOUND`.
func (s *Store) Reservation(ctx context.Context, requestID string) (*Reserved, error) {
	out, err := scanReservation(s.pool.QueryRow(ctx, selectReservation, requestID))
	if none(err) {
		return nil, reservationNotFound(requestID)
	}
	return out, err
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
		err := pg.Tx(ctx, s.pool, func(tx pgx.Tx) (err error) {
			out, err = s.reserve(ctx, tx, actor, q, passwordHash, attempt)
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

// reserve makes a signup's rows, in few round trips: all signups on a cluster wait for each other's count.
func (s *Store) reserve(ctx context.Context, tx pgx.Tx, actor string, q *registryv1.ReserveTenantRequest, passwordHash string, attempt int) (out *Reserved, err error) {
	if err := checkUsageType(ctx, tx, q.GetUsageType()); err != nil {
		return nil, err
	}
	if err := checkPlugins(ctx, tx, q.GetPlugins(), q.GetUsageType()); err != nil {
		return nil, err
	}
	company, err := uuid.Parse(q.GetCompanyId())
	if err != nil {
		return nil, fault.Invalid("company_id", "got %q, want a UUID", q.GetCompanyId())
	}
	database, err := uuid.Parse(q.GetDatabaseId())
	if err != nil {
		return nil, fault.Invalid("database_id", "got %q, want a UUID", q.GetDatabaseId())
	}
	owner, err := newID()
	if err != nil {
		return nil, err
	}
	slug, err := freeSlug(ctx, tx, q.GetCompany(), attempt)
	if err != nil {
		return nil, err
	}
	request, err := protojson.Marshal(canonical(q))
	if err != nil {
		return nil, err
	}
	var b pgx.Batch
	c := q.GetCompany()
	b.Queue(`INSERT INTO companies (id, slug, name, email, phone, address, country_code, usage_type, state)
		VALUES ($1, $2, $3, $4, $5, $6, $7, nullif($8, ''), 'PROVISIONING')`,
		company, slug, c.GetName(), c.GetEmail(), c.GetPhone(), c.GetAddress(), c.GetCountryCode(), q.GetUsageType())
	b.Queue("INSERT INTO reservations (request_id, company_id, owner_id, request, password_hash) VALUES ($1, $2, $3, $4, nullif($5, ''))",
		q.GetRequestId(), company, owner, request, passwordHash)
	queueOwner(&b, owner, company, q.GetOwner().GetEmail(), q.GetOwner().GetName(), passwordHash)
	if len(q.GetPlugins()) > 0 {
		b.Queue("INSERT INTO company_plugins (company_id, plugin) SELECT $1, unnest($2::text[])", company, q.GetPlugins())
	}
	cluster := queuePlace(&b, q.GetCluster())
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return nil, err
	}
	if *cluster == "" {
		return nil, noPlace(ctx, tx, q.GetCluster())
	}
	b = pgx.Batch{}
	b.Queue("INSERT INTO tenant_databases (id, company_id, cluster) VALUES ($1, $2, $3)", database, company, *cluster)
	event{actor: actor, action: "company.reserved", company: company,
		details: map[string]string{"slug": slug, "cluster": *cluster, "request_id": q.GetRequestId()}}.queue(&b)
	b.Queue(selectReservation, q.GetRequestId()).QueryRow(func(row pgx.Row) (err error) {
		out, err = scanReservation(row)
		return err
	})
	err = tx.SendBatch(ctx, &b).Close() // which sets out
	return out, err
}

// Rereserve takes a FAILED signup up again: PROVISIONING, with its owner and its place. One in another state stays as it
// is. Errors as Reserve's.
func (s *Store) Rereserve(ctx context.Context, actor string, r *Reserved) (*Reserved, error) {
	id, err := uuid.Parse(r.GetTenant().GetCompanyId())
	if err != nil {
		return nil, err
	}
	err = s.changeState(ctx, id, transition{actor: actor, action: "company.reserved", reason: "",
		from: []registryv1.CompanyState{registryv1.CompanyState_COMPANY_STATE_FAILED}, to: registryv1.CompanyState_COMPANY_STATE_PROVISIONING,
		also: func(ctx context.Context, tx pgx.Tx) error {
			owner, err := uuid.Parse(r.GetOwnerId())
			if err != nil {
				return err
			}
			var b pgx.Batch
			queueOwner(&b, owner, id, r.GetOwnerEmail(), r.GetOwnerName(), r.PasswordHash)
			cluster := queuePlace(&b, r.request.GetCluster())
			if err := tx.SendBatch(ctx, &b).Close(); err != nil {
				return err
			}
			if *cluster == "" {
				return noPlace(ctx, tx, r.request.GetCluster())
			}
			_, err = tx.Exec(ctx, "UPDATE tenant_databases SET cluster = $2 WHERE company_id = $1", id, *cluster)
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

func queueOwner(b *pgx.Batch, id, company uuid.UUID, email, name, passwordHash string) {
	b.Queue("INSERT INTO users (id, company_id, email, name, password_hash, roles) VALUES ($1, $2, lower($3), $4, nullif($5, ''), '{owner}')",
		id, company, email, name, passwordHash)
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
