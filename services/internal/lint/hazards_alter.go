package lint

import (
	"strings"

	pgquery "github.com/pganalyze/pg_query_go/v6"
)

// alterTable looks at each of the statement's commands, which come one after the other.
func (c *checker) alterTable(n *pgquery.AlterTableStmt) {
	if n.GetObjtype() != pgquery.ObjectType_OBJECT_TABLE {
		return
	}
	// All that is done to a new table is quick, and yet changes what is known of it.
	muted := c.muted
	c.muted = muted || !c.old(n.GetRelation())
	for _, cmd := range n.GetCmds() {
		c.alter(n.GetRelation(), cmd.GetAlterTableCmd())
	}
	c.muted = muted
}

func (c *checker) alter(r *pgquery.RangeVar, cmd *pgquery.AlterTableCmd) {
	table, name := nameOf(r), cmd.GetName()
	known := c.relations[table]
	switch cmd.GetSubtype() {
	case pgquery.AlterTableType_AT_AddColumn:
		c.addColumn(r, cmd)
	case pgquery.AlterTableType_AT_DropColumn:
		c.dropColumn(table, cmd)
	case pgquery.AlterTableType_AT_AlterColumnType:
		c.changeType(table, name, cmd.GetDef().GetColumnDef())
	case pgquery.AlterTableType_AT_SetNotNull:
		if !known.provesNotNull(name) {
			c.add(Warning, codeNotNull, "keeps everyone out of table %s while it reads every row: add CHECK (%s IS NOT NULL) NOT VALID, validate it in a later file, then set NOT NULL", table, name)
		}
	case pgquery.AlterTableType_AT_AddConstraint:
		c.addConstraint(r, cmd.GetDef().GetConstraint())
		if known != nil {
			known.constrain(c.file, r.GetRelname(), cmd.GetDef().GetConstraint())
		}
	case pgquery.AlterTableType_AT_ValidateConstraint:
		c.validate(table, name)
	case pgquery.AlterTableType_AT_DropConstraint:
		if known != nil {
			delete(known.constraints, name)
		}
	case pgquery.AlterTableType_AT_DetachPartition:
		if cmd.GetDef().GetPartitionCmd().GetConcurrent() {
			c.refused("DETACH PARTITION CONCURRENTLY")
		}
	default: // The others are quick, or rare.
	}
}

func (c *checker) addColumn(r *pgquery.RangeVar, cmd *pgquery.AlterTableCmd) {
	table, def, known := nameOf(r), cmd.GetDef().GetColumnDef(), c.relations[nameOf(r)]
	if known != nil {
		if _, there := known.columns[def.GetColname()]; there && cmd.GetMissingOk() {
			return
		}
		known.columns[def.GetColname()] = column{c.file, kindOf(def.GetTypeName())}
	}
	rewrites := strings.Contains(kindOf(def.GetTypeName()).name, "serial")
	filled := rewrites
	for _, node := range def.GetConstraints() {
		switch k := node.GetConstraint(); k.GetContype() {
		case pgquery.ConstrType_CONSTR_DEFAULT:
			filled = true
			rewrites = rewrites || c.volatile(k.GetRawExpr())
		case pgquery.ConstrType_CONSTR_GENERATED, pgquery.ConstrType_CONSTR_IDENTITY:
			filled, rewrites = true, true
		default: // Constraints come below.
		}
	}
	if rewrites {
		c.add(Warning, codeRewrite, "column %s.%s has a value for each row: everyone is kept out while the table is written anew", table, def.GetColname())
	}
	for _, node := range def.GetConstraints() {
		k := node.GetConstraint()
		// PostgreSQL takes it for valid where all rows are NULL.
		if k.GetContype() != pgquery.ConstrType_CONSTR_FOREIGN || filled {
			c.addConstraint(r, k)
		}
		if known != nil {
			known.constrain(c.file, r.GetRelname(), k)
		}
	}
}

func (c *checker) dropColumn(table string, cmd *pgquery.AlterTableCmd) {
	if known := c.relations[table]; known != nil {
		old, there := known.columns[cmd.GetName()]
		delete(known.columns, cmd.GetName())
		if there && old.file == c.file || !there && cmd.GetMissingOk() {
			return
		}
	}
	c.add(Destructive, codeDrop, "drops column %s.%s with what is in it", table, cmd.GetName()).unless(atlasDropColumn, cmd.GetName())
}

func (c *checker) changeType(table, name string, def *pgquery.ColumnDef) {
	becomes := kindOf(def.GetTypeName())
	known := c.relations[table]
	if known != nil {
		old, there := known.columns[name]
		known.columns[name] = column{old.file, becomes}
		if there && becomes.holds(old.kind) && asIs(def.GetRawDefault(), name, becomes) {
			return
		}
	}
	c.add(Warning, codeType, "changing the type of %s.%s keeps everyone out while the table is written anew", table, name)
}

func (c *checker) addConstraint(r *pgquery.RangeVar, k *pgquery.Constraint) {
	table := nameOf(r)
	switch k.GetContype() {
	case pgquery.ConstrType_CONSTR_FOREIGN:
		if !k.GetSkipValidation() {
			c.add(Warning, codeForeignKey, "keeps writers out of tables %s and %s while it reads every row: %s", table, nameOf(k.GetPktable()), notValidHint)
		}
	case pgquery.ConstrType_CONSTR_CHECK:
		if !k.GetSkipValidation() {
			c.add(Warning, codeConstraint, "keeps everyone out of table %s while it reads every row: %s", table, notValidHint)
		}
	case pgquery.ConstrType_CONSTR_PRIMARY, pgquery.ConstrType_CONSTR_UNIQUE:
		if k.GetIndexname() == "" {
			c.add(Warning, codeUnique, "keeps everyone out of table %s while it builds the index: build it CONCURRENTLY in an earlier file, and add the constraint USING INDEX", table).unless(atlasIndex, r.GetRelname())
		}
	case pgquery.ConstrType_CONSTR_EXCLUSION:
		c.add(Warning, codeUnique, "keeps everyone out of table %s while it builds the index", table)
	default: // The others are about no other rows.
	}
}

// validate reads every row, but keeps nobody out, unless the lock is still held that adding the constraint took.
func (c *checker) validate(table, name string) {
	known := c.relations[table]
	if known == nil || known.constraints[name] == nil {
		return
	}
	k := known.constraints[name]
	if k.file == c.file && !k.valid && !c.script.NoTransaction() {
		c.add(Warning, codeConstraint, "reads every row of table %s in the transaction that added %s and keeps writers out: validate it in a later file", table, name)
	}
	k.valid = true
}

func (c *checker) renaming(n *pgquery.RenameStmt) {
	r := n.GetRelation()
	name, old := nameOf(r), c.old(r)
	switch n.GetRenameType() {
	case pgquery.ObjectType_OBJECT_TABLE, pgquery.ObjectType_OBJECT_VIEW, pgquery.ObjectType_OBJECT_MATVIEW:
		c.rename(name, qualified(r.GetSchemaname(), n.GetNewname()))
		if old {
			c.add(Destructive, codeRename, "renames %s to %s: programs that run use the old name", name, n.GetNewname()).unless(atlasRenameTable, r.GetRelname())
		}
	case pgquery.ObjectType_OBJECT_COLUMN:
		if known := c.relations[name]; known != nil {
			old = old && known.columns[n.GetSubname()].file != c.file
			known.renameColumn(n.GetSubname(), n.GetNewname())
		}
		if old {
			c.add(Destructive, codeRename, "renames column %s.%s to %s: programs that run use the old name", name, n.GetSubname(), n.GetNewname()).unless(atlasRenameColumn, n.GetSubname())
		}
	case pgquery.ObjectType_OBJECT_SCHEMA:
		if file, known := c.schemas[n.GetSubname()]; !known || file != c.file {
			c.add(Destructive, codeRename, "renames schema %s to %s: programs that run use the old name", n.GetSubname(), n.GetNewname()).unless(atlasDropSchema, n.GetSubname())
		}
	default: // Programs name no others.
	}
}

func (c *checker) moving(n *pgquery.AlterObjectSchemaStmt) {
	r := n.GetRelation()
	if r == nil {
		return
	}
	old := c.old(r)
	c.rename(nameOf(r), qualified(n.GetNewschema(), r.GetRelname()))
	if old {
		c.add(Destructive, codeRename, "moves %s to schema %s: programs that run use the old name", nameOf(r), n.GetNewschema()).unless(atlasDropTable, r.GetRelname())
	}
}

func (c *checker) drop(n *pgquery.DropStmt) {
	for _, o := range n.GetObjects() {
		parts := words(o.GetList().GetItems())
		if len(parts) == 0 {
			parts = []string{o.GetString_().GetSval()} // A schema.
		}
		object := parts[len(parts)-1]
		name := qualified(strings.Join(parts[:len(parts)-1], "."), object)
		switch n.GetRemoveType() {
		case pgquery.ObjectType_OBJECT_TABLE:
			c.dropRelation("table", name, n.GetMissingOk()).unless(atlasDropTable, object)
		case pgquery.ObjectType_OBJECT_MATVIEW:
			c.dropRelation("materialized view", name, n.GetMissingOk())
		case pgquery.ObjectType_OBJECT_SCHEMA:
			file, known := c.schemas[name]
			c.dropSchema(name)
			if known && file != c.file || !known && !n.GetMissingOk() {
				c.add(Destructive, codeDrop, "drops schema %s with what is in it", name).unless(atlasDropSchema, object)
			}
		case pgquery.ObjectType_OBJECT_INDEX:
			c.dropIndex(n, name, object)
		default: // The others hold no data.
		}
	}
}

// dropRelation leaves out what is new, and what is likely not there at all: Atlas looks at what really goes.
func (c *checker) dropRelation(what, name string, missingOK bool) *hazard {
	known := c.relations[name]
	delete(c.relations, name)
	if known != nil && known.file == c.file || known == nil && missingOK {
		return &hazard{}
	}
	return c.add(Destructive, codeDrop, "drops %s %s with what is in it", what, name)
}

func (c *checker) dropIndex(n *pgquery.DropStmt, name, object string) {
	file, known := c.indexes[name]
	delete(c.indexes, name)
	switch {
	case n.GetConcurrent():
		c.refused("DROP INDEX CONCURRENTLY")
	case known && file != c.file, !known && !n.GetMissingOk():
		c.add(Warning, codeIndex, "keeps everyone out of the table of index %s until the file is applied: %s", name, concurrentlyHint).unless(atlasDropIndex, object)
	}
}
