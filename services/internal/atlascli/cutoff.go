package atlascli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// cutOffText is how the CLI, its driver and PostgreSQL say that a connection could not be made or is gone. The texts are
// all there is: the CLI hands on no SQLSTATE. Those of PostgreSQL are known where its lc_messages are English.
var cutOffText = regexp.MustCompile(`connection refused|connection reset by peer|broken pipe|i/o timeout|unexpected EOF|bad connection|` +
	`pq: (terminating connection|the database system is |sorry, too many clients|remaining connection slots)`)

// failed makes the error of a command that failed: the end of its context; UNAVAILABLE `ATLAS_CUT_OFF` when the program
// could not be started, was killed, or had no connection, after which another try may well succeed; else what it said.
func failed(ctx context.Context, command string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("atlas %s: %w", command, ctx.Err())
	}
	var exit *exec.ExitError
	var start *fs.PathError
	var system *os.SyscallError
	if errors.As(err, &exit) && !exit.Exited() || errors.As(err, &start) || errors.As(err, &system) {
		return cutOff(fmt.Errorf("atlas %s: %w: %w", command, err, errors.Unwrap(err))) // The SDK's error is what was printed, which is nothing.
	}
	return reported(command, err)
}

// reported makes the error of a failure that a command tells of.
func reported(command string, err error) error {
	said := fmt.Errorf("atlas %s: %w", command, err)
	if cutOffText.MatchString(err.Error()) {
		return cutOff(said)
	}
	return said
}

func cutOff(err error) error {
	return fault.New(codes.Unavailable, fault.AtlasCutOff, "the Atlas command line was cut off from the database, or ended").RetryIn(time.Second).Because(err)
}
