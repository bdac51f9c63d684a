package pgsession

import "strings"

// profile is what a database has that statements call without saying so. Its nil is that of a database that nobody has
// looked at.
type profile struct {
	// loud means that something of it may leave something in a session.
	loud bool
	// functions are the names of its own functions.
	functions map[string]bool
}

func (p *profile) quiet() bool { return p != nil && !p.loud }

// defines tells whether the database has a function of that name.
func (p *profile) defines(name string) bool { return p != nil && p.functions[name] }

// profileQuery lists the database's own functions, with the source of those that can be read and `known` for those of
// extensions whose functions leave nothing; and has a row `loud` if an operator, an aggregate, a cast, a view, a policy or
// a domain calls a function of PostgreSQL's that may leave something. Functions of triggers are left out: they run when
// something is written, and that is never clean. What PostgreSQL itself has, has an OID below 16384.
const profileQuery = `SELECT 'function', p.proname, ` +
	`CASE WHEN e.extname IS NOT NULL THEN 'known' WHEN p.prokind = 'a' THEN 'known' ` +
	`WHEN l.lanname OPERATOR(pg_catalog.=) ANY ('{sql,plpgsql}'::pg_catalog.name[]) AND p.prosqlbody IS NULL THEN 'source' ELSE 'unknown' END, p.prosrc ` +
	`FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang ` +
	`LEFT JOIN (pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid ` +
	`AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype OPERATOR(pg_catalog.=) 'e' ` +
	`AND e.extname OPERATOR(pg_catalog.=) ANY ('{btree_gin,btree_gist,citext,cube,earthdistance,fuzzystrmatch,hstore,intarray,isn,ltree,pgcrypto,seg,unaccent,uuid-ossp}'::pg_catalog.name[])) ` +
	`ON d.objid OPERATOR(pg_catalog.=) p.oid ` +
	`WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND p.prorettype OPERATOR(pg_catalog.<>) ALL ('{2279,3838}'::pg_catalog.oid[]) ` +
	`UNION ALL SELECT 'loud', '', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid ` +
	`AND p.provolatile OPERATOR(pg_catalog.=) 'v' AND p.proname OPERATOR(pg_catalog.<>) ALL ('{%s}'::pg_catalog.name[]) AND p.oid OPERATOR(pg_catalog.=) ANY (ARRAY(` +
	`SELECT oprcode::pg_catalog.oid FROM pg_catalog.pg_operator WHERE oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid ` +
	`UNION ALL SELECT pg_catalog.unnest(ARRAY[aggtransfn, aggfinalfn, aggmtransfn, aggminvtransfn, aggmfinalfn, aggcombinefn, aggserialfn, aggdeserialfn]::pg_catalog.oid[]) ` +
	`FROM pg_catalog.pg_aggregate WHERE aggfnoid::pg_catalog.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid ` +
	`UNION ALL SELECT castfunc FROM pg_catalog.pg_cast WHERE oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid ` +
	`UNION ALL SELECT (pg_catalog.regexp_matches(tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g'))[1]::pg_catalog.oid FROM (` +
	`SELECT ev_action::pg_catalog.text AS tree FROM pg_catalog.pg_rewrite WHERE oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND ev_type OPERATOR(pg_catalog.=) '1' ` +
	`UNION ALL SELECT polqual::pg_catalog.text FROM pg_catalog.pg_policy ` +
	`UNION ALL SELECT conbin::pg_catalog.text FROM pg_catalog.pg_constraint WHERE contypid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid ` +
	`AND oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid) AS trees)))`

// profileSQL is profileQuery for the functions that are harmless here.
func profileSQL() string {
	return strings.Replace(profileQuery, "%s", strings.Join(strings.Fields(volatileAndHarmless), ","), 1)
}

// profiler makes a profile of profileQuery's rows.
type profiler struct {
	loud    bool
	names   map[string]bool
	sources []string
}

func (p *profiler) row(kind, name, how, source string) {
	if kind == "loud" {
		p.loud = true
		return
	}
	if p.names == nil {
		p.names = map[string]bool{}
	}
	p.names[name] = true
	switch how {
	case "known":
	case "source":
		p.sources = append(p.sources, source)
	default:
		p.loud = true
	}
}

// profile is what the rows say. A function whose source may leave something makes the whole database loud, as there are
// more ways to call it than by its name.
func (p *profiler) profile() *profile {
	out := &profile{loud: p.loud, functions: p.names}
	for _, source := range p.sources {
		if !out.loud && !leavesNothing(source, p.names) {
			out.loud = true
		}
	}
	return out
}

// leaving are the words of SQL and PL/pgSQL that, anywhere in a function, may mean that it leaves something.
var leaving = set(`alter analyze call checkpoint cluster close comment copy create deallocate delete discard do drop execute explain grant hold import insert
	listen load lock merge move notify prepare reassign refresh reindex release reset revoke rollback commit savepoint security set start truncate
	unlisten vacuum`)

// leavesNothing tells whether a function's source does nothing that leaves anything.
func leavesNothing(source string, defined map[string]bool) bool {
	s := scanner{sql: source}
	t := Text{}
	var last, lead token
	for tok, ok := s.next(); ok; tok, ok = s.next() {
		if tok.sign == '(' && last.word != "" {
			t.call(last, lead)
		}
		if tok.word != "" && !tok.quoted {
			if leaving[tok.word] {
				return false
			}
			// INTO fills a variable here, or makes a table; neither is of a session.
			if tok.word != "into" {
				t.keyword(tok.word, last)
			}
		}
		if strings.HasPrefix(tok.word, "pg_prepared_statement") {
			return false
		}
		if last.sign != '.' {
			lead = last
		} else if tok.word == "" {
			lead = token{}
		}
		last = tok
	}
	for _, name := range t.called {
		if !defined[name] {
			return false
		}
	}
	return t.trace == nothing && !s.odd
}
