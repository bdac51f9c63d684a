package cli

import (
	"context"
	"strconv"
	"strings"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// clusterCmd is `tenantry cluster`.
type clusterCmd struct {
	Register clusterRegisterCmd `cmd:"" help:"Add a PostgreSQL server, or change a known one."`
	List     clusterListCmd     `cmd:"" help:"List the servers."`
	Drain    clusterDrainCmd    `cmd:"" help:"Keep new tenants off a server."`
	Undrain  clusterUndrainCmd  `cmd:"" help:"Let new tenants onto a drained server again."`
	Remove   clusterRemoveCmd   `cmd:"" help:"Forget a server that holds no tenants."`
}

const clusterTLSPrefix = "CLUSTER_TLS_"

// clusters calls f with a client of the registry, as an operator.
func (a *app) clusters(f func(registryv1.ClusterServiceClient) error) error {
	conn, err := a.connect(registryAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	return f(registryv1.NewClusterServiceClient(conn))
}

// clusterRegisterCmd is `tenantry cluster register`.
type clusterRegisterCmd struct {
	Name             string `arg:"" help:"Its name, a DNS label; the provisioner's --cluster bears the same."`
	Host             string `name:"host" required:"" placeholder:"HOST" help:"Where gateways reach it."`
	Port             int32  `name:"port" default:"5432" placeholder:"PORT" help:"Its port. Default: ${default}."`
	TLS              string `name:"tls" enum:"verify-full,require,disable" default:"verify-full" help:"How connections are protected: ${enum}. Default: ${default}."`
	MaxTenants       int32  `name:"max-tenants" placeholder:"N" help:"Most tenant databases on it. Default: 5000."`
	ConnectionBudget int32  `name:"connection-budget" placeholder:"N" help:"Most connections that all gateways together may open. Default: 100."`
}

// Help is the long help.
func (clusterRegisterCmd) Help() string {
	return `Every provisioner must be given the administrator's URI of a cluster (--cluster) before tenants are placed on it.

Example:

    tenantry cluster register eu-1 --host pg-eu-1.internal --max-tenants 4000`
}

// Run registers.
func (c *clusterRegisterCmd) Run(ctx context.Context, a *app) error {
	tls := registryv1.ClusterTls_value[clusterTLSPrefix+strings.ToUpper(strings.ReplaceAll(c.TLS, "-", "_"))]
	return a.clusters(func(client registryv1.ClusterServiceClient) error {
		got, err := client.RegisterCluster(ctx, &registryv1.RegisterClusterRequest{
			Name: c.Name, Host: c.Host, Port: c.Port, Tls: registryv1.ClusterTls(tls),
			MaxTenants: c.MaxTenants, ConnectionBudget: c.ConnectionBudget,
		})
		if err != nil {
			return err
		}
		return a.printClusters([]*registryv1.Cluster{got.GetCluster()})
	})
}

// clusterListCmd is `tenantry cluster list`.
type clusterListCmd struct{}

// Help is the long help.
func (clusterListCmd) Help() string {
	return `Example:

    tenantry cluster list`
}

// Run lists.
func (*clusterListCmd) Run(ctx context.Context, a *app) error {
	return a.clusters(func(client registryv1.ClusterServiceClient) error {
		got, err := client.ListClusters(ctx, &registryv1.ListClustersRequest{})
		if err != nil {
			return err
		}
		return a.printClusters(got.GetClusters())
	})
}

// clusterDrainCmd is `tenantry cluster drain`.
type clusterDrainCmd struct {
	Name string `arg:"" help:"Its name."`
}

// Help is the long help.
func (clusterDrainCmd) Help() string {
	return "Tenants that are on it stay. \"tenantry cluster undrain\" takes it back.\n\nExample:\n\n    tenantry cluster drain eu-1"
}

// Run drains.
func (c *clusterDrainCmd) Run(ctx context.Context, a *app) error {
	return a.clusters(func(client registryv1.ClusterServiceClient) error {
		got, err := client.DrainCluster(ctx, &registryv1.DrainClusterRequest{Name: c.Name})
		if err != nil {
			return err
		}
		return a.printClusters([]*registryv1.Cluster{got.GetCluster()})
	})
}

// clusterUndrainCmd is `tenantry cluster undrain`.
type clusterUndrainCmd struct {
	Name string `arg:"" help:"Its name."`
}

// Help is the long help.
func (clusterUndrainCmd) Help() string {
	return "Example:\n\n    tenantry cluster undrain eu-1"
}

// Run undrains.
func (c *clusterUndrainCmd) Run(ctx context.Context, a *app) error {
	return a.clusters(func(client registryv1.ClusterServiceClient) error {
		got, err := client.UndrainCluster(ctx, &registryv1.UndrainClusterRequest{Name: c.Name})
		if err != nil {
			return err
		}
		return a.printClusters([]*registryv1.Cluster{got.GetCluster()})
	})
}

// clusterRemoveCmd is `tenantry cluster remove`.
type clusterRemoveCmd struct {
	Name string `arg:"" help:"Its name."`
}

// Help is the long help.
func (clusterRemoveCmd) Help() string {
	return "Example:\n\n    tenantry cluster remove eu-1"
}

// Run removes.
func (c *clusterRemoveCmd) Run(ctx context.Context, a *app) error {
	return a.clusters(func(client registryv1.ClusterServiceClient) error {
		if _, err := client.RemoveCluster(ctx, &registryv1.RemoveClusterRequest{Name: c.Name}); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"removed": c.Name})
		}
		return a.printf("%s is forgotten\n", c.Name)
	})
}

func (a *app) printClusters(clusters []*registryv1.Cluster) error {
	if a.json {
		for _, c := range clusters {
			if err := a.printJSON(c); err != nil {
				return err
			}
		}
		return nil
	}
	return a.printTable(clusterHeadings(), clusterRows(clusters))
}

func clusterHeadings() []string {
	return []string{"cluster", "address", "tls", "tenants", "at most", "connections", "draining"}
}

func clusterRows(clusters []*registryv1.Cluster) [][]string {
	var rows [][]string
	for _, c := range clusters {
		tls := strings.ToLower(strings.ReplaceAll(stateName(c.GetTls(), clusterTLSPrefix), "_", "-"))
		rows = append(rows, []string{
			c.GetName(), c.GetHost() + ":" + strconv.Itoa(int(c.GetPort())), tls, strconv.Itoa(int(c.GetTenants())),
			strconv.Itoa(int(c.GetMaxTenants())), strconv.Itoa(int(c.GetConnectionBudget())), strconv.FormatBool(c.GetDraining()),
		})
	}
	return rows
}
