package lint

import (
	"fmt"
	"strings"

	pgquery "github.com/pganalyze/pg_query_go/v6"
)

// Our own codes. Which lock a statement takes, and whether it reads or rewrites the table meanwhile, is PostgreSQL's:
// https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-NOTES and explicit-locking.html.
const (
	codeIndex        = "TN101" // CREATE INDEX keeps writers out
	codeTransaction  = "TN102" // CONCURRENTLY in a transaction fails
	codeRewrite      = "TN103" // ADD COLUMN writes every row anew
	codeType         = "TN104" // ALTER COLUMN TYPE may write every row anew
	codeNotNull      = "TN105" // SET NOT NULL reads every row
	codeForeignKey   = "TN106" // ADD FOREIGN KEY reads every row of two tables
	codeConstraint   = "TN107" // ADD CHECK reads every row
	codeUnique       = "TN108" // ADD PRIMARY KEY or UNIQUE builds an index
	codeWholeTable   = "TN109" // VACUUM FULL, CLUSTER, LOCK TABLE
	codeReindex      = "TN110" // REINDEX keeps writers out
	codeRename       = "TN111" // what runs uses the old name
	codeDrop         = "TN112" // DROP loses data
	codeDeleteAll    = "TN113" // TRUNCATE, DELETE without WHERE
	codeUnparsed     = "TN114" // not understood
	concurrentlyHint = "use CONCURRENTLY in a file that begins with -- atlas:txmode none"
)

// hazards are the findings of our own in a set's new files. A table that one of them makes is new, and nobody waits for it.
func hazards(set string, scripts []script) ([]Finding, error) {
	var found []Finding
	made := map[string]bool{}
	for _, s := range scripts {
		from := 0
		for _, text := range s.Statements() {
			at := from
			if i := strings.Index(string(s.content[from:]), text); i >= 0 {
				at, from = from+i, from+i+len(text)
			}
			c := &checker{made: made, noTx: s.NoTransaction(), add: func(severity Severity, code, format string, args ...any) {
				found = append(found, Finding{severity, code, fmt.Sprintf(format, args...), set, s.Name, s.lineOf(at)})
			}}
			tree, err := parse(text)
			if err != nil {
				c.add(Warning, codeUnparsed, "not looked at, since PostgreSQL 17's parser does not read it: %v", err)
				continue
			}
			for _, stmt := range tree.GetStmts() {
				c.statement(stmt.GetStmt())
			}
		}
	}
	return found, nil
}

type checker struct {
	made map[string]bool // tables made by these files
	noTx bool
	add  func(severity Severity, code, format string, args ...any)
}

func name(r *pgquery.RangeVar) string {
	if r.GetSchemaname() == "" || r.GetSchemaname() == "public" {
		return r.GetRelname()
	}
	return r.GetSchemaname() + "." + r.GetRelname()
}

// old tells whether a table may have rows, and callers who wait for it.
func (c *checker) old(r *pgquery.RangeVar) bool { return r != nil && !c.made[name(r)] }

func (c *checker) statement(node *pgquery.Node) {
	switch n := node.GetNode().(type) {
	case *pgquery.Node_CreateStmt:
		c.made[name(n.CreateStmt.GetRelation())] = true
	case *pgquery.Node_CreateTableAsStmt:
		c.made[name(n.CreateTableAsStmt.GetInto().GetRel())] = true
	case *pgquery.Node_IndexStmt:
		c.index(n.IndexStmt)
	case *pgquery.Node_AlterTableStmt:
		if n.AlterTableStmt.GetObjtype() == pgquery.ObjectType_OBJECT_TABLE && c.old(n.AlterTableStmt.GetRelation()) {
			for _, cmd := range n.AlterTableStmt.GetCmds() {
				c.alter(name(n.AlterTableStmt.GetRelation()), cmd.GetAlterTableCmd())
			}
		}
	case *pgquery.Node_RenameStmt:
		c.rename(n.RenameStmt)
	case *pgquery.Node_DropStmt:
		c.drop(n.DropStmt)
	case *pgquery.Node_TruncateStmt:
		for _, r := range n.TruncateStmt.GetRelations() {
			if c.old(r.GetRangeVar()) {
				c.add(Destructive, codeDeleteAll, "empties table %s", name(r.GetRangeVar()))
			}
		}
	case *pgquery.Node_DeleteStmt:
		if r := n.DeleteStmt.GetRelation(); n.DeleteStmt.GetWhereClause() == nil && c.old(r) {
			c.add(Destructive, codeDeleteAll, "deletes every row of table %s", name(r))
		}
	case *pgquery.Node_ReindexStmt:
		if !has(n.ReindexStmt.GetParams(), "concurrently") {
			c.add(Warning, codeReindex, "keeps writers out while it builds the index anew: %s", concurrentlyHint)
		}
	case *pgquery.Node_VacuumStmt:
		if has(n.VacuumStmt.GetOptions(), "full") {
			c.add(Warning, codeWholeTable, "VACUUM FULL keeps everyone out while it writes the table anew")
		}
	case *pgquery.Node_ClusterStmt:
		c.add(Warning, codeWholeTable, "CLUSTER keeps everyone out while it writes the table anew")
	case *pgquery.Node_LockStmt:
		c.add(Warning, codeWholeTable, "LOCK TABLE keeps others out until the file is applied")
	}
}

func has(options []*pgquery.Node, option string) bool {
	for _, o := range options {
		if strings.EqualFold(o.GetDefElem().GetDefname(), option) {
			return true
		}
	}
	return false
}

func (c *checker) index(n *pgquery.IndexStmt) {
	switch {
	case n.GetConcurrent() && !c.noTx:
		c.add(Broken, codeTransaction, "CONCURRENTLY does not work in a transaction: begin the file with -- atlas:txmode none")
	case !n.GetConcurrent() && c.old(n.GetRelation()):
		c.add(Warning, codeIndex, "keeps writers of table %s out while it builds the index: %s", name(n.GetRelation()), concurrentlyHint)
	}
}

func (c *checker) alter(table string, cmd *pgquery.AlterTableCmd) {
	column := cmd.GetName()
	switch cmd.GetSubtype() {
	case pgquery.AlterTableType_AT_AddColumn:
		c.addColumn(table, cmd.GetDef().GetColumnDef())
	case pgquery.AlterTableType_AT_AlterColumnType:
		c.add(Warning, codeType, "changing the type of %s.%s keeps everyone out, and writes the table anew unless the old type's values are the new one's as they are", table, column)
	case pgquery.AlterTableType_AT_SetNotNull:
		c.add(Warning, codeNotNull, "keeps everyone out of table %s while it reads every row: add CHECK (%s IS NOT NULL) NOT VALID, validate it, then set NOT NULL", table, column)
	case pgquery.AlterTableType_AT_AddConstraint:
		c.constraint(table, cmd.GetDef().GetConstraint())
	case pgquery.AlterTableType_AT_DropColumn:
		c.add(Destructive, codeDrop, "drops column %s.%s with what is in it", table, column)
	}
}

func (c *checker) addColumn(table string, def *pgquery.ColumnDef) {
	for _, t := range def.GetTypeName().GetNames() {
		if strings.Contains(t.GetString_().GetSval(), "serial") {
			c.add(Warning, codeRewrite, "column %s.%s has a default that differs from row to row: everyone is kept out while the table is written anew", table, def.GetColname())
			return
		}
	}
	for _, node := range def.GetConstraints() {
		k := node.GetConstraint()
		switch k.GetContype() {
		case pgquery.ConstrType_CONSTR_DEFAULT:
			if volatile(k.GetRawExpr()) {
				c.add(Warning, codeRewrite, "the default of column %s.%s may differ from row to row: everyone is kept out while the table is written anew", table, def.GetColname())
			}
		case pgquery.ConstrType_CONSTR_GENERATED, pgquery.ConstrType_CONSTR_IDENTITY:
			c.add(Warning, codeRewrite, "column %s.%s is computed for each row: everyone is kept out while the table is written anew", table, def.GetColname())
		case pgquery.ConstrType_CONSTR_FOREIGN, pgquery.ConstrType_CONSTR_CHECK, pgquery.ConstrType_CONSTR_PRIMARY, pgquery.ConstrType_CONSTR_UNIQUE:
			c.constraint(table, k)
		}
	}
}

// steady are functions whose result is the same for all rows of a statement, and that are often a default.
var steady = map[string]bool{"now": true, "transaction_timestamp": true, "statement_timestamp": true, "to_timestamp": true, "timezone": true, "lower": true, "upper": true, "concat": true, "make_interval": true, "jsonb_build_object": true, "jsonb_build_array": true}

// volatile tells whether an expression calls a function that may give another result for each row.
func volatile(expr *pgquery.Node) bool {
	switch n := expr.GetNode().(type) {
	case *pgquery.Node_FuncCall:
		parts := n.FuncCall.GetFuncname()
		if last := parts[len(parts)-1].GetString_().GetSval(); !steady[last] {
			return true
		}
		for _, a := range n.FuncCall.GetArgs() {
			if volatile(a) {
				return true
			}
		}
	case *pgquery.Node_TypeCast:
		return volatile(n.TypeCast.GetArg())
	case *pgquery.Node_AExpr:
		return volatile(n.AExpr.GetLexpr()) || volatile(n.AExpr.GetRexpr())
	case *pgquery.Node_CoalesceExpr:
		for _, a := range n.CoalesceExpr.GetArgs() {
			if volatile(a) {
				return true
			}
		}
	}
	return false
}

func (c *checker) constraint(table string, k *pgquery.Constraint) {
	switch k.GetContype() {
	case pgquery.ConstrType_CONSTR_FOREIGN:
		if !k.GetSkipValidation() {
			c.add(Warning, codeForeignKey, "keeps writers out of tables %s and %s while it reads every row: add it NOT VALID, and validate it in a later file", table, name(k.GetPktable()))
		}
	case pgquery.ConstrType_CONSTR_CHECK:
		if !k.GetSkipValidation() {
			c.add(Warning, codeConstraint, "keeps everyone out of table %s while it reads every row: add it NOT VALID, and validate it in a later file", table)
		}
	case pgquery.ConstrType_CONSTR_PRIMARY, pgquery.ConstrType_CONSTR_UNIQUE, pgquery.ConstrType_CONSTR_EXCLUSION:
		if k.GetIndexname() == "" {
			c.add(Warning, codeUnique, "keeps everyone out of table %s while it builds the index: build it CONCURRENTLY first, and add the constraint USING INDEX", table)
		}
	}
}

func (c *checker) rename(n *pgquery.RenameStmt) {
	switch n.GetRenameType() {
	case pgquery.ObjectType_OBJECT_TABLE, pgquery.ObjectType_OBJECT_VIEW, pgquery.ObjectType_OBJECT_MATVIEW:
		if c.old(n.GetRelation()) {
			c.add(Destructive, codeRename, "renames %s to %s: programs that run use the old name", name(n.GetRelation()), n.GetNewname())
		}
	case pgquery.ObjectType_OBJECT_COLUMN:
		if c.old(n.GetRelation()) {
			c.add(Destructive, codeRename, "renames column %s.%s to %s: programs that run use the old name", name(n.GetRelation()), n.GetSubname(), n.GetNewname())
		}
	case pgquery.ObjectType_OBJECT_SCHEMA:
		c.add(Destructive, codeRename, "renames schema %s to %s: programs that run use the old name", n.GetSubname(), n.GetNewname())
	}
}

func (c *checker) drop(n *pgquery.DropStmt) {
	what := map[pgquery.ObjectType]string{pgquery.ObjectType_OBJECT_TABLE: "table", pgquery.ObjectType_OBJECT_SCHEMA: "schema", pgquery.ObjectType_OBJECT_MATVIEW: "materialized view"}[n.GetRemoveType()]
	for _, o := range n.GetObjects() {
		var parts []string
		for _, p := range o.GetList().GetItems() {
			parts = append(parts, p.GetString_().GetSval())
		}
		if s := o.GetString_().GetSval(); s != "" {
			parts = append(parts, s)
		}
		object := strings.TrimPrefix(strings.Join(parts, "."), "public.")
		switch {
		case what != "" && !c.made[object]:
			c.add(Destructive, codeDrop, "drops %s %s with what is in it", what, object)
		case n.GetRemoveType() == pgquery.ObjectType_OBJECT_INDEX && !n.GetConcurrent():
			c.add(Warning, codeIndex, "keeps everyone out of index %s's table for a moment: %s", object, concurrentlyHint)
		case n.GetRemoveType() == pgquery.ObjectType_OBJECT_INDEX && !c.noTx:
			c.add(Broken, codeTransaction, "CONCURRENTLY does not work in a transaction: begin the file with -- atlas:txmode none")
		}
	}
}
