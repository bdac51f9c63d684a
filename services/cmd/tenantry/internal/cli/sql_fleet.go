package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// fleetSQLFlags make `tenantry sql` read many tenants.
type fleetSQLFlags struct {
	All              bool          `name:"all" group:"Many tenants:" help:"Read every ACTIVE tenant."`
	Companies        []string      `name:"companies" placeholder:"A,B" group:"Many tenants:" help:"Read these tenants, ids or slugs."`
	Cluster          string        `name:"cluster" placeholder:"NAME" group:"Many tenants:" help:"Read the tenants on this cluster."`
	Concurrency      int32         `name:"concurrency" placeholder:"N" group:"Many tenants:" help:"Tenants read at once on each cluster, 1 to 16. Default: 4."`
	StatementTimeout time.Duration `name:"statement-timeout" placeholder:"DURATION" group:"Many tenants:" help:"Longest run on one tenant. Default: 10s."`
}

func (f fleetSQLFlags) fleet() bool { return f.All || len(f.Companies) > 0 || f.Cluster != "" }

// runFleet runs the statement, which is the first argument, on many tenants.
func (c *sqlCmd) runFleet(ctx context.Context, a *app) error {
	if c.All && (len(c.Companies) > 0 || c.Cluster != "") {
		return usagef("Leave --all out.", "sql: got --all beside --companies or --cluster, which choose some")
	}
	if c.Isolation != "" {
		return usagef("Leave --isolation out.", "sql: got --isolation, which is for one tenant")
	}
	statement, err := a.statement(&c.Company)
	if err != nil {
		return err
	}
	params := c.Params
	if c.SQL != nil {
		params = slices.Insert(params, 0, *c.SQL)
	}
	request := &gatewayv1.FleetSqlServiceQueryRequest{
		Selector: &gatewayv1.FleetSelector{Companies: c.Companies, Cluster: c.Cluster}, Sql: statement, Params: sqlParams(params),
		MaxRowsPerTenant: c.MaxRows, ConcurrencyPerCluster: c.Concurrency,
	}
	if c.StatementTimeout != 0 {
		request.StatementTimeout = durationpb.New(c.StatementTimeout)
	}
	conn, err := a.connect(gatewayAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // The stream was read to its end, or is of no more use.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := gatewayv1.NewFleetSqlServiceClient(conn).Query(ctx, request)
	if err != nil {
		return err
	}
	p := fleetPrinter{app: a, tables: map[string]*fleetTable{}}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return p.end()
		}
		if err != nil {
			// What came is real; it is worth seeing beside the error.
			return errors.Join(err, p.flush())
		}
		if err := p.take(m); err != nil {
			return err
		}
	}
}

// fleetPrinter prints the rows of many tenants as one table, or as JSON.
type fleetPrinter struct {
	app *app
	// tables are by their columns, since tenants on different releases may have different ones.
	tables    map[string]*fleetTable
	total     int32
	truncated []string
	failed    []*gatewayv1.FleetSqlServiceQueryResponse
}

type fleetTable struct {
	headings []string
	rows     [][]string
}

// fleetSummary is the last line of JSON.
type fleetSummary struct {
	Tenants   int32    `json:"tenants"`
	Failed    int      `json:"failed"`
	Truncated []string `json:"truncated"`
}

func (p *fleetPrinter) take(m *gatewayv1.FleetSqlServiceQueryResponse) error {
	p.total = m.GetTotal()
	if p.app.terminal {
		_, _ = fmt.Fprintf(p.app.Err, "\r\x1b[K%d of %d tenants", m.GetDone(), m.GetTotal()) // Nobody can be told that nobody can be told.
		if m.GetDone() == m.GetTotal() {
			_, _ = fmt.Fprint(p.app.Err, "\r\x1b[K")
		}
	}
	if m.GetError() != nil {
		p.failed = append(p.failed, m)
		return nil
	}
	if m.GetTruncated() {
		p.truncated = append(p.truncated, m.GetSlug())
	}
	for _, row := range m.GetRows() {
		if len(row.GetValues()) != len(m.GetColumns()) {
			return fmt.Errorf("got a row of %d values for %d columns", len(row.GetValues()), len(m.GetColumns()))
		}
	}
	if p.app.json {
		return p.objects(m)
	}
	return p.cells(m)
}

func (p *fleetPrinter) objects(m *gatewayv1.FleetSqlServiceQueryResponse) error {
	names := uniqueNames(m.GetColumns())
	for _, row := range m.GetRows() {
		var o, values object
		for i, v := range row.GetValues() {
			values.addRaw(names[i], jsonValue(v, m.GetColumns()[i].GetTypeName()))
		}
		if err := errors.Join(o.add("company", m.GetSlug()), o.add("row", &values), p.app.printJSON(&o)); err != nil {
			return err
		}
	}
	return nil
}

func (p *fleetPrinter) cells(m *gatewayv1.FleetSqlServiceQueryResponse) error {
	headings := []string{"company"}
	for _, c := range m.GetColumns() {
		headings = append(headings, c.GetName())
	}
	key := strings.Join(headings, "\x00")
	if p.tables[key] == nil {
		p.tables[key] = &fleetTable{headings: headings}
	}
	t := p.tables[key]
	for _, row := range m.GetRows() {
		cells := []string{m.GetSlug()}
		for _, v := range row.GetValues() {
			cells = append(cells, cell(v))
		}
		t.rows = append(t.rows, cells)
	}
	if len(t.rows) < tableRows {
		return nil
	}
	return p.draw(t)
}

// draw prints a table's rows, each company's together.
func (p *fleetPrinter) draw(t *fleetTable) error {
	rows := t.rows
	t.rows = nil
	sort.SliceStable(rows, func(i, j int) bool { return rows[i][0] < rows[j][0] })
	return p.app.printTable(t.headings, rows)
}

// flush draws the rows that are pending.
func (p *fleetPrinter) flush() error {
	for _, key := range slices.Sorted(maps.Keys(p.tables)) {
		if t := p.tables[key]; len(t.rows) > 0 {
			if err := p.draw(t); err != nil {
				return err
			}
		}
	}
	return nil
}

// end prints what is left, then who failed.
func (p *fleetPrinter) end() error {
	err := p.flush()
	slices.Sort(p.truncated)
	sort.Slice(p.failed, func(i, j int) bool { return p.failed[i].GetSlug() < p.failed[j].GetSlug() })
	for _, m := range p.failed {
		if p.app.json {
			var o object
			err = errors.Join(err, o.add("company", m.GetSlug()), o.add("error", m.GetError()), p.app.printJSON(&o))
			continue
		}
		err = errors.Join(err, p.app.printf("failed  %s  %s: %s\n", m.GetSlug(), m.GetError().GetReason(), m.GetError().GetMessage()))
	}
	switch {
	case p.app.json:
		err = errors.Join(err, p.app.printJSON(map[string]fleetSummary{"summary": {p.total, len(p.failed), append([]string{}, p.truncated...)}}))
	case len(p.truncated) > 0:
		p.app.notef("more rows than --max-rows, or than 4 MB, hold: %s", strings.Join(p.truncated, ", "))
	case p.total == 0:
		err = errors.Join(err, p.app.printf("no tenant is chosen\n"))
	}
	if err == nil && len(p.failed) > 0 {
		return &tenantsFailedError{failed: int32(len(p.failed)), total: p.total}
	}
	return err
}
