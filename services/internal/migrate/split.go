package migrate

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// statement is one SQL statement of a file.
type statement struct {
	// text is what is sent, with the semicolon and without the comments before it: what the CLI hashes.
	text string
	// tokens are the text's words, marks and quoted parts without comments, with one space between, such as
	// `CREATE INDEX i ON "A b" ( x ) ;`. Strings are only ”, as their content says nothing about the statement's kind.
	tokens string
}

// Statements are the statements of a text in PostgreSQL's dialect, without the comments before them.
func Statements(text string) ([]string, error) {
	found, err := split(text, "")
	out := make([]string, len(found))
	for i, s := range found {
		out[i] = s.text
	}
	return out, err
}

// split returns the statements of a text in PostgreSQL's dialect, by the rules of its own lexer and of psql, see
// src/backend/parser/scan.l and src/fe_utils/psqlscan.l: a delimiter counts outside of quotes, comments, parentheses and
// the BEGIN ATOMIC … END of a function's body. An empty delimiter means the semicolon, which stays a part of the
// statement; another does not, and bodies need no care then.
//
// The splitters of Atlas's versions differ from PostgreSQL in E” strings, nested comments and identifiers with a $.
// Where they do not, this gives the same statements, so that hashes of files applied in part are the same.
func split(text, delimiter string) ([]statement, error) {
	s := &splitter{text: text, delimiter: ";", sql: true}
	if delimiter != "" && delimiter != ";" {
		s.delimiter, s.sql = delimiter, false
	}
	s.begin()
	for s.pos < len(s.text) {
		if s.depth == 0 && s.body == 0 && strings.HasPrefix(s.text[s.pos:], s.delimiter) {
			s.end()
			continue
		}
		if err := s.token(); err != nil {
			return nil, err
		}
	}
	switch {
	case s.depth > 0:
		return nil, s.unclosed("(", s.opened)
	case s.body > 0:
		return nil, s.unclosed("BEGIN ATOMIC", s.opened)
	case s.start >= 0:
		s.delimiter = ""
		s.end()
	}
	return s.out, nil
}

type splitter struct {
	text, delimiter string
	sql             bool // the delimiter is the semicolon
	out             []statement

	pos    int
	start  int // of the statement's text; -1 before it
	tokens []string
	depth  int // of parentheses
	body   int // of BEGIN ATOMIC and the CASEs in it
	opened int // where the outermost of these began
}

func (s *splitter) begin() { s.start, s.tokens = -1, nil }

// end takes the statement that ends here, and its delimiter.
func (s *splitter) end() {
	if s.start < 0 {
		s.start = s.pos
	}
	text := s.text[s.start:s.pos]
	s.pos += len(s.delimiter)
	if s.sql {
		text = s.text[s.start:s.pos]
		if s.delimiter != "" {
			s.tokens = append(s.tokens, s.delimiter)
		}
	}
	s.out = append(s.out, statement{strings.TrimSpace(text), strings.Join(s.tokens, " ")})
	s.begin()
}

// add takes what reaches to end as one token.
func (s *splitter) add(end int, token string) {
	if s.start < 0 {
		s.start = s.pos
	}
	s.tokens = append(s.tokens, token)
	s.pos = end
}

// dollar opens a string: https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-DOLLAR-QUOTING.
var dollar = regexp.MustCompile(`^\$(?:[A-Za-z_\x{80}-\x{10FFFF}][A-Za-z0-9_\x{80}-\x{10FFFF}]*)?\$`)

func (s *splitter) token() error {
	rest := s.text[s.pos:]
	switch c := rest[0]; {
	case strings.IndexByte(" \t\n\r\f\v", c) >= 0:
		s.pos++
	case strings.HasPrefix(rest, "\ufeff"): // A byte order mark.
		s.pos += len("\ufeff")
	case strings.HasPrefix(rest, "--"):
		if i := strings.IndexByte(rest, '\n'); i >= 0 {
			s.pos += i + 1
		} else {
			s.pos = len(s.text)
		}
	case strings.HasPrefix(rest, "/*"):
		return s.comment()
	case c == '\'':
		return s.quoted('\'', false)
	case c == '"':
		return s.quoted('"', false)
	case (c == 'E' || c == 'e') && strings.HasPrefix(rest[1:], "'"):
		if s.start < 0 {
			s.start = s.pos
		}
		s.pos++
		return s.quoted('\'', true)
	case c == '$' && dollar.MatchString(rest):
		quote := dollar.FindString(rest)
		i := strings.Index(rest[len(quote):], quote)
		if i < 0 {
			return s.unclosed(quote, s.pos)
		}
		s.add(s.pos+i+2*len(quote), "''")
	case inWord(c, false):
		end := s.pos + 1
		for end < len(s.text) && inWord(s.text[end], true) {
			end++
		}
		s.word(s.text[s.pos:end])
		s.add(end, s.text[s.pos:end])
	case c == '(':
		if s.depth == 0 && s.body == 0 {
			s.opened = s.pos
		}
		s.depth++
		s.add(s.pos+1, "(")
	case c == ')':
		if s.depth == 0 {
			return s.fail(s.pos, "unexpected )")
		}
		s.depth--
		s.add(s.pos+1, ")")
	default:
		_, size := utf8.DecodeRuneInString(rest)
		s.add(s.pos+size, rest[:size])
	}
	return nil
}

// inWord tells whether a byte belongs to a name or number; a $ and digits do not begin a name.
func inWord(c byte, inside bool) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80 || inside && (c == '$' || c >= '0' && c <= '9')
}

// word follows BEGIN ATOMIC, which holds statements with semicolons: CASE and END are paired in it.
func (s *splitter) word(word string) {
	if !s.sql || s.depth > 0 {
		return
	}
	last := ""
	if len(s.tokens) > 0 {
		last = s.tokens[len(s.tokens)-1]
	}
	switch {
	case s.body == 0 && strings.EqualFold(word, "ATOMIC") && strings.EqualFold(last, "BEGIN"):
		s.body, s.opened = 1, s.pos
	case s.body > 0 && strings.EqualFold(word, "CASE"):
		s.body++
	case s.body > 0 && strings.EqualFold(word, "END"):
		s.body--
	}
}

func (s *splitter) quoted(quote byte, escapes bool) error {
	for i := s.pos + 1; i < len(s.text); i++ {
		switch {
		case escapes && s.text[i] == '\\':
			i++
		case s.text[i] != quote:
		case i+1 < len(s.text) && s.text[i+1] == quote:
			i++
		default:
			token := "''"
			if quote == '"' {
				token = s.text[s.pos : i+1]
			}
			s.add(i+1, token)
			return nil
		}
	}
	return s.unclosed(string(quote), s.pos)
}

// comment skips a comment and those within it.
func (s *splitter) comment() error {
	for i, depth := s.pos, 0; i < len(s.text); {
		switch {
		case strings.HasPrefix(s.text[i:], "/*"):
			depth++
			i += 2
		case strings.HasPrefix(s.text[i:], "*/"):
			depth--
			i += 2
		default:
			i++
		}
		if depth == 0 {
			s.pos = i
			return nil
		}
	}
	return s.unclosed("/*", s.pos)
}

func (s *splitter) unclosed(what string, at int) error { return s.fail(at, "unclosed "+what) }

func (s *splitter) fail(at int, message string) error {
	before := s.text[:at]
	line := 1 + strings.Count(before, "\n")
	column := 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
	return fmt.Errorf("line %d, column %d: %s", line, column, message)
}

// What statements are, by their tokens.
var (
	// control begins or ends a transaction. In a file that is one transaction this would leave half of it applied.
	control = regexp.MustCompile(`(?i)^((BEGIN|START TRANSACTION|COMMIT|END|ABORT|PREPARE TRANSACTION)\b|ROLLBACK( WORK| TRANSACTION)?( AND .*)?( ;)?$)`)
	// fromClient exchanges rows with a client, which a migration has not.
	fromClient = regexp.MustCompile(`(?i)^COPY .*\b(FROM STDIN|TO STDOUT)\b`)
	// building makes an index while the table is in use: its name, which may be missing, and its table.
	building = regexp.MustCompile(`(?i)^CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:(?:IF NOT EXISTS )?((?:"(?:[^"]|"")*"|\S)+) )??ON (?:ONLY )?((?:"(?:[^"]|"")*"|[^ "])+(?: \. (?:"(?:[^"]|"")*"|[^ "])+)?)`)
)
