package lint

import (
	"slices"

	pgquery "github.com/pganalyze/pg_query_go/v6"
)

// kind is a column's type, as it was written.
type kind struct {
	name  string
	mods  [2]int32
	count int // of mods; 0 means without limits
	array int
}

func kindOf(t *pgquery.TypeName) kind {
	name := words(t.GetNames())
	if len(name) == 0 {
		return kind{}
	}
	k := kind{name: name[len(name)-1], array: len(t.GetArrayBounds())}
	for i, m := range t.GetTypmods() {
		if i < len(k.mods) {
			k.mods[i] = m.GetAConst().GetIval().GetIval()
		}
		k.count++
	}
	return k
}

// precise are the types whose modifier is a number of digits, 6 at most and by default.
var precise = []string{"timestamp", "timestamptz", "time", "timetz"}

// holds tells whether PostgreSQL takes the values of another type as they are, without writing them anew:
// https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-NOTES, "binary coercible".
func (k kind) holds(old kind) bool {
	switch {
	case k == old:
		return k.name != ""
	case k.array > 0 || old.array > 0:
		return false
	case k.name == "text" || k.name == "varchar" && k.count == 0:
		return old.name == "text" || old.name == "varchar"
	case k.name == "inet":
		return old.name == "cidr"
	case k.name != old.name:
		return false
	case k.name == "varchar" || k.name == "varbit":
		return k.count == 0 || old.count > 0 && k.mods[0] >= old.mods[0]
	case k.name == "numeric":
		return k.count == 0 || old.count > 0 && k.mods[0] >= old.mods[0] && k.mods[1] == old.mods[1]
	case slices.Contains(precise, k.name):
		return k.count == 0 || k.mods[0] >= 6 || old.count > 0 && k.mods[0] >= old.mods[0]
	default:
		return false
	}
}

// asIs tells whether a USING expression takes a column as it is, or as what it becomes anyway.
func asIs(using *pgquery.Node, column string, becomes kind) bool {
	if cast := using.GetTypeCast(); cast != nil && kindOf(cast.GetTypeName()) == becomes {
		using = cast.GetArg()
	}
	return using == nil || slices.Equal(words(using.GetColumnRef().GetFields()), []string{column})
}
