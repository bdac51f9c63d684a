// Package cli is the command line of Tenantry: it reads arguments, calls the services over gRPC as any client would, and
// prints what they answer, for people or as JSON. It decides nothing that a service decides.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// Streams are the process's own.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// root is the command line. Fields are commands and flags; tags are their help.
type root struct {
	JSON    *bool            `name:"json" negatable:"" group:"global" help:"Print JSON, one object per line. Default: yes, unless standard output is a terminal."`
	Env     string           `name:"env" type:"path" placeholder:"FILE" env:"TENANTRY_ENV" group:"global" help:"File of TENANTRY_… variables to use where the environment has none. Default: .tenantry/dev.env here or in the nearest directory above."`
	Timeout time.Duration    `name:"timeout" placeholder:"DURATION" group:"global" help:"Give up after this long, such as 30s. Default: never."`
	Version kong.VersionFlag `name:"version" group:"global" help:"Print the version."`

	Dev         devCmd         `cmd:"" group:"run" help:"Run everything on this machine, with a private PostgreSQL."`
	Registry    registryCmd    `cmd:"" group:"run" help:"Run the registry: companies, logins, routes."`
	Provisioner provisionerCmd `cmd:"" group:"run" help:"Run the provisioner: makes and migrates tenant databases."`
	Gateway     gatewayCmd     `cmd:"" group:"run" help:"Run the gateway: SQL and calls for each tenant."`
	Health      healthCmd      `cmd:"" group:"run" help:"Ask one server whether it is healthy."`

	Company         companyCmd         `cmd:"" group:"tenants" help:"Sign up, list, show, suspend and resume companies."`
	Status          statusCmd          `cmd:"" group:"tenants" help:"Tell how the system, or one tenant, is."`
	Tenant          tenantCmd          `cmd:"" group:"tenants" help:"Delete, undelete, back up, restore and clone tenants."`
	Plugin          pluginCmd          `cmd:"" group:"tenants" help:"List, install and uninstall plugins."`
	Cluster         clusterCmd         `cmd:"" group:"tenants" help:"Register, list, drain, undrain and remove PostgreSQL servers."`
	RotatePasswords rotatePasswordsCmd `cmd:"" name:"rotate-passwords" group:"tenants" help:"Give tenants' roles new passwords."`
	Drift           driftCmd           `cmd:"" group:"tenants" help:"Compare tenants' schemas with their migrations."`
	Audit           auditCmd           `cmd:"" group:"tenants" help:"List who did what."`
	Doctor          doctorCmd          `cmd:"" group:"tenants" help:"Find what does not belong together, and mend what is safe."`

	Login  loginCmd  `cmd:"" group:"data" help:"Log in as a company's user."`
	Logout logoutCmd `cmd:"" group:"data" help:"End the session that login opened."`
	SQL    sqlCmd    `cmd:"" name:"sql" group:"data" help:"Run one SQL statement on a tenant's own database, or read many tenants'."`

	Migrate       migrateCmd       `cmd:"" group:"migrations" help:"Migrate the services' own databases, then all tenants."`
	MigrateTenant migrateTenantCmd `cmd:"" group:"migrations" help:"Migrate one tenant."`
	Rollout       rolloutCmd       `cmd:"" group:"migrations" help:"Start, watch, pause, resume, cancel, retry and list rollouts."`
	Migration     migrationCmd     `cmd:"" group:"migrations" help:"Write migration files: new, hash, lint."`

	Certificate certificateCmd `cmd:"" group:"secrets" help:"Issue certificates of a development authority."`
	Key         keyCmd         `cmd:"" group:"secrets" help:"Make signing keys and master keys."`
}

const description = `One PostgreSQL database per company, without the company's application having to know.

Begin with "tenantry dev" in one terminal. In another, in the same directory:

    tenantry company create "Sun Valley" --owner-email ada@sunvalley.example
    tenantry sql sun-valley "SELECT count(*) FROM people"
    tenantry status

Verbs find the services by the variables TENANTRY_GATEWAY, TENANTRY_REGISTRY and TENANTRY_PROVISIONER (host:port), TENANTRY_CA, TENANTRY_OPERATOR_CERT and TENANTRY_OPERATOR_KEY, TENANTRY_SIGNUP_CERT and TENANTRY_SIGNUP_KEY (files); for those that are not set, by the dev.env that "tenantry dev" writes.

Exit codes:

    0    done
    1    the answer was an error
    2    the command line or a setting is wrong; nothing was done
    3    it failed for some tenants; for the others it is done
    4    a server could not be reached
    130  interrupted`

func groups() []kong.Group {
	return []kong.Group{
		{Key: "run", Title: "Run:"},
		{Key: "tenants", Title: "Companies and their databases:"},
		{Key: "data", Title: "Data:"},
		{Key: "migrations", Title: "Migrations:"},
		{Key: "secrets", Title: "Certificates and keys:"},
		{Key: "global", Title: "Flags of every command:"},
	}
}

// Main runs one command line and returns the process's exit code. SIGINT and SIGTERM end the command in order.
func Main(args []string, streams Streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, streams, os.Getenv)
}

// finished carries kong's wish to exit, after --help or --version, out of the parser.
type finished struct{ code int }

func run(ctx context.Context, args []string, streams Streams, getenv func(string) string) (code int) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(finished)
			if !ok {
				panic(r)
			}
			code = f.code
		}
	}()
	var r root
	parser, err := kong.New(&r,
		kong.Name("tenantry"),
		kong.Description(description),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 110}),
		kong.ExplicitGroups(groups()),
		kong.Writers(streams.Out, streams.Err),
		kong.Exit(func(code int) { panic(finished{code}) }),
		kong.Vars{"version": version()},
	)
	if err != nil {
		_, _ = fmt.Fprintln(streams.Err, "tenantry:", err)
		return exitRefused
	}
	command, err := parser.Parse(args)
	if err != nil {
		return (&app{Streams: streams}).fail(wrongUsage(err))
	}
	a := newApp(r, streams, getenv)
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	command.BindTo(ctx, (*context.Context)(nil))
	err = command.Run(a)
	if ctx.Err() != nil && isCancelled(err) {
		err = errInterrupted
	}
	return a.fail(err)
}

// wrongUsage is kong's complaint with the way to the help of the command that it is about.
func wrongUsage(err error) error {
	about := "tenantry"
	if parse := (*kong.ParseError)(nil); errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		about = parse.Context.Selected().FullPath()
	}
	return &usageError{text: err.Error(), hint: fmt.Sprintf("`%s --help` shows how, with an example.", about)}
}

// version is that of the module, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "tenantry (unknown version)"
	}
	commit := ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			commit = " " + s.Value
		}
	}
	return fmt.Sprintf("tenantry %s%s %s", info.Main.Version, commit, info.GoVersion)
}
