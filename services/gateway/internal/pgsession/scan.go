package pgsession

import "strings"

// token is a word or a sign of a statement. Strings, numbers, parameters, white space and comments are left out, except
// that a string or number counts as a sign of its own, so that words are next to what they are next to.
type token struct {
	// word is in lower case when it is not quoted; empty for a sign.
	word   string
	quoted bool
	sign   byte
}

const literal = '\''

// scanner cuts SQL into tokens as PostgreSQL's lexer does, with standard_conforming_strings on.
type scanner struct {
	sql string
	at  int
	// odd means that there is something that this scanner does not read, such as U&"…": the text shows nothing.
	odd bool
}

func (s *scanner) next() (token, bool) {
	for s.at < len(s.sql) {
		c := s.sql[s.at]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			s.at++
		case c == '-' && strings.HasPrefix(s.sql[s.at:], "--"):
			if n := strings.IndexAny(s.sql[s.at:], "\r\n"); n >= 0 {
				s.at += n
			} else {
				s.at = len(s.sql)
			}
		case c == '/' && strings.HasPrefix(s.sql[s.at:], "/*"):
			s.comment()
		case c == '\'':
			s.text(false)
			return token{sign: literal}, true
		case c == '"':
			return token{word: s.name(), quoted: true}, true
		case c == '$':
			if !s.dollar() {
				s.at++
				s.digits()
			}
			return token{sign: literal}, true
		case c >= '0' && c <= '9':
			s.digits()
			return token{sign: literal}, true
		case starts(c):
			return s.word()
		default:
			s.at++
			return token{sign: c}, true
		}
	}
	return token{}, false
}

func starts(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func continues(c byte) bool { return starts(c) || c >= '0' && c <= '9' || c == '$' }

// comment skips a comment, which may hold others.
func (s *scanner) comment() {
	depth := 0
	for s.at < len(s.sql) {
		switch rest := s.sql[s.at:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			s.at += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			s.at += 2
			if depth == 0 {
				return
			}
		default:
			s.at++
		}
	}
}

// text skips a string from its opening quote on.
func (s *scanner) text(backslashes bool) {
	for s.at++; s.at < len(s.sql); s.at++ {
		switch {
		case backslashes && s.sql[s.at] == '\\':
			s.at++
		case s.sql[s.at] == '\'':
			if s.at+1 >= len(s.sql) || s.sql[s.at+1] != '\'' {
				s.at++
				return
			}
			s.at++
		}
	}
	s.at = len(s.sql)
}

// name reads a quoted identifier.
func (s *scanner) name() string {
	start := s.at + 1
	for s.at++; s.at < len(s.sql); s.at++ {
		if s.sql[s.at] != '"' {
			continue
		}
		if s.at+1 >= len(s.sql) || s.sql[s.at+1] != '"' {
			s.at++
			return strings.ReplaceAll(s.sql[start:s.at-1], `""`, `"`)
		}
		s.at++
	}
	s.at = len(s.sql)
	return s.sql[min(start, len(s.sql)):]
}

// dollar skips a string in dollar quotes, if one begins here.
func (s *scanner) dollar() bool {
	end := s.at + 1
	for end < len(s.sql) && s.sql[end] != '$' {
		if c := s.sql[end]; !continues(c) || end == s.at+1 && !starts(c) {
			return false
		}
		end++
	}
	if end >= len(s.sql) {
		return false
	}
	quote := s.sql[s.at : end+1]
	if n := strings.Index(s.sql[end+1:], quote); n >= 0 {
		s.at = end + 1 + n + len(quote)
	} else {
		s.at = len(s.sql)
	}
	return true
}

func (s *scanner) digits() {
	for s.at < len(s.sql) && (s.sql[s.at] >= '0' && s.sql[s.at] <= '9') {
		s.at++
	}
}

func (s *scanner) word() (token, bool) {
	start := s.at
	for s.at < len(s.sql) && continues(s.sql[s.at]) {
		s.at++
	}
	word := s.sql[start:s.at]
	if s.at < len(s.sql) && len(word) == 1 {
		next := s.sql[s.at]
		switch word[0] {
		case 'e', 'E', 'b', 'B', 'x', 'X', 'n', 'N':
			if next == '\'' {
				s.text(word[0] == 'e' || word[0] == 'E')
				return token{sign: literal}, true
			}
		case 'u', 'U':
			if rest := s.sql[s.at:]; strings.HasPrefix(rest, "&'") || strings.HasPrefix(rest, `&"`) {
				s.odd = true
			}
		}
	}
	return token{word: lower(word)}, true
}

// lower is strings.ToLower for ASCII, which is what keywords and PostgreSQL's own functions are.
func lower(word string) string {
	for i := range len(word) {
		if c := word[i]; c >= 'A' && c <= 'Z' {
			b := []byte(word)
			for ; i < len(b); i++ {
				if b[i] >= 'A' && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return word
}
