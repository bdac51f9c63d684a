package schema

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
)

// markStart begins a mark, and tells it from what else is said of a database.
const markStart = "tenantry: at "

// Mark is what a database is marked with that is wholly at a release, for a tenant with these plugins: a comment on the
// database, which can be read from any other of its server, so that a sweep over thousands of tenants asks each server
// instead of each database. Databases that bear the same mark had the same files applied. The tenant's role cannot
// change it, and a copy of a database does not have it.
//
// Whoever changes a database's history by hand leaves the mark untrue: see StartRolloutRequest.verify.
func Mark(r *release.Release, plugins []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "core %s\n", r.Tree.Core.Hash())
	for _, name := range slices.Sorted(slices.Values(plugins)) {
		if set, ok := r.Tree.Plugins[name]; ok {
			fmt.Fprintf(h, "%s %s\n", name, set.Hash())
		}
	}
	return markStart + base64.RawStdEncoding.EncodeToString(h.Sum(nil))
}

// Unmark takes the mark of the database that conn is connected to, as its owner.
func Unmark(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "COMMENT ON DATABASE "+pg.Quote(conn.Config().Database)+" IS NULL")
	if err != nil {
		return fmt.Errorf("take the mark of database %s: %w", conn.Config().Database, err)
	}
	return nil
}
