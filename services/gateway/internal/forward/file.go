package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is what a file of upstreams holds.
type document struct {
	Upstreams []Upstream `yaml:"upstreams"`
}

// Read reads a file of upstreams, in YAML. Its errors name the line and the field, what was got and what is wanted.
func Read(path string) ([]Upstream, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("upstreams: %w", err)
	}
	upstreams, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("upstreams: %s: %w", path, err)
	}
	return upstreams, nil
}

// decode reads the text of a file. A file that is empty, or half there, is an error rather than no upstreams: those are
// written `upstreams: []`.
func decode(text []byte) ([]Upstream, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, readable(err)
	}
	list := child(&root, "upstreams")
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil, errors.New("upstreams: got none, want a list of upstreams, which may be empty")
	}
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	var d document
	if err := strict.Decode(&d); err != nil {
		return nil, readable(err)
	}
	if err := strict.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("got more than one document, want one")
	}
	taken := map[string]bool{}
	names := map[string]bool{}
	for i := range d.Upstreams {
		u, node := &d.Upstreams[i], list.Content[i]
		u.Name = fullName(u.Name)
		err := u.check()
		if err == nil && names[u.Name] {
			err = &problem{"name", fmt.Sprintf("got %s again, want each upstream once", u.Name)}
		}
		names[u.Name] = true
		for j, s := range u.Services {
			if err == nil && taken[s] {
				err = &problem{fmt.Sprintf("services[%d]", j), fmt.Sprintf("got %s again, want each service at one upstream", s)}
			}
			taken[s] = true
		}
		if p := (*problem)(nil); errors.As(err, &p) {
			return nil, fmt.Errorf("line %d: upstreams[%d].%w", lineOf(node, p.field), i, err)
		}
	}
	return d.Upstreams, nil
}

// child is the value of a field of a mapping, nil where there is none.
func child(n *yaml.Node, field string) *yaml.Node {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == field {
			return n.Content[i+1]
		}
	}
	return nil
}

// lineOf is where a field such as `addresses[1]` of an upstream stands; where the upstream does, when it is not there.
func lineOf(upstream *yaml.Node, field string) int {
	name, index, _ := strings.Cut(strings.TrimSuffix(field, "]"), "[")
	n := child(upstream, name)
	if n == nil {
		return upstream.Line
	}
	if i, err := strconv.Atoi(index); err == nil && i < len(n.Content) {
		n = n.Content[i]
	}
	return n.Line
}

// unknownField is what the library says of a field that nobody knows, with the name of a type of ours.
var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// readable makes one line of what the library says, without names of types.
func readable(err error) error {
	var list *yaml.TypeError
	if !errors.As(err, &list) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	text := strings.Join(list.Errors, "; ")
	return errors.New(unknownField.ReplaceAllString(text, "the field $1 is unknown"))
}
