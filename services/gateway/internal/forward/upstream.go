package forward

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/tenantry/tenantry/services/internal/rpc"
)

// Upstream is a program behind the gateway, and how it may be used. Zero limits mean the defaults.
type Upstream struct {
	// Name is the name its certificate bears, such as `upstream/readings`: the audience of its assertions.
	Name string `yaml:"name"`
	// Services are the full names of its services, such as `readings.v1.ReadingsService`.
	Services []string `yaml:"services"`
	// Addresses are where its copies are, as HOST:PORT. A name stands for all addresses that it resolves to.
	Addresses []string `yaml:"addresses"`
	// Connections is how many connections there are to each address; 0 means DefaultConnections.
	Connections int `yaml:"connections"`
	// MaxMessageBytes is the most bytes of one message, either way; 0 means rpc.MaxMessage, which is the most, too.
	MaxMessageBytes int `yaml:"max_message_bytes"`
	// MaxMetadataBytes is the most bytes of the metadata of a call, of its headers and of its trailers, counted as HTTP/2
	// does: names and values, and 32 for each pair; 0 means DefaultMetadataBytes.
	MaxMetadataBytes int `yaml:"max_metadata_bytes"`
	// MaxConcurrent is how many calls may be under way, streams included; 0 means DefaultConcurrent.
	MaxConcurrent int `yaml:"max_concurrent"`
	// BreakerThreshold is after how many failures in a row it is left alone for a while; 0 means DefaultBreaker.
	BreakerThreshold int `yaml:"breaker_threshold"`
	// Timeout is the longest that a call may take, streams included, where its caller wants no shorter one; 0 means as
	// long as the caller waits.
	Timeout time.Duration `yaml:"timeout"`
	// Unchecked has its health not asked for: for one that refuses grpc.health.v1.Health/Watch without a credential. One
	// that does not have that service needs no such word.
	Unchecked bool `yaml:"unchecked"`
}

// What an upstream has that says nothing else.
const (
	DefaultConnections   = 1
	DefaultMetadataBytes = 64 << 10
	DefaultConcurrent    = 10_000
	DefaultBreaker       = 10
)

// The most that may be asked for.
const (
	mostConnections   = 64
	mostMetadataBytes = 1 << 20
	mostConcurrent    = 1_000_000
	mostBreaker       = 1_000_000
)

// upstreamGroup begins the name of every upstream.
const upstreamGroup = "upstream/"

// Parse reads an upstream as the command line has it: `SERVICE=NAME@HOST:PORT`, where NAME stands for `upstream/NAME`,
// which may be written, too.
func Parse(text string) (Upstream, error) {
	service, rest, ok := strings.Cut(text, "=")
	name, address, ok2 := strings.Cut(rest, "@")
	u := Upstream{Name: fullName(name), Services: []string{service}, Addresses: []string{address}}
	if !ok || !ok2 {
		return Upstream{}, fmt.Errorf("upstream: got %q, want SERVICE=NAME@HOST:PORT", text)
	}
	if problem := u.check(); problem != nil {
		return Upstream{}, fmt.Errorf("upstream: got %q, want SERVICE=NAME@HOST:PORT: %w", text, problem)
	}
	return u, nil
}

func fullName(name string) string { return upstreamGroup + strings.TrimPrefix(name, upstreamGroup) }

// problem is what is wrong with one field.
type problem struct {
	field string // such as `services` or `addresses[1]`
	text  string // what was got and what is wanted
}

func (p *problem) Error() string { return p.field + ": " + p.text }

// check returns the first problem of an upstream, nil when it has none.
func (u *Upstream) check() error {
	if name := strings.TrimPrefix(u.Name, upstreamGroup); name == "" || strings.Contains(name, "/") {
		return &problem{"name", fmt.Sprintf("got %q, want NAME or upstream/NAME, as its certificate says", name)}
	}
	if len(u.Services) == 0 {
		return &problem{"services", "got none, want full names of gRPC services such as readings.v1.ReadingsService"}
	}
	for i, s := range u.Services {
		if !isService(s) {
			return &problem{fmt.Sprintf("services[%d]", i), fmt.Sprintf("got %q, want the full name of a gRPC service such as readings.v1.ReadingsService", s)}
		}
	}
	if len(u.Addresses) == 0 {
		return &problem{"addresses", "got none, want HOST:PORT of each copy"}
	}
	for i, a := range u.Addresses {
		if !isAddress(a) {
			return &problem{fmt.Sprintf("addresses[%d]", i), fmt.Sprintf("got %q, want HOST:PORT with a port from 1 to 65535", a)}
		}
	}
	for _, limit := range []struct {
		field     string
		got, most int
	}{
		{"connections", u.Connections, mostConnections},
		{"max_message_bytes", u.MaxMessageBytes, rpc.MaxMessage},
		{"max_metadata_bytes", u.MaxMetadataBytes, mostMetadataBytes},
		{"max_concurrent", u.MaxConcurrent, mostConcurrent},
		{"breaker_threshold", u.BreakerThreshold, mostBreaker},
	} {
		if limit.got < 0 || limit.got > limit.most {
			return &problem{limit.field, fmt.Sprintf("got %d, want 1 to %d, or 0 for the default", limit.got, limit.most)}
		}
	}
	if u.Timeout < 0 {
		return &problem{"timeout", fmt.Sprintf("got %v, want a duration such as 30s, or 0 for none", u.Timeout)}
	}
	return nil
}

// isService tells whether a text can be the name of a service. Names of protobuf are letters, digits and underscores,
// with points between.
func isService(text string) bool {
	for part := range strings.SplitSeq(text, ".") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) {
			return false
		}
	}
	return true
}

func isAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || strings.ContainsAny(host, "/ ,") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// withDefaults is the upstream with a value for each limit.
func (u Upstream) withDefaults() Upstream {
	for _, limit := range []struct {
		value *int
		usual int
	}{
		{&u.Connections, DefaultConnections},
		{&u.MaxMessageBytes, rpc.MaxMessage},
		{&u.MaxMetadataBytes, DefaultMetadataBytes},
		{&u.MaxConcurrent, DefaultConcurrent},
		{&u.BreakerThreshold, DefaultBreaker},
	} {
		if *limit.value == 0 {
			*limit.value = limit.usual
		}
	}
	return u
}
