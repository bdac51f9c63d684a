package pgsession

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// settleTimeout is how long a reset's answer may take where no call's own limit counts.
const settleTimeout = 2 * time.Second

// profileAfter is with which reset the profile is asked for. To make it costs PostgreSQL about as much as all else that a
// connection costs it at first, and it saves resets: where tenants take turns on few connections, most have few calls.
const profileAfter = 3

// owed is an answer that was not read yet.
type owed int

const (
	plain owed = iota
	// reset ends with a row that counts the prepared statements that are not the session's own.
	reset
	profiles
)

// resetQuery is DISCARD ALL without the session's own prepared statements and plans, and with the random numbers, which
// DISCARD ALL leaves as they were. It uses no operator and no name that a search path could turn into another's.
const resetQuery = "CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; " +
	"SELECT pg_catalog.pg_advisory_unlock_all(), pg_catalog.setseed(%.15f), (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements WHERE from_sql)"

// Dirty tells whether Reset has something to do.
func (s *Session) Dirty() bool {
	return s.left != nothing || s.exposed || s.tx != Idle || s.Broken()
}

// Reset takes away what the calls since the last one left: it sends what does so, and the next call reads how that went.
// It fails for a session that is broken or in the middle of something.
func (s *Session) Reset() error {
	if s.Broken() {
		return errors.Join(errInUse, s.broken)
	}
	if !s.Dirty() {
		return nil
	}
	send := func(sql string, what owed) {
		s.front.SendQuery(&pgproto3.Query{String: sql})
		s.owed = append(s.owed, what)
	}
	if s.tx != Idle || s.exposed && s.conn.TxStatus() != Idle {
		send("ROLLBACK", plain)
	}
	if s.left == anything || s.exposed {
		send("DISCARD ALL", plain)
		s.statements.clear()
	}
	if s.left != nothing || s.exposed {
		send(fmt.Sprintf(resetQuery, rand.Float64()), reset)
	}
	if s.resets++; !s.asked && s.resets >= profileAfter {
		send(profileSQL(), profiles)
		s.asked = true
	}
	s.left, s.exposed = nothing, false
	if err := s.conn.Conn().SetWriteDeadline(time.Now().Add(settleTimeout)); err != nil {
		return s.fail(err)
	}
	if err := s.front.Flush(); err != nil {
		return s.fail(err)
	}
	if err := s.conn.Conn().SetWriteDeadline(time.Time{}); err != nil {
		return s.fail(err)
	}
	return nil
}

// settle reads what the server said to what was sent by Reset.
func (s *Session) settle() error {
	var made profiler
	for at := 0; at < len(s.owed); {
		what := s.owed[at]
		message, err := s.front.Receive()
		if err != nil {
			return s.fail(err)
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			s.settleRow(what, m, &made)
		case *pgproto3.ErrorResponse:
			err := pgconn.ErrorResponseToPgError(m)
			if what != profiles || err.SeverityUnlocalized != "ERROR" {
				return s.fail(err)
			}
			made.loud = true // Who may not look cannot know.
		case *pgproto3.ReadyForQuery:
			if m.TxStatus != Idle {
				return s.fail(fmt.Errorf("pgsession: the transaction is %q after a reset", m.TxStatus))
			}
			s.tx = m.TxStatus
			if what == profiles {
				s.profile = made.profile()
			}
			at++
		}
	}
	s.owed = s.owed[:0]
	return nil
}

func (s *Session) settleRow(what owed, m *pgproto3.DataRow, made *profiler) {
	switch what {
	case reset:
		if len(m.Values) != 3 || string(m.Values[2]) != "0" {
			s.outdated = true
		}
	case profiles:
		if len(m.Values) == 4 {
			made.row(string(m.Values[0]), string(m.Values[1]), string(m.Values[2]), string(m.Values[3]))
		}
	case plain:
	}
}
