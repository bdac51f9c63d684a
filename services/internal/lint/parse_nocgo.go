//go:build !cgo

package lint

import pgquery "github.com/wasilibs/go-pgquery"

// parse is PostgreSQL's own parser, for programs that are built without a C compiler.
var parse = pgquery.Parse
