package cli

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output is how a command line ended.
type output struct {
	code    int
	out     string
	problem string
}

// command runs a command line with these variables and nothing else in its environment.
func command(t *testing.T, variables map[string]string, args ...string) output {
	t.Helper()
	var out, problem strings.Builder
	streams := Streams{In: strings.NewReader(""), Out: &out, Err: &problem}
	code := run(context.WithoutCancel(t.Context()), args, streams, func(name string) string { return variables[name] })
	return output{code, out.String(), problem.String()}
}
