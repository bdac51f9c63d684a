package main

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/tenantry/tenantry/bench/harness"
)

// bouncerRole is the one login role of all PgBouncer's server connections. PgBouncer has no limit for a server: those it
// has are for a database and for a role. So one role for all tenants is the only way to hold it to 100 in all; it costs
// PgBouncer's users the isolation by role that tenants have through the gateway, and spares PgBouncer 2,000 passwords.
const bouncerRole = "bench_bouncer"

// The gateway's own limits for one tenant, and what it spends on a password, for the peer, too.
const (
	perTenant       = 16
	scramIterations = 16
)

// bouncerConf lets every client in without a password and without TLS, which the gateway's callers have: what it
// answers is a lower bound of what it costs.
const bouncerConf = `[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = %d
max_db_connections = %d
max_user_connections = %d
max_client_conn = 8000
query_wait_timeout = %d
server_idle_timeout = 300
server_login_retry = 1
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
stats_period = 600
`

func (r *rig) startBouncer(ctx context.Context, tenants []tenant) (*bouncer, error) {
	password := rand.Text()
	verifier, err := scramVerifier(password)
	if err != nil {
		return nil, err
	}
	for _, sql := range []string{"DROP ROLE IF EXISTS " + bouncerRole, "CREATE ROLE " + bouncerRole + " LOGIN SUPERUSER PASSWORD '" + verifier + "'"} {
		if _, err := r.system.Admin.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	admin, err := url.Parse(r.system.Env["TENANTRY_ADMIN_DSN"])
	if err != nil {
		return nil, err
	}
	b := &bouncer{tenants: tenants, idle: make([][]*pgx.Conn, len(tenants))}
	if b.address, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(b.address)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.system.Dir, "pgbouncer")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "pgbouncer.ini")
	// A role in the entry of a database instead would be counted for each database by itself.
	users := filepath.Join(dir, "userlist.txt")
	if err := os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", bouncerRole, password), 0o600); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(bouncerConf, admin.Hostname(), admin.Port(), port, users, perTenant, perTenant, budget, int(callWithin.Seconds()))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	args := []string{path}
	if os.Getuid() == 0 {
		args = []string{"-u", "nobody", path} // It refuses to run as root.
	}
	program, err := harness.Find("pgbouncer")
	if err != nil {
		return nil, err
	}
	if b.child, err = spawn(r.log("pgbouncer"), program, nil, args...); err != nil {
		return nil, err
	}
	if err := b.await(ctx, listens(b.address)); err != nil {
		return nil, err
	}
	if err := b.call(ctx, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("PgBouncer: %w\n%s", err, b.said()), b.stop())
	}
	return b, nil
}

// scramVerifier is what PostgreSQL keeps of a password (RFC 5802), with as few iterations as the gateway's roles have.
func scramVerifier(password string) (string, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // It never fails.
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return "", err
	}
	sign := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		_, _ = h.Write([]byte(text)) // It never fails.
		return h.Sum(nil)
	}
	stored := sha256.Sum256(sign("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, b64(salt), b64(stored[:]), b64(sign("Server Key"))), nil
}
