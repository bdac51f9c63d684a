package cli

import (
	"context"
	"strings"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// companyCmd is `tenantry company`.
type companyCmd struct {
	Create  companyCreateCmd  `cmd:"" help:"Sign a company up."`
	List    companyListCmd    `cmd:"" help:"List companies, oldest first."`
	Show    companyShowCmd    `cmd:"" help:"Show one company."`
	Suspend companySuspendCmd `cmd:"" help:"Close a company to logins and calls. Its data stays."`
	Resume  companyResumeCmd  `cmd:"" help:"Open a suspended company again."`
}

// companies calls f with a client of the registry, as an operator.
func (a *app) companies(f func(registryv1.CompanyServiceClient) error) error {
	conn, err := a.connect(registryAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	return f(registryv1.NewCompanyServiceClient(conn))
}

const statePrefix = "COMPANY_STATE_"

// companyListCmd is `tenantry company list`.
type companyListCmd struct {
	State    []string `name:"state" placeholder:"STATE" help:"Only companies in this state, such as active or suspended. Repeatable. Default: all but deleted."`
	Contains string   `name:"contains" placeholder:"TEXT" help:"Only companies whose name or slug holds this text."`
	Limit    int      `name:"limit" placeholder:"N" help:"Stop after this many. Default: all."`
}

// Help is the long help.
func (companyListCmd) Help() string {
	return `Example:

    tenantry company list --state suspended
    tenantry company list --json | jq -r .slug`
}

// Run lists.
func (c *companyListCmd) Run(ctx context.Context, a *app) error {
	states, err := companyStates(c.State)
	if err != nil {
		return err
	}
	return a.companies(func(client registryv1.CompanyServiceClient) error {
		request := &registryv1.ListCompaniesRequest{PageSize: 1000, States: states, Contains: c.Contains}
		printed := 0
		for first := true; first || request.PageToken != ""; first = false {
			if c.Limit > 0 {
				request.PageSize = int32(min(1000, c.Limit-printed))
			}
			page, err := client.ListCompanies(ctx, request)
			if err != nil {
				return err
			}
			if err := a.printCompanies(page.GetCompanies(), first); err != nil {
				return err
			}
			printed += len(page.GetCompanies())
			request.PageToken = page.GetNextPageToken()
			if c.Limit > 0 && printed >= c.Limit {
				return nil
			}
		}
		return nil
	})
}

func companyStates(names []string) ([]registryv1.CompanyState, error) {
	var states []registryv1.CompanyState
	for _, name := range names {
		number, ok := registryv1.CompanyState_value[statePrefix+strings.ToUpper(name)]
		if !ok || number == 0 {
			return nil, usagef("", "--state: got %q, want provisioning, active, suspended, maintenance, deleting, deleted or failed", name)
		}
		states = append(states, registryv1.CompanyState(number))
	}
	return states, nil
}

// printCompanies prints a page; the first is printed even when it is empty.
func (a *app) printCompanies(companies []*registryv1.Company, first bool) error {
	if a.json {
		for _, company := range companies {
			if err := a.printJSON(company); err != nil {
				return err
			}
		}
		return nil
	}
	if len(companies) == 0 && !first {
		return nil
	}
	var rows [][]string
	for _, c := range companies {
		rows = append(rows, []string{
			c.GetSlug(), c.GetName(), stateName(c.GetState(), statePrefix), c.GetSchemaVersion(), c.GetCluster(),
			c.GetCreateTime().AsTime().Local().Format("2006-01-02 15:04"), c.GetCompanyId(),
		})
	}
	return a.printTable([]string{"slug", "name", "state", "schema", "cluster", "created", "id"}, rows)
}

// companyShowCmd is `tenantry company show`.
type companyShowCmd struct {
	Company string `arg:"" help:"Id or slug."`
}

// Help is the long help.
func (companyShowCmd) Help() string {
	return `Example:

    tenantry company show sun-valley`
}

// Run shows.
func (c *companyShowCmd) Run(ctx context.Context, a *app) error {
	return a.companies(func(client registryv1.CompanyServiceClient) error {
		got, err := client.GetCompany(ctx, &registryv1.GetCompanyRequest{Company: c.Company})
		if err != nil {
			return err
		}
		return a.printCompany(got.GetCompany())
	})
}

func (a *app) printCompany(c *registryv1.Company) error {
	if a.json {
		return a.printJSON(c)
	}
	return a.printFields([][2]string{
		{"id", c.GetCompanyId()},
		{"slug", c.GetSlug()},
		{"name", c.GetName()},
		{"state", stateName(c.GetState(), statePrefix)},
		{"because", c.GetStateReason()},
		{"e-mail", c.GetEmail()},
		{"phone", c.GetPhone()},
		{"address", c.GetAddress()},
		{"country", c.GetCountryCode()},
		{"usage type", c.GetUsageType()},
		{"plugins", strings.Join(c.GetPlugins(), ", ")},
		{"cluster", c.GetCluster()},
		{"database", c.GetDatabase()},
		{"schema", c.GetSchemaVersion()},
		{"created", c.GetCreateTime().AsTime().Local().Format("2006-01-02 15:04:05")},
	})
}

// companySuspendCmd is `tenantry company suspend`.
type companySuspendCmd struct {
	Company string `arg:"" help:"Id or slug."`
	Reason  string `name:"reason" required:"" placeholder:"TEXT" help:"Why, for the record and for whoever asks."`
}

// Help is the long help.
func (companySuspendCmd) Help() string {
	return `Sessions and API keys of the company stop working on every gateway at once. Its database stays and goes on being migrated.

Example:

    tenantry company suspend sun-valley --reason "invoice 1234 is overdue"`
}

// Run suspends.
func (c *companySuspendCmd) Run(ctx context.Context, a *app) error {
	return a.companies(func(client registryv1.CompanyServiceClient) error {
		got, err := client.SuspendCompany(ctx, &registryv1.SuspendCompanyRequest{Company: c.Company, Reason: c.Reason})
		if err != nil {
			return err
		}
		return a.printCompany(got.GetCompany())
	})
}

// companyResumeCmd is `tenantry company resume`.
type companyResumeCmd struct {
	Company string `arg:"" help:"Id or slug."`
}

// Help is the long help.
func (companyResumeCmd) Help() string {
	return `Example:

    tenantry company resume sun-valley`
}

// Run resumes.
func (c *companyResumeCmd) Run(ctx context.Context, a *app) error {
	return a.companies(func(client registryv1.CompanyServiceClient) error {
		got, err := client.ResumeCompany(ctx, &registryv1.ResumeCompanyRequest{Company: c.Company})
		if err != nil {
			return err
		}
		return a.printCompany(got.GetCompany())
	})
}
