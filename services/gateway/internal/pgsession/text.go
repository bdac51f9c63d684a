package pgsession

import "strings"

// Text is a statement and what its text shows. Make it with Inspect.
type Text struct {
	sql   string
	trace trace
	// called are the functions that are not among the known ones.
	called []string
	first  string

	opens, ends, copies, copiesIn, returns bool
}

// trace is what a statement may leave in the session.
type trace int

const (
	// nothing is left.
	nothing trace = iota
	// something may be left, but the prepared statements are as they were.
	something
	// anything may have been done to the prepared statements, too, or they may be looked at.
	anything
)

// SQL is the statement.
func (t Text) SQL() string { return t.sql }

// Opens tells whether the statement opens a transaction.
func (t Text) Opens() bool { return t.opens }

// Ends tells whether the statement ends a transaction.
func (t Text) Ends() bool { return t.ends }

// CopiesIn tells whether the statement is a COPY that takes its rows from the client.
func (t Text) CopiesIn() bool { return t.copiesIn }

// Reads tells whether the statement only reads, for certain.
func (t Text) Reads() bool { return t.trace == nothing }

// ReturnsRows tells whether the statement may return rows.
func (t Text) ReturnsRows() bool { return t.returns }

// Inspect reads a statement's text.
func Inspect(sql string) Text {
	t := Text{sql: sql}
	s := scanner{sql: sql}
	var last, lead token // last is the token before this one; lead the one before the name that last ends, with its schema
	second := ""
	count := 0
	for tok, ok := s.next(); ok; tok, ok = s.next() {
		if count == 0 && tok.sign == ';' {
			continue // PostgreSQL leaves out the empty statement before this one.
		}
		count++
		switch count {
		case 1:
			t.start(tok)
		case 2:
			second = tok.word
		}
		if tok.sign == '(' && last.word != "" {
			t.call(last, lead)
		}
		if tok.word != "" && !tok.quoted {
			t.keyword(tok.word, last)
		}
		if strings.HasPrefix(tok.word, "pg_prepared_statement") {
			t.raise(anything)
		}
		if last.sign != '.' {
			lead = last
		} else if tok.word == "" {
			lead = token{}
		}
		last = tok
	}
	t.finish(second)
	if s.odd {
		t.raise(anything)
	}
	return t
}

func (t *Text) raise(to trace) { t.trace = max(t.trace, to) }

// start looks at the first token.
func (t *Text) start(tok token) {
	t.first = tok.word
	switch tok.word {
	case "select", "with", "values", "table", "show":
		t.returns = true
	case "do", "call", "prepare", "execute", "deallocate", "discard", "explain":
		t.raise(anything)
		t.returns = true
	case "insert", "update", "delete", "merge":
		t.raise(something)
	case "copy":
		t.copies = true
		t.raise(something)
	case "begin", "start":
		t.opens = true
		t.raise(something)
	case "":
		t.returns = true
		if tok.sign != '(' {
			t.raise(something)
		}
	default:
		t.raise(something)
		t.returns = true
	}
}

// finish looks at what the first two words say of transactions. ROLLBACK TO ends none.
func (t *Text) finish(second string) {
	switch t.first {
	case "commit", "end", "abort":
		t.ends = true
	case "rollback":
		t.ends = second != "to" && !strings.Contains(lower(t.sql), "savepoint") && !t.rollsBackTo()
	case "prepare":
		t.ends = second == "transaction"
	}
}

// rollsBackTo knows ROLLBACK WORK TO s and ROLLBACK TRANSACTION TO s.
func (t *Text) rollsBackTo() bool {
	s := scanner{sql: t.sql}
	for tok, ok := s.next(); ok; tok, ok = s.next() {
		if tok.word == "to" && !tok.quoted {
			return true
		}
	}
	return false
}

// keyword looks at a word that is not quoted.
func (t *Text) keyword(word string, last token) {
	switch word {
	case "insert", "delete", "merge", "into":
		t.raise(something)
	case "update":
		// FOR UPDATE and FOR NO KEY UPDATE lock rows until the transaction ends, and that is all.
		if last.word != "for" && last.word != "key" {
			t.raise(something)
		}
	case "execute":
		t.raise(anything)
	case "returning":
		t.returns = true
	case "stdin":
		t.copiesIn = t.copies && last.word == "from"
	}
}

// call looks at a word that is followed by a parenthesis.
func (t *Text) call(name, before token) {
	if !name.quoted && notCalls[name.word] {
		return
	}
	switch before.word {
	case "as", "with", "recursive", "into":
		if !before.quoted {
			return // a name, with names of its columns
		}
	}
	switch {
	case harmless[name.word]:
	case resettable[name.word]:
		t.raise(something)
	default:
		t.called = append(t.called, name.word)
	}
}

// leaves is what the statement may leave in a session on a database of this profile.
func (t *Text) leaves(p *profile) trace {
	left := t.trace
	if !p.quiet() {
		left = max(left, something)
	}
	for _, name := range t.called {
		if !p.defines(name) {
			return anything
		}
	}
	return left
}
