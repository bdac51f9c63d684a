package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// printf writes to standard output.
func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.Out, format, args...)
	return err
}

// notef tells a person what is going on, without being part of the answer.
func (a *app) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Err, format+"\n", args...) // Nobody can be told that nobody can be told.
}

// printJSON prints a value as one line.
func (a *app) printJSON(v any) error {
	line, err := jsonLine(v)
	if err != nil {
		return err
	}
	return a.printf("%s\n", line)
}

// jsonLine writes a value on one line; messages with the contract's own names for fields, and every field there.
func jsonLine(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return json.Marshal(v)
	}
	spaced, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	// protojson puts spaces in at random, so that nobody comes to rely on its bytes.
	var line bytes.Buffer
	if err := json.Compact(&line, spaced); err != nil {
		return nil, err
	}
	return line.Bytes(), nil
}

// object is a JSON object with its members in the order in which they were added.
type object struct{ members []string }

func (o *object) add(name string, v any) error {
	value, err := jsonLine(v)
	if err != nil {
		return err
	}
	o.addRaw(name, value)
	return nil
}

func (o *object) addRaw(name string, value []byte) {
	quoted, _ := json.Marshal(name) // A string always marshals.
	o.members = append(o.members, string(quoted)+":"+string(value))
}

// MarshalJSON writes the object.
func (o *object) MarshalJSON() ([]byte, error) {
	return []byte("{" + strings.Join(o.members, ",") + "}"), nil
}

// printTable prints rows under headings; headings are in lower case, as in the contract.
func (a *app) printTable(headings []string, rows [][]string) error {
	return a.printf("%s\n", drawTable(headings, rows))
}

func drawTable(headings []string, rows [][]string) string {
	t := table.NewWriter()
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.AppendHeader(tableRow(headings))
	for _, r := range rows {
		t.AppendRow(tableRow(r))
	}
	return t.Render()
}

func tableRow(cells []string) table.Row {
	row := make(table.Row, len(cells))
	for i, c := range cells {
		row[i] = c
	}
	return row
}

// printFields prints a name and a value per line, without those that are empty.
func (a *app) printFields(fields [][2]string) error {
	width := 0
	for _, f := range fields {
		width = max(width, len(f[0]))
	}
	for _, f := range fields {
		if f[1] == "" {
			continue
		}
		if err := a.printf("%-*s  %s\n", width, f[0], f[1]); err != nil {
			return err
		}
	}
	return nil
}

// stateName is an enum's value without the enum's name, which each value in the contract begins with.
func stateName(value fmt.Stringer, prefix string) string {
	return strings.TrimPrefix(value.String(), prefix)
}

// plural counts things in words.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
