package cli

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// auditCmd is `tenantry audit`.
type auditCmd struct {
	List auditListCmd `cmd:"" help:"List who did what, newest first."`
}

// auditPage is how many events are asked for at once, the most that a page may have.
const auditPage = 1000

// auditListCmd is `tenantry audit list`.
type auditListCmd struct {
	Company string `name:"company" placeholder:"COMPANY" help:"Only what was done to this company, id or slug."`
	Action  string `name:"action" placeholder:"ACTION" help:"Only what was done so, such as company.suspended or rollout.forced."`
	Limit   int    `name:"limit" default:"100" placeholder:"N" help:"Stop after this many; 0 lists all. Default: ${default}."`
}

// Help is the long help.
func (auditListCmd) Help() string {
	return `Every change of a company's state, of a login, a key, a plugin or a server is in the log, with who made it; so is what was forced, and what was read over many tenants.

Example:

    tenantry audit list --company sun-valley
    tenantry audit list --action rollout.forced --limit 0 --json`
}

// Run lists.
func (c *auditListCmd) Run(ctx context.Context, a *app) error {
	if c.Limit < 0 {
		return usagef("", "--limit: got %d, want 0 or more", c.Limit)
	}
	conn, err := a.connect(registryAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	client := registryv1.NewAuditServiceClient(conn)
	request := &registryv1.ListEventsRequest{Company: c.Company, Action: c.Action, PageSize: auditPage}
	printed := 0
	for first := true; first || request.PageToken != ""; first = false {
		if c.Limit > 0 {
			request.PageSize = int32(min(auditPage, c.Limit-printed))
		}
		page, err := client.ListEvents(ctx, request)
		if err != nil {
			return err
		}
		if err := a.printEvents(page.GetEvents(), first); err != nil {
			return err
		}
		printed += len(page.GetEvents())
		request.PageToken = page.GetNextPageToken()
		if c.Limit > 0 && printed >= c.Limit {
			return nil
		}
	}
	return nil
}

// printEvents prints a page; the first is printed even when it is empty.
func (a *app) printEvents(events []*registryv1.AuditEvent, first bool) error {
	if a.json {
		for _, e := range events {
			if err := a.printJSON(e); err != nil {
				return err
			}
		}
		return nil
	}
	if len(events) == 0 && !first {
		return nil
	}
	var rows [][]string
	for _, e := range events {
		rows = append(rows, []string{
			strconv.FormatInt(e.GetEventId(), 10), e.GetTime().AsTime().Local().Format("2006-01-02 15:04:05"), e.GetActor(), e.GetAction(),
			e.GetCompanyId(), e.GetSubject(), detailsText(e.GetDetails()),
		})
	}
	return a.printTable([]string{"event", "time", "actor", "action", "company", "subject", "details"}, rows)
}

// detailsText writes details by name.
func detailsText(details map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(details)) {
		parts = append(parts, name+"="+details[name])
	}
	return strings.Join(parts, " ")
}
