// Package pgsession runs statements on one connection to PostgreSQL, each in one round trip, with prepared statements
// that the connection keeps; and sees to it that what one call leaves in the session is gone before the next.
//
// What a call may leave is decided by its text, before PostgreSQL's own messages (command tags, the transaction's status,
// changed parameters, notifications) have a second say. A statement is clean when it only reads and calls nothing but
// functions that are known to leave nothing; every other one has the session reset after it. A reset is sent, not waited
// for: PostgreSQL works on it while the caller already has the answer, so that locks and channels are let go at once,
// and what it says is read before the connection's next statement. It keeps the prepared statements.
//
// What a text cannot show is what it calls by way of the schema: views, policies, operators, functions of the tenant's own.
// So a connection that is used more than a few times asks once what there is (the profile). Until it knows, and where
// something of it could leave something behind, no statement on that database is clean. Writes never are, as triggers may
// do anything.
//
// Statements that could look at prepared statements or put others in their place (DO, EXECUTE, PREPARE, functions that run
// SQL they are given) run when there are none, and all are forgotten after them.
//
// It is not for keeping connections (package conns), nor for saying what a caller may send (package sqlapi).
package pgsession
