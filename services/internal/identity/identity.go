// Package identity says who makes a call: what the certificate and the credential prove, and nothing that a caller
// merely claims. The tenant of a call is the CompanyID here and comes from nowhere else.
package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Kind is what a caller is. The access table of each service names kinds.
type Kind int

// The kinds of callers.
const (
	// Anonymous has neither certificate nor credential.
	Anonymous Kind = iota
	// User is a person with an access token.
	User
	// APIKey is a program with an API key.
	APIKey
	// Upstream is a service behind the gateway; with the assertion it was given it acts for a company.
	Upstream
	// Operator runs the system.
	Operator
	// Signup is the flow that signs companies up.
	Signup
	// Registry, Provisioner and Gateway are our own services.
	Registry
	Provisioner
	Gateway
)

// String is the kind in lower case.
func (k Kind) String() string {
	switch k {
	case Anonymous:
		return "anonymous"
	case User:
		return "user"
	case APIKey:
		return "api-key"
	case Upstream:
		return "upstream"
	case Operator:
		return "operator"
	case Signup:
		return "signup"
	case Registry:
		return "registry"
	case Provisioner:
		return "provisioner"
	case Gateway:
		return "gateway"
	default:
		return fmt.Sprintf("Kind(%d)", int(k))
	}
}

// Caller is who makes a call. The zero value is an anonymous caller.
type Caller struct {
	// Kind is what it is.
	Kind Kind
	// Name is what its certificate says, such as `operator/alice` or `service/gateway`; empty without one. A person who
	// calls through the gateway has the gateway's name here.
	Name string
	// CompanyID is the company it acts for; uuid.Nil for none.
	CompanyID uuid.UUID
	// UserID is the person, uuid.Nil when there is none.
	UserID uuid.UUID
	// SessionID is the person's session, uuid.Nil when there is none.
	SessionID uuid.UUID
	// APIKeyID is the API key, uuid.Nil when there is none.
	APIKeyID uuid.UUID
	// Roles are those of the credential, sorted.
	Roles []string
	// ExpiresAt is when the credential ends; zero when it does not.
	ExpiresAt time.Time
}

// IsTenant tells whether the caller acts for a company.
func (c Caller) IsTenant() bool { return c.CompanyID != uuid.Nil }

// HasRole tells whether the credential has one of the roles.
func (c Caller) HasRole(roles ...string) bool {
	return slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(c.Roles, r) })
}

// Actor is how audit events and logs name the caller.
func (c Caller) Actor() string {
	switch {
	case c.UserID != uuid.Nil:
		return "user/" + c.UserID.String()
	case c.APIKeyID != uuid.Nil:
		return "api-key/" + c.APIKeyID.String()
	case c.Name != "":
		return c.Name
	default:
		return c.Kind.String()
	}
}

// TrustDomain is the host of every SPIFFE-style name.
const TrustDomain = "tenantry"

// URI is the name that a certificate bears: `spiffe://tenantry/` and a caller's Name.
func URI(name string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: TrustDomain, Path: "/" + name}
}

// FromCertificate reads the caller off a verified certificate's URI SAN (SPIFFE-ID, section 2): exactly one, of the
// form `spiffe://tenantry/service/{registry,provisioner,gateway}`, `…/operator/NAME`, `…/signup/NAME` or
// `…/upstream/NAME`.
func FromCertificate(cert *x509.Certificate) (Caller, error) {
	if len(cert.URIs) != 1 {
		return Caller{}, fmt.Errorf("identity: the certificate has %d URI names, want exactly one", len(cert.URIs))
	}
	return FromURI(cert.URIs[0])
}

// FromURI reads the caller off a name.
func FromURI(u *url.URL) (Caller, error) {
	if u.Scheme != "spiffe" || u.Host != TrustDomain || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return Caller{}, fmt.Errorf("identity: got the name %q, want spiffe://%s/…", u, TrustDomain)
	}
	name := strings.TrimPrefix(u.Path, "/")
	group, member, ok := strings.Cut(name, "/")
	if !ok || member == "" || strings.Contains(member, "/") {
		return Caller{}, fmt.Errorf("identity: got the name %q, want spiffe://%s/GROUP/NAME", u, TrustDomain)
	}
	kind, ok := kindOf(group, member)
	if !ok {
		return Caller{}, fmt.Errorf("identity: the name %q is of no kind of caller", u)
	}
	return Caller{Kind: kind, Name: name}, nil
}

func kindOf(group, member string) (Kind, bool) {
	switch group {
	case "operator":
		return Operator, true
	case "signup":
		return Signup, true
	case "upstream":
		return Upstream, true
	case "service":
		switch member {
		case "registry":
			return Registry, true
		case "provisioner":
			return Provisioner, true
		case "gateway":
			return Gateway, true
		}
	}
	return Anonymous, false
}

type contextKey struct{}

// NewContext returns a context that carries the caller.
func NewContext(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the caller that the server's interceptor put there; without one, an anonymous caller.
func FromContext(ctx context.Context) Caller {
	c, _ := ctx.Value(contextKey{}).(Caller)
	return c
}
