package cli

import (
	"context"
	"strings"
	"time"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// companyCreateCmd is `tenantry company create`.
type companyCreateCmd struct {
	Name          string   `arg:"" help:"What the company calls itself."`
	OwnerEmail    string   `name:"owner-email" required:"" placeholder:"EMAIL" help:"E-mail that its first user logs in with."`
	OwnerName     string   `name:"owner-name" placeholder:"NAME" help:"That person's name. Default: what stands before the @ of the e-mail."`
	PasswordStdin bool     `name:"password-stdin" help:"Read the owner's password from standard input. Otherwise it is that of TENANTRY_PASSWORD, or what is typed at the prompt on a terminal, or none."`
	Slug          string   `name:"slug" placeholder:"LABEL" help:"Short name for addresses and commands, a DNS label. Default: made from the name."`
	Email         string   `name:"email" placeholder:"EMAIL" help:"Where the company is written to."`
	Phone         string   `name:"phone" placeholder:"TEXT" help:"Its telephone."`
	Address       string   `name:"address" placeholder:"TEXT" help:"Its postal address."`
	Country       string   `name:"country" placeholder:"CODE" help:"Its country, such as TZ (ISO 3166-1 alpha-2)."`
	UsageType     string   `name:"usage-type" placeholder:"NAME" help:"What it uses the product for, such as mini-grid."`
	Plugin        []string `name:"plugin" placeholder:"NAME" help:"Plugin to install. Repeatable."`
	Cluster       string   `name:"cluster" placeholder:"NAME" help:"Cluster to place it on. Default: the system chooses."`
	RequestID     string   `name:"request-id" placeholder:"ID" help:"Id of the signup: repeating it repeats the same signup. Default: a new one, which is printed."`
}

// Help is the long help.
func (companyCreateCmd) Help() string {
	return `When it is done, the company has its own database with the whole schema, and its owner can log in. A signup that is cut off is repeated with the same request id until it is known how it ended; running the command again with that --request-id never makes a second company.

Example:

    tenantry company create "Sun Valley" --owner-email ada@sunvalley.example --plugin paystack-payment-provider
    TENANTRY_PASSWORD=… tenantry company create "Sun Valley" --owner-email ada@sunvalley.example --json`
}

// patience is how long a signup is repeated while the provisioner cannot be reached or is still at it.
const patience = 2 * time.Minute

// Run signs the company up.
func (c *companyCreateCmd) Run(ctx context.Context, a *app) error {
	password, err := c.password(a)
	if err != nil {
		return err
	}
	role := signupRole
	if has, err := a.has(signupRole); err != nil {
		return err
	} else if !has {
		role = operatorRole
	}
	conn, err := a.connect(provisionerAddress, role)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	if c.RequestID == "" {
		c.RequestID = newRequestID()
		a.notef("request id %s", c.RequestID)
	}
	got, err := c.insist(ctx, a, provisionerv1.NewProvisionerServiceClient(conn), c.request(password))
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(got)
	}
	return a.printFields([][2]string{
		{"id", got.GetCompanyId()},
		{"slug", got.GetSlug()},
		{"state", stateName(got.GetState(), statePrefix)},
		{"schema", got.GetSchemaVersion()},
	})
}

func (c *companyCreateCmd) password(a *app) (string, error) {
	switch {
	case c.PasswordStdin:
		return a.passwordLine()
	case a.settings.getenv(passwordVariable) != "":
		return a.settings.getenv(passwordVariable), nil
	case isTerminal(a.In):
		return a.prompt("Password of " + c.OwnerEmail + " (empty for none yet): ")
	default:
		return "", nil
	}
}

func (c *companyCreateCmd) request(password string) *provisionerv1.CreateTenantRequest {
	owner := c.OwnerName
	if owner == "" {
		owner, _, _ = strings.Cut(c.OwnerEmail, "@")
	}
	return &provisionerv1.CreateTenantRequest{
		RequestId: c.RequestID,
		Company: &registryv1.CompanyDraft{
			Name: c.Name, Slug: c.Slug, Email: c.Email, Phone: c.Phone, Address: c.Address, CountryCode: strings.ToUpper(c.Country),
		},
		UsageType: c.UsageType,
		Owner:     &registryv1.OwnerDraft{Name: owner, Email: c.OwnerEmail, Password: password},
		Plugins:   c.Plugin,
		Cluster:   c.Cluster,
	}
}

// insist repeats the signup while it may yet succeed: the same request id makes that safe. A provisioner that was never
// reached is not waited for, since it is most likely not there.
func (c *companyCreateCmd) insist(ctx context.Context, a *app, client provisionerv1.ProvisionerServiceClient, request *provisionerv1.CreateTenantRequest) (*provisionerv1.CreateTenantResponse, error) {
	deadline := time.Now().Add(patience)
	reached := false
	for {
		got, err := client.CreateTenant(ctx, request)
		if err == nil {
			return got, nil
		}
		f := fault.From(err)
		reached = reached || !isAbsent(err)
		if !fault.Retryable(err) || !reached || time.Now().After(deadline) {
			return nil, err
		}
		wait := max(f.RetryAfter, 500*time.Millisecond)
		a.notef("%s: %s; trying again with the same request id", f.Reason, f.Text)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}
