package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// workTree is the repository's root, from here.
const workTree = "../../../../.."

// commandLine is one of tenantry's in a page.
type commandLine struct {
	args []string
	// whole says that it can be run as it stands. What is in the middle of a sentence may leave arguments out.
	whole bool
}

var inline = regexp.MustCompile("`([^`]+)`")

// commandLines finds those in a page of Markdown: in its indented and fenced blocks, and between backquotes.
func commandLines(page string) (all []commandLine, err error) {
	var block, prose strings.Builder
	flush := func() error {
		text := block.String()
		block.Reset()
		if !strings.Contains(text, "tenantry ") {
			return nil
		}
		found, err := shellCommands(text)
		for _, args := range found {
			all = append(all, commandLine{args, true})
		}
		return err
	}
	fenced, indented := false, false
	blank := true
	for line := range strings.Lines(page) {
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		empty := strings.TrimSpace(line) == ""
		// A line that is indented begins a block only behind an empty one: else it goes on with a sentence.
		indented = !fenced && (strings.HasPrefix(line, "    ") && (blank || indented) || indented && empty)
		blank = empty
		switch {
		case fence:
			fenced = !fenced
		case fenced, indented:
			block.WriteString(strings.TrimPrefix(line, "    "))
			if empty {
				block.WriteString("\n")
			}
			continue
		default:
			prose.WriteString(line)
		}
		if err := flush(); err != nil {
			return nil, err
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	for _, span := range inline.FindAllStringSubmatch(prose.String(), -1) {
		if !isTenantry(strings.Fields(span[1])[0]) {
			continue
		}
		found, err := shellCommands(span[1])
		if err != nil {
			return nil, err
		}
		for _, args := range found {
			all = append(all, commandLine{args, false})
		}
	}
	return all, nil
}

func isTenantry(program string) bool { return program == "tenantry" || program == "bin/tenantry" }

// shellCommands are the arguments of each tenantry that a shell would run.
func shellCommands(text string) (all [][]string, err error) {
	script, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, fmt.Errorf("no shell reads this: %w\n%s", err, text)
	}
	values := &expand.Config{
		Env:      expand.FuncEnviron(func(string) string { return "value" }),
		CmdSubst: func(w io.Writer, _ *syntax.CmdSubst) error { _, err := io.WriteString(w, "value"); return err },
	}
	syntax.Walk(script, func(node syntax.Node) bool {
		call, ok := node.(*syntax.CallExpr)
		if !ok || err != nil {
			return err == nil
		}
		var words []string
		for _, w := range call.Args {
			var word string
			if word, err = expand.Literal(values, w); err != nil {
				return false
			}
			words = append(words, word)
		}
		if at := slices.IndexFunc(words, isTenantry); at >= 0 {
			all = append(all, words[at+1:])
		}
		return true
	})
	return all, err
}

// understand reads a command line with the parser that the program has.
func understand(c commandLine) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, asked := r.(finished); !asked { // For --help or --version.
				panic(r)
			}
		}
	}()
	parser, err := newParser(&root{}, Streams{Out: io.Discard, Err: io.Discard})
	if err != nil {
		return err
	}
	if c.whole {
		_, err = parser.Parse(c.args)
		return err
	}
	traced, err := kong.Trace(parser, c.args)
	if err != nil {
		return err
	}
	return traced.Error
}

func TestThePagesNameNoCommandOrFlagThatIsNot(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.Join(workTree, "docs", "*.md"))
	require.NoError(t, err)
	pages = append(pages, filepath.Join(workTree, "README.md"))
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		found, err := commandLines(string(text))
		require.NoError(t, err, page)
		require.NotEmpty(t, found, "%s names no command: are they looked for in the right places?", page)
		for _, c := range found {
			require.NoError(t, understand(c), "%s says: tenantry %s", page, strings.Join(c.args, " "))
		}
	}
}

func TestAWrongCommandInAPageIsFoundWhereverItStands(t *testing.T) {
	t.Parallel()
	for page, wrong := range map[string]bool{
		"Say:\n\n    bin/tenantry company list --state active   # all\n":                     false,
		"Say:\n\n    bin/tenantry company list --stat active\n":                              true,
		"Say:\n\n    TENANTRY_ENV=x time tenantry status | tail\n\n    tenantry stats\n":     true,
		"Say:\n\n```sh\ntenantry cluster drain \\\n    eu-1\n```\n":                          false,
		"Say:\n\n```sh\ntenantry cluster drain \\\n    eu-1 --now\n```\n":                    true,
		"Say:\n\n    tenantry cluster drain\n":                                               true,
		"Say `tenantry cluster drain`, or nothing.\n":                                        false,
		"Say `tenantry cluster empty`, or nothing.\n":                                        true,
		"Say `tenantry rollout start --forced`, or nothing.\n":                               true,
		"Say:\n\n    (cd x && bin/tenantry migration new core \"$NAME\" | xargs cat)\n":      false,
		"Say:\n\n    FILE=$(bin/tenantry migration make core \"$NAME\" --migrations mine)\n": true,
	} {
		found, err := commandLines(page)
		require.NoError(t, err, page)
		require.NotEmpty(t, found, page)
		bad := slices.ContainsFunc(found, func(c commandLine) bool { return understand(c) != nil })
		require.Equal(t, wrong, bad, page)
	}
}
