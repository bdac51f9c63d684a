package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// RoutesChannel is the channel that is notified of each new sequence.
const RoutesChannel = "tenantry_routes"

// routed are the states of companies that gateways know of.
const routed = "('ACTIVE', 'SUSPENDED', 'MAINTENANCE', 'DELETING')"

const (
	routeColumns = "c.id, d.id, c.slug, d.cluster, c.state, c.route_version, d.schema_version, d.password_version"
	selectRoute  = "SELECT " + routeColumns + " FROM companies c JOIN tenant_databases d ON d.company_id = c.id"
)

func scanRoute(row pgx.Row) (*registryv1.Route, error) {
	r := &registryv1.Route{}
	var company, database uuid.UUID
	var state string
	if err := row.Scan(&company, &database, &r.Slug, &r.Cluster, &state, &r.Version, &r.SchemaVersion, &r.PasswordVersion); err != nil {
		return nil, err
	}
	r.CompanyId, r.DatabaseId, r.State = company[:], database[:], stateOf(state)
	return r, nil
}

// Route returns a company's route as it now is: NOT_FOUND `COMPANY_NOT_FOUND`, also for one that gateways do not know of.
func (s *Store) Route(ctx context.Context, company string) (*registryv1.Route, error) {
	id, err := s.CompanyID(ctx, company)
	if err != nil {
		return nil, err
	}
	route, err := scanRoute(s.pool.QueryRow(ctx, selectRoute+" WHERE c.id = $1 AND c.state IN "+routed, id))
	if none(err) {
		err = companyNotFound(company)
	}
	return route, err
}

// appendRoute tells the gateways a company's route as it now is, or that it is no more.
func appendRoute(ctx context.Context, tx pgx.Tx, company uuid.UUID) error {
	return appendRoutes(ctx, tx, []uuid.UUID{company})
}

// appendRoutes tells the gateways the routes of companies.
func appendRoutes(ctx context.Context, tx pgx.Tx, companies []uuid.UUID) error {
	if len(companies) == 0 {
		return nil
	}
	var b pgx.Batch
	events := queueRoutes(&b, companies)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return appendEvents(ctx, tx, *events)
}

// queueRoutes raises the versions of companies' routes within a batch. When that was sent, what it returns is to be
// appended.
func queueRoutes(b *pgx.Batch, companies []uuid.UUID) *[]*registryv1.WatchRoutesResponse {
	events := new([]*registryv1.WatchRoutesResponse)
	b.Queue("UPDATE companies c SET route_version = c.route_version + 1 FROM tenant_databases d WHERE c.id = ANY($1) AND d.company_id = c.id RETURNING c.state IN "+
		routed+", "+routeColumns, companies).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			event, err := scanRouteEvent(rows)
			if err != nil {
				return err
			}
			*events = append(*events, event)
		}
		return rows.Err()
	})
	return events
}

// scanRouteEvent is a route as gateways are told of it, or that they need not know it any more.
func scanRouteEvent(row pgx.Row) (*registryv1.WatchRoutesResponse, error) {
	var told bool
	r, err := scanRoute(prefixed{row, []any{&told}})
	switch {
	case err != nil:
		return nil, err
	case told:
		return &registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_Route{Route: r}}, nil
	default:
		return &registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_RouteRemoved{RouteRemoved: &registryv1.RouteRemoved{CompanyId: r.GetCompanyId()}}}, nil
	}
}

// appendRevoked tells the gateways that sessions, or API keys, no longer work.
func appendRevoked(ctx context.Context, tx pgx.Tx, sessions, apiKeys []uuid.UUID) error {
	if len(sessions)+len(apiKeys) == 0 {
		return nil
	}
	revoked := &registryv1.CredentialsRevoked{ForgetTime: timestamppb.New(time.Now().Add(AccessTokenLife + time.Minute))}
	for _, id := range sessions {
		revoked.SessionIds = append(revoked.SessionIds, id[:])
	}
	for _, id := range apiKeys {
		revoked.ApiKeyIds = append(revoked.ApiKeyIds, id[:])
	}
	return appendEvent(ctx, tx, &registryv1.WatchRoutesResponse{Event: &registryv1.WatchRoutesResponse_CredentialsRevoked{CredentialsRevoked: revoked}})
}

// appendEvent is appendEvents of one.
func appendEvent(ctx context.Context, tx pgx.Tx, m *registryv1.WatchRoutesResponse) error {
	return appendEvents(ctx, tx, []*registryv1.WatchRoutesResponse{m})
}

// appendEvents gives events their sequences. The counter's row is locked until the transaction ends, so sequences have no
// gaps and become visible in their order. Do it last: all others wait.
func appendEvents(ctx context.Context, tx pgx.Tx, events []*registryv1.WatchRoutesResponse) error {
	messages := make([][]byte, len(events))
	for i, m := range events {
		message, err := proto.Marshal(m)
		if err != nil {
			return fmt.Errorf("marshal a route event: %w", err)
		}
		messages[i] = message
	}
	_, err := tx.Exec(ctx, `WITH counted AS (UPDATE route_sequence SET last = last + cardinality($1::bytea[]) RETURNING last),
			told AS (SELECT last, pg_notify($2, last::text) FROM counted)
		INSERT INTO route_events (sequence, message) SELECT told.last - cardinality($1::bytea[]) + e.n, e.message FROM told, unnest($1::bytea[]) WITH ORDINALITY e (message, n)`,
		messages, RoutesChannel)
	return err
}

// Events returns the route events after a sequence, at most limit, in order. ok is false when some of them were pruned.
func (s *Store) Events(ctx context.Context, after int64, limit int) (events []*registryv1.WatchRoutesResponse, ok bool, err error) {
	rows, err := s.pool.Query(ctx, "SELECT sequence, message FROM route_events WHERE sequence > $1 ORDER BY sequence LIMIT $2", after, limit)
	if err != nil {
		return nil, false, err
	}
	events, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*registryv1.WatchRoutesResponse, error) {
		var sequence int64
		var message []byte
		if err := row.Scan(&sequence, &message); err != nil {
			return nil, err
		}
		m := &registryv1.WatchRoutesResponse{}
		err := proto.Unmarshal(message, m)
		m.Sequence = sequence
		return m, err
	})
	if err != nil {
		return nil, false, err
	}
	if len(events) == 0 {
		last, err := s.LastSequence(ctx)
		return nil, last == after, err
	}
	return events, events[0].GetSequence() == after+1, nil
}

// LastSequence is the newest sequence.
func (s *Store) LastSequence(ctx context.Context) (last int64, err error) {
	err = s.pool.QueryRow(ctx, "SELECT last FROM route_sequence").Scan(&last)
	return last, err
}

// PruneEvents deletes route events but the newest ones.
func (s *Store) PruneEvents(ctx context.Context, keep int64) error {
	_, err := s.pool.Exec(ctx, "DELETE FROM route_events WHERE sequence <= (SELECT last FROM route_sequence) - $1", keep)
	return err
}

// Snapshot calls clusters and then routes, in batches, with all that there is at one sequence.
func (s *Store) Snapshot(ctx context.Context, batch int, start func(sequence int64) error, cluster func(*registryv1.Cluster) error,
	routes func([]*registryv1.Route) error,
) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var sequence int64
		if err := tx.QueryRow(ctx, "SELECT last FROM route_sequence").Scan(&sequence); err != nil {
			return err
		}
		if err := start(sequence); err != nil {
			return err
		}
		clusters, err := listClusters(ctx, tx)
		if err != nil {
			return err
		}
		for _, c := range clusters {
			if err := cluster(c); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, selectRoute+" WHERE c.state IN "+routed)
		if err != nil {
			return err
		}
		defer rows.Close()
		var some []*registryv1.Route
		for rows.Next() {
			r, err := scanRoute(rows)
			if err != nil {
				return err
			}
			if some = append(some, r); len(some) == batch {
				if err := routes(some); err != nil {
					return err
				}
				some = nil
			}
		}
		if err := rows.Err(); err != nil || len(some) == 0 {
			return err
		}
		return routes(some)
	})
}

// Listen calls notify whenever there may be something new, until the context ends or the connection breaks. It calls it
// once as soon as it listens, since something may have come before.
func (s *Store) Listen(ctx context.Context, notify func()) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// A connection that listens must not go back to the pool.
	own := conn.Hijack()
	defer func() { _ = own.Close(context.WithoutCancel(ctx)) }()
	if _, err := own.Exec(ctx, "LISTEN "+RoutesChannel); err != nil {
		return err
	}
	for {
		notify()
		if _, err := own.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}
