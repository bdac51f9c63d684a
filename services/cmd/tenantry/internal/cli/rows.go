package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// tableRows is how many rows are drawn as one table: memory stays bounded however many come.
const tableRows = 1000

// printRows prints the result of a query as it comes.
func (a *app) printRows(stream grpc.ServerStreamingClient[gatewayv1.QueryResponse]) error {
	p := rowPrinter{app: a}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return p.end()
		}
		if err != nil {
			// The rows that came are real; they are worth seeing beside the error.
			return errors.Join(err, p.flush())
		}
		if err := p.take(part); err != nil {
			return err
		}
	}
}

// rowPrinter prints rows, for people or as JSON.
type rowPrinter struct {
	app     *app
	columns []*gatewayv1.Column
	// names are the columns' names in JSON, each once.
	names []string
	// pending are rows of the next table.
	pending [][]string
	drawn   bool
	tag     string
	// rows are all that came; there were more when it is truncated.
	rows      int
	truncated bool
}

func (p *rowPrinter) take(part *gatewayv1.QueryResponse) error {
	if columns := part.GetColumns(); len(columns) > 0 {
		p.columns, p.names = columns, uniqueNames(columns)
	}
	if part.GetCommandTag() != "" {
		p.tag = part.GetCommandTag()
	}
	p.truncated = p.truncated || part.GetTruncated()
	p.rows += len(part.GetRows())
	for _, row := range part.GetRows() {
		if len(row.GetValues()) != len(p.columns) {
			return fmt.Errorf("got a row of %d values for %d columns", len(row.GetValues()), len(p.columns))
		}
		if p.app.json {
			if err := p.printObject(row); err != nil {
				return err
			}
			continue
		}
		cells := make([]string, len(row.GetValues()))
		for i, v := range row.GetValues() {
			cells[i] = cell(v)
		}
		p.pending = append(p.pending, cells)
		if len(p.pending) == tableRows {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush draws the rows that are pending.
func (p *rowPrinter) flush() error {
	if len(p.pending) == 0 {
		return nil
	}
	var headings []string
	for _, c := range p.columns {
		headings = append(headings, c.GetName())
	}
	rows := p.pending
	p.pending, p.drawn = nil, true
	return p.app.printTable(headings, rows)
}

// end prints what is left, and what the statement did.
func (p *rowPrinter) end() error {
	if p.truncated {
		defer p.app.notef("these are the first %d rows; there are more", p.rows)
	}
	if p.app.json {
		if len(p.columns) > 0 {
			return nil
		}
		return p.app.printJSON(map[string]string{"command_tag": p.tag})
	}
	if err := p.flush(); err != nil {
		return err
	}
	if p.truncated {
		return nil
	}
	return p.app.printf("%s\n", p.tag)
}

func (p *rowPrinter) printObject(row *gatewayv1.Row) error {
	var o object
	for i, v := range row.GetValues() {
		o.addRaw(p.names[i], jsonValue(v, p.columns[i].GetTypeName()))
	}
	return p.app.printJSON(&o)
}

// uniqueNames numbers the columns whose name came before, since an object has each name once.
func uniqueNames(columns []*gatewayv1.Column) []string {
	seen := map[string]bool{}
	var names []string
	for _, c := range columns {
		name := c.GetName()
		for n := 2; seen[name]; n++ {
			name = fmt.Sprintf("%s_%d", c.GetName(), n)
		}
		seen[name] = true
		names = append(names, name)
	}
	return names
}

// cell is a value in a table; text that is not UTF-8 comes as bytes and is shown as PostgreSQL shows those.
func cell(v *gatewayv1.Value) string {
	switch v := v.GetValue().(type) {
	case *gatewayv1.Value_Text:
		return v.Text
	case *gatewayv1.Value_Binary:
		return fmt.Sprintf(`\x%x`, v.Binary)
	default:
		return "NULL"
	}
}

// jsonValue writes a value as PostgreSQL's row_to_json would: numbers, booleans and JSON as such, all else as a string.
func jsonValue(v *gatewayv1.Value, typeName string) []byte {
	if _, isNull := v.GetValue().(*gatewayv1.Value_Null); isNull || v.GetValue() == nil {
		return []byte("null")
	}
	text := cell(v)
	switch typeName {
	case "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "json", "jsonb":
		// NaN and the infinities are numbers that JSON does not have.
		if raw := []byte(text); json.Valid(raw) {
			return []byte(strings.ReplaceAll(text, "\n", " "))
		}
	case "bool":
		switch text {
		case "t":
			return []byte("true")
		case "f":
			return []byte("false")
		}
	}
	quoted, _ := json.Marshal(text) // A string always marshals.
	return quoted
}
