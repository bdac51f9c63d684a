// Package lint judges migration sets before they are released: by Atlas's analyzers, which replay them on a scratch
// database, and, where those do not see what PostgreSQL locks, rewrites or loses, by checks of our own on the parse tree
// of PostgreSQL's own parser (libpg_query).
//
// It gives no verdict on what is in a database already: that is drift. Nor does it look into the bodies of functions and
// DO blocks. Atlas's nolint comments silence Atlas's analyzers, and none of our checks: a comment is no release's pass.
package lint

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/scratch"
)

// Severity is how bad a finding is.
type Severity int

const (
	// Warning is worth knowing: a lock that is held for long, a change that fails on some data.
	Warning Severity = iota + 1
	// Destructive loses data, or breaks programs that still run.
	Destructive
	// Broken does not apply at all.
	Broken
)

// Finding is one thing that was found in a set's new files.
type Finding struct {
	Severity Severity
	// Code is Atlas's, such as DS102 (https://atlasgo.io/lint/analyzers), or one of ours, such as TN101.
	Code    string
	Message string
	Set     string
	File    string
	Line    int // 0 when it is about no one line
}

// CodeBroken is the code of a file that does not apply.
const CodeBroken = "TN100"

// Judge replays the sets of a tree in databases of its own on a server, plugins' on top of core, and
// returns what is found in the files that since has not; nil since means all of them. Findings come in order of set, file
// and line. Nothing is left on the server, also when the context ends.
func Judge(ctx context.Context, cli *atlascli.CLI, server scratch.Server, tree, since *migrate.Tree) ([]Finding, error) {
	if since == nil {
		since = &migrate.Tree{}
	}
	found, err := JudgeSet(ctx, cli, server, nil, tree.Core, newFiles(since.Core, tree.Core))
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(tree.Plugins)) {
		set := tree.Plugins[name]
		more, err := JudgeSet(ctx, cli, server, tree.Core, set, newFiles(since.Plugins[name], set))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	sortFindings(found)
	return found, nil
}

func sortFindings(found []Finding) {
	slices.SortStableFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Code, b.Code))
	})
}

// newFiles is how many of the newest files of a set an older one has not, or has otherwise.
func newFiles(older, newer *migrate.Set) int {
	files := newer.Files()
	if older == nil {
		return len(files)
	}
	before, now, same := older.Content(), newer.Content(), 0
	for _, f := range files {
		if old, ok := before[f.Name]; !ok || !bytes.Equal(old, now[f.Name]) {
			break
		}
		same++
	}
	return len(files) - same
}

// JudgeSet judges the newest files of a set, on top of another, which may be nil.
func JudgeSet(ctx context.Context, cli *atlascli.CLI, server scratch.Server, base, set *migrate.Set, newest int) ([]Finding, error) {
	scripts := scriptsOf(set)
	newest = min(newest, len(scripts))
	if newest <= 0 {
		return nil, nil
	}
	if base != nil {
		scripts = append(scriptsOf(base), scripts...)
	}
	// In a program without cgo the parser is compiled when it is first used, for seconds. Atlas has work meanwhile.
	ready := make(chan struct{})
	go func() { defer close(ready); _, _ = parse("") }()
	found, steady, err := replay(ctx, cli, server, scripts, newest)
	<-ready
	if err != nil {
		return nil, fmt.Errorf("lint: set %s: %w", set.Name(), err)
	}
	for _, h := range hazards(scripts, newest, steady) {
		if !slices.ContainsFunc(found, h.said) {
			found = append(found, h.Finding)
		}
	}
	sortFindings(found)
	return found, nil
}

// hazard is a finding of our own.
type hazard struct {
	Finding
	// atlas is the code of Atlas's analyzer for the same thing, and object what it names; empty where it has none.
	atlas, object string
}

// said tells whether a finding of Atlas's says it already.
func (h hazard) said(theirs Finding) bool {
	return theirs.Code == h.atlas && theirs.Set == h.Set && theirs.File == h.File &&
		(h.object == "" || strings.Contains(theirs.Message, strconv.Quote(h.object)))
}
