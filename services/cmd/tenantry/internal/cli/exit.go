package cli

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// Exit codes; the description in cli.go lists them for people.
const (
	exitDone          = 0
	exitRefused       = 1
	exitUsage         = 2
	exitTenantsFailed = 3
	exitUnreachable   = 4
	exitInterrupted   = 130
)

// errInterrupted says that the person who ran the command ended it.
var errInterrupted = errors.New("interrupted")

// usageError says that the command line or a setting is wrong; nothing was done.
type usageError struct {
	text string
	// hint is what to do next.
	hint string
}

func (e *usageError) Error() string { return e.text }

func usagef(hint, format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...), hint: hint}
}

// tenantsFailedError says that something was done to many tenants, and failed for some. Each was told of already.
type tenantsFailedError struct{ failed, total int32 }

func (e *tenantsFailedError) Error() string {
	return fmt.Sprintf("%d of %s failed", e.failed, plural(int(e.total), "tenant", "tenants"))
}

// findingsError says that a migration directory is not fit to be released. What was found was told already.
type findingsError struct{ text string }

func (e *findingsError) Error() string { return e.text }

// hintedError is an error for which the command knows better what to do next than its reason tells.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

func exitCode(err error) int {
	var usage *usageError
	var tenants *tenantsFailedError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &tenants):
		return exitTenantsFailed
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case isUnreachable(err):
		return exitUnreachable
	default:
		return exitRefused
	}
}

// isUnreachable tells whether no server of ours answered: one that does gives a reason of its own.
func isUnreachable(err error) bool {
	f := fault.From(err)
	return f.Code == codes.Unavailable && f.Reason == fault.Unavailable
}

// isCancelled tells whether an error is no more than the end of what was asked for.
func isCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || err != nil && fault.From(err).Code == codes.Canceled
}
