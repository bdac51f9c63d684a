package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/pg"
)

// Comments returns what is said of some databases of a cluster; those of which nothing is are left out.
func (s *Set) Comments(ctx context.Context, cluster string, databases []string) (map[string]string, error) {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(databases))
	var name, comment string
	rows, err := pool.Query(ctx, `SELECT datname, c.description FROM pg_database d JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
		WHERE datname = ANY($1)`, databases)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&name, &comment}, func() error {
			out[name] = comment
			return nil
		})
	}
	if err != nil {
		return nil, m.unavailable(err)
	}
	return out, nil
}

// SetComments says something of some databases of a cluster, of all or of none.
func (s *Set) SetComments(ctx context.Context, cluster string, comments map[string]string) error {
	m, pool, err := s.member(ctx, cluster)
	if err != nil {
		return err
	}
	// In one message, which is one transaction, and in one order, as each takes a lock.
	var sql strings.Builder
	for _, database := range slices.Sorted(maps.Keys(comments)) {
		fmt.Fprintf(&sql, "COMMENT ON DATABASE %s IS %s;\n", pg.Quote(database), pg.Literal(comments[database]))
	}
	if _, err := pool.Exec(ctx, sql.String()); err != nil {
		return m.unavailable(err)
	}
	return nil
}
