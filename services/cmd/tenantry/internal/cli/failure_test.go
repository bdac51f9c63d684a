package cli

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// overTheWire is an error as a client gets it.
func overTheWire(e *fault.Error) error { return e.GRPCStatus().Err() }

func TestExitCodesFollowFromErrors(t *testing.T) {
	t.Parallel()
	for want, errs := range map[int][]error{
		exitDone: {nil},
		exitRefused: {
			errors.New("anything"),
			overTheWire(fault.New(codes.NotFound, fault.CompanyNotFound, "no company")),
			// A server that answers is reached, however unavailable what stands behind it is.
			overTheWire(fault.New(codes.Unavailable, fault.DatabaseUnavailable, "the database is away")),
		},
		exitUsage:         {usagef("", "no such flag"), &hintedError{error: usagef("", "no such flag")}},
		exitTenantsFailed: {&tenantsFailedError{1, 2}, errors.Join(&tenantsFailedError{1, 2}, nil)},
		exitUnreachable:   {status.Error(codes.Unavailable, "connection error: desc = …")},
		exitInterrupted:   {errInterrupted},
	} {
		for _, err := range errs {
			require.Equal(t, want, exitCode(err), "%v", err)
		}
	}
}

func TestOnlyTheEndOfTheContextCountsAsInterrupted(t *testing.T) {
	t.Parallel()
	require.True(t, isCancelled(context.Canceled))
	require.True(t, isCancelled(status.Error(codes.Canceled, "context canceled")))
	require.False(t, isCancelled(nil))
	require.False(t, isCancelled(errors.New("PostgreSQL had to be killed")))
}

func TestAFailureTellsWhatWhereAndWhatNext(t *testing.T) {
	t.Parallel()
	wrong := fault.Invalid("owner.email", "got %q, want an e-mail", "x").With("field", "owner.email")
	wrong.Fields = append(wrong.Fields, fault.Field{Path: "company.slug", Description: "want a DNS label"})
	require.Equal(t, "tenantry: FIELD_INVALID: owner.email: got \"x\", want an e-mail\n  company.slug: want a DNS label",
		describe(overTheWire(wrong)).String())

	failed := fault.New(codes.FailedPrecondition, fault.MigrationFailed, "the tenant stays where it was").
		With("file", "2_x.sql").With("sqlstate", "42P07").With("statement", "CREATE TABLE x (\n  id int\n)").RetryIn(2 * time.Second)
	text := describe(overTheWire(failed)).String()
	for _, want := range []string{"MIGRATION_FAILED", "file: 2_x.sql", "sqlstate: 42P07", "statement: CREATE TABLE x (\n      id int", "Try again in 2s", "run the command again"} {
		require.Contains(t, text, want)
	}
}

func TestAFailureAsJSONHasWhatAProgramDecidesBy(t *testing.T) {
	t.Parallel()
	var errs strings.Builder
	a := &app{Streams: Streams{Err: &errs}, asked: true}
	require.Equal(t, exitRefused, a.fail(overTheWire(fault.New(codes.AlreadyExists, fault.SlugTaken, "the slug is taken").With("slug", "x"))))
	var got struct{ Error failure }
	require.NoError(t, json.Unmarshal([]byte(errs.String()), &got))
	require.Equal(t, failure{
		Code: "ALREADY_EXISTS", Reason: "SLUG_TAKEN", Message: "the slug is taken", Metadata: map[string]string{"slug": "x"},
		Hint: hints()[fault.SlugTaken], ExitCode: 1,
	}, got.Error)
}

func TestWhatThisProgramRanIntoIsToldInFull(t *testing.T) {
	t.Parallel()
	require.Equal(t, "tenantry: disk full", describe(errors.New("disk full")).String())
}
