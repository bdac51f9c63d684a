// Command tenantry is all of Tenantry in one binary: the three services, a development server that runs them together,
// and the verbs with which an operator works on them. `tenantry --help` says more.
package main

import (
	"os"

	"github.com/tenantry/tenantry/services/cmd/tenantry/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
