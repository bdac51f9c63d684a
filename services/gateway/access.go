package gateway

import (
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// access says who may call what. Which company a call reaches is decided after it, by the credential.
var access = func() rpc.Access {
	tenants := []identity.Kind{identity.User, identity.APIKey, identity.Upstream}
	return rpc.Access{
		"/tenantry.gateway.v1.SqlService/*":      append([]identity.Kind{identity.Operator}, tenants...),
		"/tenantry.gateway.v1.WhoAmIService/*":   append([]identity.Kind{identity.Operator}, tenants...),
		"/tenantry.gateway.v1.FleetSqlService/*": {identity.Operator},

		"/tenantry.registry.v1.SessionService/Login":          {identity.Anonymous},
		"/tenantry.registry.v1.SessionService/Refresh":        {identity.Anonymous},
		"/tenantry.registry.v1.SessionService/Logout":         {identity.Anonymous},
		"/tenantry.registry.v1.SessionService/GetJwks":        {identity.Anonymous},
		"/tenantry.registry.v1.SessionService/ListSessions":   {identity.User},
		"/tenantry.registry.v1.SessionService/RevokeSessions": {identity.User},

		rpc.Forwarded: tenants,
	}
}()
