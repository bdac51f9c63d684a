package lint

import (
	"fmt"
	"strings"

	pgquery "github.com/pganalyze/pg_query_go/v6"
)

// Our own codes. Which lock a statement takes, and whether it reads or rewrites the table meanwhile, is PostgreSQL's:
// https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-NOTES and explicit-locking.html.
const (
	codeIndex       = "TN101" // CREATE INDEX keeps writers out, DROP INDEX everyone
	codeTransaction = "TN102" // what PostgreSQL refuses in a transaction
	codeRewrite     = "TN103" // ADD COLUMN writes every row anew
	codeType        = "TN104" // ALTER COLUMN TYPE writes every row anew
	codeNotNull     = "TN105" // SET NOT NULL reads every row
	codeForeignKey  = "TN106" // ADD FOREIGN KEY reads every row of two tables
	codeConstraint  = "TN107" // ADD CHECK reads every row
	codeUnique      = "TN108" // ADD PRIMARY KEY, UNIQUE or EXCLUDE builds an index
	codeWholeTable  = "TN109" // VACUUM FULL, CLUSTER, LOCK TABLE
	codeReindex     = "TN110" // REINDEX keeps writers out
	codeRename      = "TN111" // what runs uses the old name
	codeDrop        = "TN112" // DROP loses data
	codeDeleteAll   = "TN113" // TRUNCATE, DELETE without WHERE
	codeUnparsed    = "TN114" // not understood
)

const (
	concurrentlyHint = "use CONCURRENTLY in a file that begins with -- atlas:txmode none"
	notValidHint     = "add it NOT VALID, and validate it in a later file"
)

// hazards are the findings of our own in the newest of these files. What a file makes is new for as long as it is applied:
// nobody waits for it, and nothing in it can be lost.
func hazards(scripts []script, newest int, steady map[string]bool) []*hazard {
	c := &checker{catalog: newCatalog(steady)}
	for i, s := range scripts {
		c.script, c.file, c.muted = s, i, i < len(scripts)-newest
		from := 0
		for _, text := range s.Statements() {
			if at := strings.Index(string(s.content[from:]), text); at >= 0 {
				from += at
			}
			c.line = s.lineOf(from)
			from += len(text)
			tree, err := parse(text)
			if err != nil {
				c.add(Warning, codeUnparsed, "was not looked at: PostgreSQL 17's parser says %v", err)
				continue
			}
			for _, stmt := range tree.GetStmts() {
				c.statement(stmt.GetStmt())
			}
		}
	}
	return c.found
}

// checker goes through files statement by statement.
type checker struct {
	*catalog
	script script
	file   int
	line   int
	muted  bool // only the catalog matters
	found  []*hazard
}

func (c *checker) add(severity Severity, code, format string, args ...any) *hazard {
	h := &hazard{Finding: Finding{severity, code, fmt.Sprintf(format, args...), c.script.set, c.script.Name, c.line}}
	if !c.muted {
		c.found = append(c.found, h)
	}
	return h
}

// unless Atlas says it, with this code and of this object.
func (h *hazard) unless(atlas, object string) { h.atlas, h.object = atlas, object }

// refused adds what PostgreSQL does not do in a transaction.
func (c *checker) refused(what string) {
	if !c.script.NoTransaction() {
		c.add(Broken, codeTransaction, "%s does not work in a transaction: begin the file with -- atlas:txmode none", what).unless(atlasInTransaction, "")
	}
}

// old tells whether a relation may have rows, and callers who wait for it.
func (c *checker) old(r *pgquery.RangeVar) bool {
	known := c.relations[nameOf(r)]
	return r != nil && (known == nil || known.file != c.file)
}

func (c *checker) statement(node *pgquery.Node) {
	switch n := node.GetNode().(type) {
	case *pgquery.Node_CreateStmt:
		c.make(c.file, n.CreateStmt.GetRelation(), n.CreateStmt.GetIfNotExists(), n.CreateStmt.GetTableElts())
	case *pgquery.Node_CreateTableAsStmt:
		c.make(c.file, n.CreateTableAsStmt.GetInto().GetRel(), n.CreateTableAsStmt.GetIfNotExists(), nil)
	case *pgquery.Node_ViewStmt:
		c.make(c.file, n.ViewStmt.GetView(), n.ViewStmt.GetReplace(), nil)
	case *pgquery.Node_CreateSchemaStmt:
		if _, known := c.schemas[n.CreateSchemaStmt.GetSchemaname()]; !known {
			c.schemas[n.CreateSchemaStmt.GetSchemaname()] = c.file
		}
	case *pgquery.Node_CreateFunctionStmt:
		c.function(n.CreateFunctionStmt)
	case *pgquery.Node_IndexStmt:
		c.index(n.IndexStmt)
	case *pgquery.Node_AlterTableStmt:
		c.alterTable(n.AlterTableStmt)
	case *pgquery.Node_RenameStmt:
		c.renaming(n.RenameStmt)
	case *pgquery.Node_AlterObjectSchemaStmt:
		c.moving(n.AlterObjectSchemaStmt)
	case *pgquery.Node_DropStmt:
		c.drop(n.DropStmt)
	case *pgquery.Node_TruncateStmt:
		for _, r := range n.TruncateStmt.GetRelations() {
			if c.old(r.GetRangeVar()) {
				c.add(Destructive, codeDeleteAll, "empties table %s", nameOf(r.GetRangeVar()))
			}
		}
	case *pgquery.Node_SelectStmt:
		if into := n.SelectStmt.GetIntoClause(); into != nil {
			c.make(c.file, into.GetRel(), false, nil)
		}
		c.deletions(node)
	case *pgquery.Node_InsertStmt, *pgquery.Node_UpdateStmt, *pgquery.Node_DeleteStmt, *pgquery.Node_MergeStmt:
		c.deletions(node)
	case *pgquery.Node_ReindexStmt:
		c.reindex(n.ReindexStmt)
	case *pgquery.Node_VacuumStmt:
		c.vacuum(n.VacuumStmt)
	case *pgquery.Node_ClusterStmt:
		if r := n.ClusterStmt.GetRelation(); r == nil || c.old(r) {
			c.add(Warning, codeWholeTable, "CLUSTER keeps everyone out while it writes the table anew")
		}
	case *pgquery.Node_LockStmt:
		c.lock(n.LockStmt)
	}
}

// deletions are in a statement itself or in its WITH.
func (c *checker) deletions(node *pgquery.Node) {
	each(node, func(d *pgquery.DeleteStmt) {
		if d.GetWhereClause() == nil && c.old(d.GetRelation()) {
			c.add(Destructive, codeDeleteAll, "deletes every row of table %s", nameOf(d.GetRelation()))
		}
	})
}

// is tells whether an option was given and not switched off.
func is(options []*pgquery.Node, option string) bool {
	for _, o := range options {
		if d := o.GetDefElem(); strings.EqualFold(d.GetDefname(), option) {
			switch arg := d.GetArg(); strings.ToLower(arg.GetString_().GetSval()) {
			case "false", "off":
				return false
			default:
				return arg.GetInteger() == nil || arg.GetInteger().GetIval() != 0
			}
		}
	}
	return false
}

func (c *checker) index(n *pgquery.IndexStmt) {
	table := n.GetRelation()
	if n.GetIdxname() != "" {
		name := qualified(table.GetSchemaname(), n.GetIdxname())
		if _, known := c.indexes[name]; !known || !n.GetIfNotExists() {
			c.indexes[name] = c.file
		}
	}
	switch {
	case n.GetConcurrent():
		c.refused("CREATE INDEX CONCURRENTLY")
	case c.old(table):
		c.add(Warning, codeIndex, "keeps writers of table %s out while it builds the index: %s", nameOf(table), concurrentlyHint).unless(atlasIndex, table.GetRelname())
	}
}

func (c *checker) reindex(n *pgquery.ReindexStmt) {
	r := n.GetRelation()
	fresh := r != nil && !c.old(r)
	if file, known := c.indexes[nameOf(r)]; known && n.GetKind() == pgquery.ReindexObjectType_REINDEX_OBJECT_INDEX {
		fresh = file == c.file
	}
	switch {
	case is(n.GetParams(), "concurrently"):
		c.refused("REINDEX CONCURRENTLY")
	case !fresh:
		c.add(Warning, codeReindex, "keeps writers out while it builds the index anew: %s", concurrentlyHint)
	}
}

func (c *checker) vacuum(n *pgquery.VacuumStmt) {
	if !n.GetIsVacuumcmd() {
		return
	}
	c.refused("VACUUM")
	busy := len(n.GetRels()) == 0
	for _, r := range n.GetRels() {
		busy = busy || c.old(r.GetVacuumRelation().GetRelation())
	}
	if busy && is(n.GetOptions(), "full") {
		c.add(Warning, codeWholeTable, "VACUUM FULL keeps everyone out while it writes the table anew")
	}
}

// shareLock is the weakest mode of LOCK TABLE that keeps writers out, as src/include/storage/lockdefs.h numbers them.
const shareLock = 5

func (c *checker) lock(n *pgquery.LockStmt) {
	if n.GetMode() < shareLock {
		return
	}
	for _, r := range n.GetRelations() {
		if c.old(r.GetRangeVar()) {
			c.add(Warning, codeWholeTable, "LOCK TABLE keeps writers of table %s out until the file is applied", nameOf(r.GetRangeVar()))
		}
	}
}
