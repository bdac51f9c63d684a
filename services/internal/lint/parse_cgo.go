//go:build cgo

package lint

import pgquery "github.com/pganalyze/pg_query_go/v6"

// parse is PostgreSQL's own parser, built in.
var parse = pgquery.Parse
