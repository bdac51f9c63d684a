package registry

import (
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// access says who may call what. Where a company's own people and programs may, the handlers see to it that they reach
// their own company only, and have the role that it takes.
var access = func() rpc.Access {
	const pkg = "/tenantry.registry.v1."
	operators := []identity.Kind{identity.Operator}
	tenants := []identity.Kind{identity.Operator, identity.User, identity.APIKey}
	return rpc.Access{
		pkg + "CompanyService/GetCompany":     append([]identity.Kind{identity.Provisioner}, tenants...),
		pkg + "CompanyService/UpdateCompany":  tenants,
		pkg + "CompanyService/ListCompanies":  operators,
		pkg + "CompanyService/SuspendCompany": operators,
		pkg + "CompanyService/ResumeCompany":  operators,

		pkg + "SessionService/Login":          {identity.Anonymous},
		pkg + "SessionService/Refresh":        {identity.Anonymous},
		pkg + "SessionService/Logout":         {identity.Anonymous},
		pkg + "SessionService/GetJwks":        {identity.Anonymous},
		pkg + "SessionService/ListSessions":   {identity.Operator, identity.User},
		pkg + "SessionService/RevokeSessions": {identity.Operator, identity.User},

		pkg + "UserService/*":   tenants,
		pkg + "ApiKeyService/*": tenants,

		pkg + "PluginService/ListPlugins":        append([]identity.Kind{identity.Signup, identity.Provisioner}, tenants...),
		pkg + "PluginService/ListUsageTypes":     append([]identity.Kind{identity.Signup, identity.Provisioner}, tenants...),
		pkg + "PluginService/ListCompanyPlugins": tenants,

		pkg + "ClusterService/*":            operators,
		pkg + "ClusterService/ListClusters": {identity.Operator, identity.Provisioner, identity.Gateway},

		pkg + "AuditService/*": operators,

		pkg + "RouteService/*": {identity.Gateway},

		pkg + "TenantService/*":           {identity.Provisioner},
		pkg + "TenantService/RecordEvent": {identity.Provisioner, identity.Gateway},
	}
}()
