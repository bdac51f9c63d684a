package cli

import (
	"context"
	"path/filepath"

	"github.com/tenantry/tenantry/services/internal/pki"
)

// certificateCmd is `tenantry certificate`.
type certificateCmd struct {
	Issue certificateIssueCmd `cmd:"" help:"Issue a certificate of a development authority."`
}

// certificateIssueCmd is `tenantry certificate issue`.
type certificateIssueCmd struct {
	Name string   `arg:"" help:"Whose it is: service/registry, service/provisioner, service/gateway, operator/NAME, signup/NAME or upstream/NAME."`
	Host []string `name:"host" placeholder:"HOST" help:"Name or address that it answers at. Repeatable; none for one that only calls."`
	Dir  string   `name:"dir" type:"path" default:".tenantry/certificates" placeholder:"DIR" help:"Directory of the authority and its certificates; the authority is made where there is none. Default: ${default}."`
}

// Help is the long help.
func (certificateIssueCmd) Help() string {
	return `Services know each other by the name in the certificate's URI SAN, spiffe://tenantry/NAME. For production have an authority of your own write the same names. A certificate that is there and good is kept, so the command may be repeated.

Example:

    tenantry certificate issue upstream/readings --host localhost --host 127.0.0.1
    tenantry certificate issue operator/ada`
}

// Run issues.
func (c *certificateIssueCmd) Run(_ context.Context, a *app) error {
	authority, err := pki.Open(c.Dir)
	if err != nil {
		return err
	}
	files, err := authority.Issue(c.Name, c.Host...)
	if err != nil {
		return usagef("`tenantry certificate issue --help` lists the names.", "%v", err)
	}
	ca, err := filepath.Abs(authority.CA())
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{"ca": ca, "cert": files.Cert, "key": files.Key})
	}
	return a.printFields([][2]string{{"authority", ca}, {"certificate", files.Cert}, {"key", files.Key}})
}
