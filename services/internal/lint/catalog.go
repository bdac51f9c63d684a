package lint

import (
	"slices"
	"strings"

	pgquery "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// catalog is what the files so far have made, as far as statements tell. What it does not know was there before.
type catalog struct {
	relations map[string]*relation
	indexes   map[string]int // the number of the file that made it
	schemas   map[string]int
	steady    map[string]bool // functions that give the same result for all rows of a statement
}

// relation is a table or a view.
type relation struct {
	file        int // the number of the one that made it
	columns     map[string]column
	constraints map[string]*constraint
}

type column struct {
	file int
	kind kind
}

type constraint struct {
	file    int
	valid   bool
	notNull []string // columns that it keeps from being NULL
}

// before is the number of a file that came before all that are known.
const before = -1

func newCatalog(steady map[string]bool) *catalog {
	return &catalog{map[string]*relation{}, map[string]int{}, map[string]int{"public": before}, steady}
}

// qualified is a name by which things are found again; nobody writes `public`.
func qualified(schema, name string) string {
	if schema == "" || schema == "public" {
		return name
	}
	return schema + "." + name
}

func nameOf(r *pgquery.RangeVar) string { return qualified(r.GetSchemaname(), r.GetRelname()) }

// words are the strings in a list of nodes, such as the parts of a name.
func words(nodes []*pgquery.Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.GetString_().GetSval())
	}
	return out
}

// make takes a relation that a file makes; IF NOT EXISTS and OR REPLACE leave an older one as it is.
func (c *catalog) make(file int, r *pgquery.RangeVar, orKeep bool, elements []*pgquery.Node) {
	name := nameOf(r)
	if c.relations[name] != nil && orKeep {
		return
	}
	made := &relation{file, map[string]column{}, map[string]*constraint{}}
	c.relations[name] = made
	for _, e := range elements {
		if def := e.GetColumnDef(); def != nil {
			made.columns[def.GetColname()] = column{file, kindOf(def.GetTypeName())}
			for _, k := range def.GetConstraints() {
				made.constrain(file, r.GetRelname(), k.GetConstraint())
			}
		}
		if k := e.GetConstraint(); k != nil {
			made.constrain(file, r.GetRelname(), k)
		}
	}
}

func (r *relation) constrain(file int, table string, k *pgquery.Constraint) {
	made := &constraint{file: file, valid: !k.GetSkipValidation()}
	name := k.GetConname()
	if k.GetContype() == pgquery.ConstrType_CONSTR_CHECK {
		made.notNull = notNullIn(k.GetRawExpr())
		if name == "" && len(made.notNull) == 1 {
			name = table + "_" + made.notNull[0] + "_check" // As PostgreSQL names it.
		}
	}
	r.constraints[name] = made
}

// notNullIn are the columns that an expression says are not NULL.
func notNullIn(expr *pgquery.Node) []string {
	if test := expr.GetNullTest(); test.GetNulltesttype() == pgquery.NullTestType_IS_NOT_NULL {
		return words(test.GetArg().GetColumnRef().GetFields())
	}
	var out []string
	if all := expr.GetBoolExpr(); all.GetBoolop() == pgquery.BoolExprType_AND_EXPR {
		for _, part := range all.GetArgs() {
			out = append(out, notNullIn(part)...)
		}
	}
	return out
}

// provesNotNull tells whether a valid constraint says so, which spares PostgreSQL the reading of all rows.
func (r *relation) provesNotNull(column string) bool {
	if r == nil {
		return false
	}
	for _, k := range r.constraints {
		if k.valid && slices.Contains(k.notNull, column) {
			return true
		}
	}
	return false
}

// function takes one that a file makes. They are volatile unless they say otherwise.
func (c *catalog) function(f *pgquery.CreateFunctionStmt) {
	name := words(f.GetFuncname())
	steady := false
	for _, o := range f.GetOptions() {
		if d := o.GetDefElem(); d.GetDefname() == "volatility" {
			steady = d.GetArg().GetString_().GetSval() != "volatile"
		}
	}
	c.steady[name[len(name)-1]] = steady
}

// volatile tells whether an expression calls a function that may give another result for each row.
func (c *catalog) volatile(expr *pgquery.Node) bool {
	found := false
	each(expr, func(call *pgquery.FuncCall) {
		name := words(call.GetFuncname())
		found = found || !c.steady[name[len(name)-1]]
	})
	return found
}

// rename gives what there is of a relation another name.
func (c *catalog) rename(from, to string) {
	if r := c.relations[from]; r != nil {
		delete(c.relations, from)
		c.relations[to] = r
	}
}

func (r *relation) renameColumn(from, to string) {
	if r == nil {
		return
	}
	if old, ok := r.columns[from]; ok {
		delete(r.columns, from)
		r.columns[to] = old
	}
	for _, k := range r.constraints {
		if i := slices.Index(k.notNull, from); i >= 0 {
			k.notNull[i] = to
		}
	}
}

func (c *catalog) dropSchema(schema string) {
	delete(c.schemas, schema)
	for name := range c.relations {
		if strings.HasPrefix(name, schema+".") || schema == "public" && !strings.Contains(name, ".") {
			delete(c.relations, name)
		}
	}
}

// each calls f with every node of a type in a tree.
func each[T proto.Message](tree proto.Message, f func(T)) {
	if found, ok := tree.(T); ok {
		f(found)
	}
	tree.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.Kind() != protoreflect.MessageKind:
		case field.IsList():
			for i := range v.List().Len() {
				each(v.List().Get(i).Message().Interface(), f)
			}
		default:
			each(v.Message().Interface(), f)
		}
		return true
	})
}
