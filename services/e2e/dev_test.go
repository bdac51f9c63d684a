package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestDevKeepsItsCompaniesFromStartToStart(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	sun := s.signUp("sun-valley")
	s.execute(sun, "INSERT INTO people (name) VALUES ($1)", "Neema")
	postgres := s.postgresPID()
	require.NoError(t, syscall.Kill(postgres, 0))

	s.stop()
	require.NoFileExists(t, filepath.Join(s.dir, "dev.env"), "who reads it must find a system that answers")
	require.ErrorIs(t, syscall.Kill(postgres, 0), syscall.ESRCH, "the database must end with the system")

	s.start()
	require.EqualValues(t, 1, s.execute(sun, "UPDATE people SET name = 'Juma' WHERE name = 'Neema'"))
}

func TestDevKilledWithNineHasAllItsCompaniesAfterwards(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	var companies []company
	for _, slug := range []string{"one", "two", "three"} {
		companies = append(companies, s.signUp(slug))
	}
	for _, c := range companies {
		s.execute(c, "INSERT INTO people (name) VALUES ($1)", c.slug)
	}

	s.kill()
	require.FileExists(t, filepath.Join(s.dir, "dev.env"), "a killed process cannot tidy up; the next one must")

	s.start()
	for _, c := range companies {
		require.EqualValues(t, 1, s.execute(c, "UPDATE people SET surname = 'here' WHERE name = $1", c.slug))
	}
}

func TestDevEnvTellsHowToReachEverything(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	for _, name := range []string{"TENANTRY_GATEWAY", "TENANTRY_REGISTRY", "TENANTRY_PROVISIONER"} {
		_, _, err := net.SplitHostPort(s.env[name])
		require.NoError(t, err, name)
	}
	for _, name := range []string{
		"TENANTRY_CA", "TENANTRY_OPERATOR_CERT", "TENANTRY_OPERATOR_KEY", "TENANTRY_SIGNUP_CERT", "TENANTRY_SIGNUP_KEY",
	} {
		require.True(t, filepath.IsAbs(s.env[name]), name)
		require.FileExists(t, s.env[name], name)
	}
	for name, database := range map[string]string{
		"TENANTRY_ADMIN_DSN": "postgres", "TENANTRY_REGISTRY_DSN": "micro_power_manager", "TENANTRY_PROVISIONER_DSN": "provisioner",
	} {
		require.True(t, strings.HasPrefix(s.env[name], "postgres://"), name)
		conn, err := pgx.Connect(t.Context(), s.env[name])
		require.NoError(t, err, name)
		var got string
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&got))
		require.Equal(t, database, got)
		require.NoError(t, conn.Close(t.Context()))
	}
	info, err := os.Stat(filepath.Join(s.dir, "dev.env"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds the administrator's password")
}

func TestDevLetsNobodyButTheAdministratorIntoDatabasesThatAreNotTenants(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.signUp("sun") // The provisioner closes a cluster before it makes its first database.
	conn, err := pgx.Connect(t.Context(), s.env["TENANTRY_ADMIN_DSN"])
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	_, err = conn.Exec(t.Context(), "CREATE ROLE somebody LOGIN")
	require.NoError(t, err)
	rows, err := conn.Query(t.Context(), "SELECT datname FROM pg_database WHERE datallowconn AND has_database_privilege('somebody', datname, 'CONNECT')")
	require.NoError(t, err)
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Empty(t, open)
}

func TestASecondDevOnOneDirectoryIsRefusedAndTheFirstGoesOn(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	got := runTenantry(t, nil, "dev", "--data", s.dir, "--ephemeral-ports")
	require.Equal(t, 2, got.code, got.errOut)
	require.Contains(t, got.errOut, "another `tenantry dev` runs on this data directory")
	require.FileExists(t, filepath.Join(s.dir, "dev.env"), "the first one's file is not the second one's to delete")
	require.Equal(t, 0, s.tenantry("status").code)
}

func TestDevTellsWhichPortIsTaken(t *testing.T) {
	t.Parallel()
	if l, err := net.Listen("tcp4", "127.0.0.1:7400"); err == nil {
		defer func() { require.NoError(t, l.Close()) }()
	} else {
		require.ErrorIs(t, err, syscall.EADDRINUSE, "else somebody holds it already, which does as well")
	}
	dir := filepath.Join(newDirectory(t), "data")
	got := runTenantry(t, nil, "dev", "--data", dir)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.errOut, "the gateway's address 127.0.0.1:7400 is taken")
	require.NoDirExists(t, filepath.Join(dir, "postgres"), "nothing may be begun that cannot be ended")
}

func TestDevEndsWithItsDatabase(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	require.NoError(t, syscall.Kill(s.postgresPID(), syscall.SIGKILL))
	require.Equal(t, 1, s.dev.wait(t))
	require.Contains(t, s.dev.output(), "the database ended by itself")
	s.dev.requireTidy(t)
	require.NoFileExists(t, filepath.Join(s.dir, "dev.env"))
}

func TestATemporaryDevLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "--temporary")
	postgres, err := filepath.EvalSymlinks(filepath.Join(s.dir, "postgres"))
	require.NoError(t, err)
	s.stop()
	require.NoDirExists(t, s.dir)
	require.NoDirExists(t, postgres)
}

func TestATemporaryDevDeletesNothingOfOthers(t *testing.T) {
	t.Parallel()
	dir := newDirectory(t)
	file := filepath.Join(dir, "thesis.tex")
	require.NoError(t, os.WriteFile(file, []byte("all my work"), 0o600))
	got := runTenantry(t, nil, "dev", "--data", dir, "--temporary", "--ephemeral-ports")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.errOut, "which holds something")
	require.FileExists(t, file)
}

func TestDevStoppedWhileItStartsLeavesNoProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(newDirectory(t), "data")
	dev := startProcess(t, nil, "dev", "--data", dir, "--ephemeral-ports")
	var postgres int
	require.Eventually(t, func() bool {
		// PostgreSQL makes the file first and writes it then.
		text, err := os.ReadFile(filepath.Join(dir, "postgres", "postmaster.pid"))
		if err == nil {
			_, err = fmt.Sscan(string(text), &postgres)
		}
		return err == nil
	}, patience, time.Millisecond)
	dev.terminate()
	dev.wait(t)
	require.NoFileExists(t, filepath.Join(dir, "dev.env"))
	require.ErrorIs(t, syscall.Kill(postgres, 0), syscall.ESRCH)
	dev.requireTidy(t)
}
