package migrate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"ariga.io/atlas/sql/migrate"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// DefaultRevisionsSchema is where the CLI keeps the history of a whole database.
const DefaultRevisionsSchema = "atlas_schema_revisions"

const (
	revisionsTable = "atlas_schema_revisions"
	// operator is what revisions say applied them.
	operator = "Tenantry"
	// cloudRow is a row of the CLI's own that is no revision.
	cloudRow = ".atlas_cloud_identifier"
)

// lockKey is the advisory lock that `atlas migrate apply` takes: FNV-1 of this name.
var lockKey = func() int64 {
	h := fnv.New32()
	h.Write([]byte("atlas_migrate_execute"))
	return int64(h.Sum32())
}()

// history is a database's record of what was applied of one set.
type history struct {
	schema    string
	exists    bool // the table
	revisions []revision
}

// revision is one row.
type revision struct {
	version        string
	kind           int
	applied, total int
	hash           string
	partial        []string
	failure        string
	statement      string // that failed
}

func (h *history) table() string { return pg.Quote(h.schema) + "." + pg.Quote(revisionsTable) }

// read reads the table; one that is missing is an empty history. It is one simple message, whatever the session's
// settings: this is all that a database with nothing to do is asked, by the thousand.
func (h *history) read(ctx context.Context, conn *pgx.Conn) error {
	h.exists, h.revisions = true, nil
	results, err := conn.PgConn().Exec(ctx, "SELECT version, type, applied, total, hash, coalesce(partial_hashes, '[]'), coalesce(error, ''), coalesce(error_stmt, '') FROM "+
		h.table()+" WHERE version <> "+pg.Literal(cloudRow)).ReadAll()
	if err == nil {
		for _, row := range results[0].Rows {
			var r revision
			if r, err = parseRevision(row); err != nil {
				break
			}
			h.revisions = append(h.revisions, r)
		}
	}
	switch pg.Code(err) {
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName:
		h.exists = false
		return nil
	}
	if err != nil {
		return fmt.Errorf("migrate: read %s: %w", h.table(), err)
	}
	slices.SortFunc(h.revisions, func(a, b revision) int { return cmp.Compare(a.version, b.version) })
	return nil
}

// parseRevision reads a row that came as text.
func parseRevision(row [][]byte) (r revision, err error) {
	r.version, r.hash, r.failure, r.statement = string(row[0]), string(row[4]), string(row[6]), string(row[7])
	for i, to := range []*int{&r.kind, &r.applied, &r.total} {
		if *to, err = strconv.Atoi(string(row[i+1])); err != nil {
			return r, err
		}
	}
	return r, json.Unmarshal(row[5], &r.partial)
}

// create makes the table as the CLI does.
func (h *history) create(ctx context.Context, conn *pgx.Conn) error {
	if h.exists {
		return nil
	}
	_, err := conn.Exec(ctx, fmt.Sprintf(`CREATE SCHEMA IF NOT EXISTS %s; CREATE TABLE IF NOT EXISTS %s (
		version character varying NOT NULL, description character varying NOT NULL, type bigint NOT NULL DEFAULT 2,
		applied bigint NOT NULL DEFAULT 0, total bigint NOT NULL DEFAULT 0, executed_at timestamptz NOT NULL,
		execution_time bigint NOT NULL, error text NULL, error_stmt text NULL, hash character varying NOT NULL,
		partial_hashes jsonb NULL, operator_version character varying NOT NULL, PRIMARY KEY (version))`,
		pg.Quote(h.schema), h.table()), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("migrate: create %s: %w", h.table(), err)
	}
	h.exists = true
	return nil
}

// current is the newest version that was applied whole; empty when none was.
func (h *history) current() string {
	for _, r := range slices.Backward(h.revisions) {
		if r.whole() {
			return r.version
		}
	}
	return ""
}

func (r revision) whole() bool { return r.applied == r.total }

// isFile tells whether the revision's hash is that of a file, and not a baseline's or one that was set by hand.
func (r revision) isFile() bool { return r.kind == int(migrate.RevisionTypeExecute) && r.hash != "" }

// pending compares the history with a set and returns what is left to apply, in order. The first one may have been
// applied in part, see partial.
func (h *history) pending(s *Set) ([]File, error) {
	if len(h.revisions) == 0 {
		return s.fresh(), nil
	}
	byVersion := make(map[string]revision, len(h.revisions))
	for _, r := range h.revisions {
		byVersion[r.version] = r
	}
	first, last := h.revisions[0].version, h.revisions[len(h.revisions)-1].version
	var pending []File
	var late []string
	for _, f := range s.files {
		if f.checkpoint {
			if r, ok := byVersion[f.Version]; !ok || r.whole() {
				continue // It stands for files that this history has.
			}
		}
		switch r, ok := byVersion[f.Version]; {
		case ok && r.whole():
		case ok:
			pending = append(pending, f)
		case f.Version > first && f.Version < last:
			late = append(late, f.Name)
		case f.Version > last:
			pending = append(pending, f)
		}
	}
	if len(late) > 0 {
		return nil, fault.New(codes.FailedPrecondition, fault.HistoryNotLinear,
			"set %s: %s came after version %s was applied: give new files later versions", s.name, strings.Join(late, ", "), last).
			With("set", s.name).With("file", late[0])
	}
	return pending, h.unchanged(s)
}

// fresh is what an empty history needs: all files, or those from the last checkpoint on.
func (s *Set) fresh() []File {
	for i, f := range slices.Backward(s.files) {
		if f.checkpoint {
			return slices.Clone(s.files[i:])
		}
	}
	return slices.Clone(s.files)
}

// unchanged checks that what was applied is what the set has.
func (h *history) unchanged(s *Set) error {
	for _, r := range h.revisions {
		i, found := slices.BinarySearchFunc(s.files, r.version, func(f File, v string) int { return cmp.Compare(f.Version, v) })
		switch {
		case !found && (r.version > s.Latest() || !r.isFile()):
			// The database is ahead of this set, or the revision never was a file.
		case !found:
			return fault.New(codes.FailedPrecondition, fault.HistoryNotLinear,
				"set %s has no version %s, which was applied", s.name, r.version).With("set", s.name).With("version", r.version)
		case r.isFile() && !r.matches(s.files[i]):
			f := s.files[i]
			return fault.New(codes.FailedPrecondition, fault.ChecksumMismatch,
				"set %s: file %s, or one before it, was changed after it was applied", s.name, f.Name).With("set", s.name).With("file", f.Name)
		}
	}
	return nil
}

// matches tells whether what was applied of a file is what the file says: all of it, or its first statements.
func (r revision) matches(f File) bool {
	if r.whole() {
		return r.hash == f.hash
	}
	return r.applied < len(f.sums) && len(r.partial) >= r.applied && slices.Equal(r.partial[:r.applied], f.sums[:r.applied])
}

// partial is how many statements of a file were applied already.
func (h *history) partial(f File) int {
	for _, r := range h.revisions {
		if r.version == f.Version {
			return r.applied
		}
	}
	return 0
}

// interrupted tells whether a statement of a file was begun, and nobody knows how it ended.
func (h *history) interrupted(f File, statement string) bool {
	return slices.ContainsFunc(h.revisions, func(r revision) bool {
		return r.version == f.Version && r.failure == interrupted && r.statement == statement
	})
}

// progress is how far a file was applied.
type progress struct {
	applied            int // statements
	took               time.Duration
	failure, statement string // why it stopped, and at what
}

// record is the statement that writes a file's revision, with the values spliced in so that it can travel with the
// file's own statements. All of them are ours or quoted.
func (h *history) record(f File, p progress) string {
	partial, failure, statement := "NULL", "NULL", "NULL"
	if p.applied < len(f.statements) {
		sums, _ := json.Marshal(f.sums[:p.applied]) // Texts always marshal.
		partial = pg.Literal(string(sums))
	}
	if p.failure != "" {
		failure, statement = pg.Literal(p.failure), pg.Literal(p.statement)
	}
	return fmt.Sprintf(`INSERT INTO %s (version, description, type, applied, total, executed_at, execution_time, error, error_stmt,
		hash, partial_hashes, operator_version) VALUES (%s, %s, %d, %d, %d, clock_timestamp(), %d, %s, %s, %s, %s, %s)
		ON CONFLICT (version) DO UPDATE SET applied = excluded.applied, total = excluded.total, execution_time = excluded.execution_time,
		error = excluded.error, error_stmt = excluded.error_stmt, hash = excluded.hash, partial_hashes = excluded.partial_hashes,
		operator_version = excluded.operator_version`,
		h.table(), pg.Literal(f.Version), pg.Literal(f.Description), migrate.RevisionTypeExecute, p.applied, len(f.statements), p.took.Nanoseconds(),
		failure, statement, pg.Literal(f.hash), partial, pg.Literal(operator))
}
