package provisioner

import (
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

// access says who may call what.
var access = rpc.Access{
	"/tenantry.provisioner.v1.ProvisionerService/CreateTenant": {identity.Signup, identity.Operator},
	"/tenantry.provisioner.v1.ProvisionerService/*":            {identity.Operator},
	"/tenantry.provisioner.v1.RolloutService/*":                {identity.Operator},
	"/tenantry.provisioner.v1.FleetService/*":                  {identity.Operator},
	"/tenantry.provisioner.v1.BackupService/*":                 {identity.Operator},
}
