package pgsession

import (
	"container/list"
	"encoding/binary"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxStatements and maxStatementBytes bound what a connection keeps prepared. PostgreSQL has a plan for each.
	maxStatements     = 128
	maxStatementBytes = 256 << 10
	// maxStatementText is the longest statement that is worth keeping.
	maxStatementText = 16 << 10
)

// key is what makes two statements the same one.
type key struct {
	sql string
	// types are the parameters' type OIDs, as bytes.
	types string
}

func keyOf(sql string, types []uint32) key {
	k := key{sql: sql}
	if len(types) > 0 {
		b := make([]byte, 0, 4*len(types))
		for _, t := range types {
			b = binary.BigEndian.AppendUint32(b, t)
		}
		k.types = string(b)
	}
	return k
}

// prepared is a statement that the connection has, or is about to have.
type prepared struct {
	key     key
	name    string // empty for one that is not kept
	there   bool   // PostgreSQL said so
	columns []pgconn.FieldDescription
	element *list.Element
	used    uint64 // the run that used it last
	sent    uint64 // the run that sent it to be made
}

// statements are the prepared statements of a connection, the least recently used of which make room.
type statements struct {
	byKey map[key]*prepared
	order *list.List // of *prepared, the most recently used first
	bytes int
	made  uint64 // names ever given
}

func newStatements() statements { return statements{byKey: map[key]*prepared{}, order: list.New()} }

// get returns the statement, new if need be, and the names of those that had to go for it. What the same run uses does
// not go: if there is nothing else, the statement is not kept.
func (s *statements) get(k key, run uint64) (p *prepared, gone []string) {
	if p, ok := s.byKey[k]; ok {
		s.order.MoveToFront(p.element)
		p.used = run
		return p, nil
	}
	p = &prepared{key: k, used: run}
	size := len(k.sql) + len(k.types)
	if size > maxStatementText {
		return p, nil
	}
	for len(s.byKey) >= maxStatements || s.bytes+size > maxStatementBytes {
		last := s.order.Back().Value.(*prepared)
		if last.used == run {
			return p, gone
		}
		gone = append(gone, last.name)
		s.remove(last)
	}
	s.made++
	p.name = "tenantry_" + strconv.FormatUint(s.made, 10)
	s.byKey[k] = p
	s.bytes += size
	p.element = s.order.PushFront(p)
	return p, gone
}

func (s *statements) remove(p *prepared) {
	if p.element == nil {
		return
	}
	s.order.Remove(p.element)
	p.element = nil
	delete(s.byKey, p.key)
	s.bytes -= len(p.key.sql) + len(p.key.types)
}

// clear forgets all. Names are never given twice.
func (s *statements) clear() {
	for _, p := range s.byKey {
		p.element = nil
	}
	clear(s.byKey)
	s.order.Init()
	s.bytes = 0
}
