package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// repository is the root of the working tree.
const repository = "../../../../.."

func newParser(t *testing.T) *kong.Kong {
	t.Helper()
	var r root
	parser, err := kong.New(&r, kong.Name("tenantry"), kong.ExplicitGroups(groups()), kong.Vars{"version": ""})
	require.NoError(t, err)
	return parser
}

func TestTheDocumentationNamesOnlyCommandsAndFlagsThatThereAre(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.Join(repository, "docs", "*.md"))
	require.NoError(t, err)
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} {
		pages = append(pages, filepath.Join(repository, name))
	}
	lines, mentions := 0, 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, line := range commandLines(string(text)) {
			_, err := newParser(t).Parse(line)
			require.NoError(t, err, "%s: tenantry %s", page, strings.Join(line, " "))
			lines++
		}
		for _, mention := range mentioned(string(text)) {
			require.NoError(t, known(t, mention), "%s: `tenantry %s`", page, strings.Join(mention, " "))
			mentions++
		}
	}
	require.Greater(t, lines, 50, "the test finds no command lines any more")
	require.Greater(t, mentions, 5, "the test finds no mentions any more")
}

// known tells whether a command and its flags exist; what it takes besides may be missing from a mention in a sentence.
func known(t *testing.T, mention []string) error {
	t.Helper()
	parser := newParser(t)
	trace, err := kong.Trace(parser, mention)
	if err != nil {
		return err
	}
	return trace.Error
}

func TestWhatTheDocumentationMustNotNameIsFound(t *testing.T) {
	t.Parallel()
	page := "See `tenantry frobnicate`, or `tenantry rollout --sideways`, but `tenantry cluster register` is fine.\n\n" +
		"    bin/tenantry company suspend \\\n        sun   # a comment\n    id=$(tenantry status sun --nothing | jq .id)\n    A=b /usr/bin/tenantry sql x 'SELECT 1; SELECT \"2\"' > file\n"
	require.Equal(t, [][]string{{"company", "suspend", "sun"}, {"status", "sun", "--nothing"}, {"sql", "x", `SELECT 1; SELECT "2"`}}, commandLines(page))
	for i, want := range []string{"--reason", "--nothing", ""} {
		_, err := newParser(t).Parse(commandLines(page)[i])
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
	mentions := mentioned(page)
	require.Len(t, mentions, 3)
	require.Error(t, known(t, mentions[0]))
	require.Error(t, known(t, mentions[1]))
	require.NoError(t, known(t, mentions[2]))
}

var (
	codeSpan    = regexp.MustCompile("`(?:bin/)?tenantry ([^`]+)`")
	programName = regexp.MustCompile(`(?:^|[\s(/])tenantry\s`)
)

// mentioned are the commands in code spans of sentences.
func mentioned(page string) (found [][]string) {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
			found = append(found, words(m[1]))
		}
	}
	return found
}

// commandLines are those of code blocks, each without the program's name.
func commandLines(page string) (found [][]string) {
	fenced := false
	for line := range strings.Lines(strings.ReplaceAll(page, "\\\n", " ")) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			continue
		}
		for _, at := range programName.FindAllStringIndex(line, -1) {
			if before, _, comment := strings.Cut(line, " # "); comment && at[0] >= len(before) {
				continue
			}
			found = append(found, words(line[at[1]:]))
		}
	}
	return found
}

// words are those of a shell's command up to its end, a pipe, a redirection or a comment.
func words(line string) (found []string) {
	var word strings.Builder
	var quote rune
	inWord := false
	end := func() {
		if inWord {
			found = append(found, word.String())
		}
		word.Reset()
		inWord = false
	}
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case strings.ContainsRune("|;&<>)", c), c == '#' && !inWord:
			end()
			return found
		case c == ' ' || c == '\t' || c == '\n':
			end()
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	end()
	return found
}
