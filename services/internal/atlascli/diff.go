package atlascli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
)

// Diff returns the SQL that brings the tables of one database to those of another of the same server, both given by DSNs
// (URIs); empty when there is nothing to do. What matches exclude, in the CLI's patterns, is left out. The open CLI looks
// at schemas, tables, columns, indexes, constraints and enums. The SDK has no call for this command.
func (c *CLI) Diff(ctx context.Context, from, to string, exclude ...string) (string, error) {
	args := []string{"schema", "diff", "--format", "{{ sql . }}"}
	env := append(os.Environ(), "ATLAS_NO_UPDATE_NOTIFIER=true", "ATLAS_NO_UPGRADE_SUGGESTIONS=true")
	for i, dsn := range []string{from, to} {
		u, err := url.Parse(dsn)
		if err != nil {
			// The error of url.Parse repeats what it could not parse.
			return "", errors.New("atlas: the DSN is no URI")
		}
		if password, ok := u.User.Password(); ok {
			env = append(env, "PGPASSWORD="+password) // Other users of the machine can read the arguments.
			u.User = url.User(u.User.Username())
		}
		args = append(args, []string{"--from", "--to"}[i], u.String())
	}
	for _, pattern := range exclude {
		args = append(args, "--exclude", pattern)
	}
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", failed(ctx, "schema diff", fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String())))
	}
	return strings.TrimSpace(stdout.String()), nil
}
