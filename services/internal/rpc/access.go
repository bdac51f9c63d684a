package rpc

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

// Access says which kinds of caller may call each method, by its full name `/package.Service/Method`; the entry
// `/package.Service/*` is for all methods of a service that have none of their own. A method without an entry cannot be
// called, save that the entry Forwarded is for methods of services that are not served here but forwarded. Where a method
// lists identity.Anonymous anyone may call it, even with a credential that is no longer good.
//
// Health checks and reflection are open to all and need no entry.
type Access map[string][]identity.Kind

// Forwarded is the entry of an Access table for methods of services that are unknown to the server.
const Forwarded = "*"

// open are services that tell nothing worth guarding.
var open = []string{"/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"}

// allowed returns the kinds that may call a method.
func (a Access) allowed(method string) []identity.Kind {
	if kinds, ok := a[method]; ok {
		return kinds
	}
	if slices.ContainsFunc(open, func(prefix string) bool { return strings.HasPrefix(method, prefix) }) {
		return []identity.Kind{identity.Anonymous}
	}
	service := method[:strings.LastIndex(method, "/")+1]
	return a[service+"*"]
}

// check returns the fault of a caller who may not call a method, nil for one who may. kinds are what allowed says of it.
// Methods that are served all have entries, see covers; what has none is forwarded.
func (a Access) check(kinds []identity.Kind, method string, c identity.Caller) error {
	if len(kinds) == 0 {
		kinds = a[Forwarded]
	}
	switch {
	case slices.Contains(kinds, c.Kind), slices.Contains(kinds, identity.Anonymous):
		return nil
	case c.Kind == identity.Anonymous:
		return fault.New(codes.Unauthenticated, fault.CredentialsMissing,
			"the call carries no credential: want `authorization: Bearer TOKEN_OR_API_KEY`, or a client certificate")
	default:
		return fault.New(codes.PermissionDenied, fault.MethodNotAllowed, "%s may not call %s", c.Kind, method).
			With("method", method)
	}
}

// covers checks that every method served has an entry and every entry names one, save those of services that are
// forwarded and so unknown here.
func (a Access) covers(services map[string]grpc.ServiceInfo) error {
	for service, info := range services {
		for _, m := range info.Methods {
			if full := "/" + service + "/" + m.Name; len(a.allowed(full)) == 0 {
				return fmt.Errorf("rpc: the access table does not say who may call %s", full)
			}
		}
	}
	for full := range a {
		if full == Forwarded {
			continue
		}
		service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
		info, known := services[service]
		if !ok || known && method != "*" && !slices.ContainsFunc(info.Methods, func(m grpc.MethodInfo) bool { return m.Name == method }) {
			return fmt.Errorf("rpc: the access table names %s, which is not served", full)
		}
	}
	return nil
}
