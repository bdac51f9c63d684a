package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// statusCmd is `tenantry status`.
type statusCmd struct {
	Company string `arg:"" optional:"" help:"Id or slug. Default: the whole system."`
}

// Help is the long help.
func (statusCmd) Help() string {
	return `Of the system: whether each service answers, the clusters and how many tenants they hold, companies that are not active, and the latest rollout. It exits 4 when a service cannot be reached and 1 when one says that it is not well. Of a tenant: its state, its database, each migration set's version and what is pending.

Example:

    tenantry status
    tenantry status sun-valley`
}

// Run tells.
func (c *statusCmd) Run(ctx context.Context, a *app) error {
	if c.Company != "" {
		return a.tenantStatus(ctx, c.Company)
	}
	s, err := a.system(ctx)
	if err != nil {
		return err
	}
	if err := a.printSystem(s); err != nil {
		return err
	}
	return s.problem()
}

// system is what `tenantry status` tells.
type system struct {
	services []serviceHealth
	clusters []*registryv1.Cluster
	// inactive are numbers of companies by state.
	inactive map[string]int
	rollout  *provisionerv1.Rollout
}

type serviceHealth struct {
	Service string `json:"service"`
	Address string `json:"address"`
	Health  string `json:"health"`
	err     error
}

func (s *system) problem() error {
	for _, h := range s.services {
		if h.err != nil {
			return h.err
		}
	}
	for _, h := range s.services {
		if h.Health != healthpb.HealthCheckResponse_SERVING.String() {
			return &findingsError{text: "the " + h.Service + " says " + h.Health}
		}
	}
	return nil
}

func (a *app) system(ctx context.Context) (*system, error) {
	s := &system{}
	for _, ask := range []struct{ name, address string }{
		{"gateway", gatewayAddress}, {"registry", registryAddress}, {"provisioner", provisionerAddress},
	} {
		h, err := a.health(ctx, ask.name, ask.address)
		if err != nil {
			return nil, err
		}
		s.services = append(s.services, h)
	}
	if s.services[1].err == nil {
		if err := a.companiesOf(ctx, s); err != nil {
			return nil, err
		}
	}
	if s.services[2].err == nil {
		if err := a.rolloutOf(ctx, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// health asks one service; that it does not answer is told and no error.
func (a *app) health(ctx context.Context, name, address string) (serviceHealth, error) {
	conn, err := a.connect(address, "")
	if err != nil {
		return serviceHealth{}, err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	h := serviceHealth{Service: name, Address: conn.Target()}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	got, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		h.Health = "unreachable"
		h.err = fault.New(codes.Unavailable, fault.Unavailable, "the %s at %s does not answer: %s", name, h.Address, fault.From(err).Text)
		return h, nil
	}
	h.Health = got.GetStatus().String()
	return h, nil
}

func (a *app) companiesOf(ctx context.Context, s *system) error {
	err := a.clusters(func(client registryv1.ClusterServiceClient) error {
		got, err := client.ListClusters(ctx, &registryv1.ListClustersRequest{})
		s.clusters = got.GetClusters()
		return err
	})
	if err != nil {
		return err
	}
	// Active ones may be a million and are counted by cluster; the others are few.
	s.inactive = map[string]int{}
	return a.companies(func(client registryv1.CompanyServiceClient) error {
		request := &registryv1.ListCompaniesRequest{PageSize: 1000, States: []registryv1.CompanyState{
			registryv1.CompanyState_COMPANY_STATE_PROVISIONING, registryv1.CompanyState_COMPANY_STATE_SUSPENDED,
			registryv1.CompanyState_COMPANY_STATE_MAINTENANCE, registryv1.CompanyState_COMPANY_STATE_DELETING,
			registryv1.CompanyState_COMPANY_STATE_FAILED,
		}}
		for {
			page, err := client.ListCompanies(ctx, request)
			if err != nil {
				return err
			}
			for _, c := range page.GetCompanies() {
				s.inactive[strings.ToLower(stateName(c.GetState(), statePrefix))]++
			}
			if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
				return nil
			}
		}
	})
}

func (a *app) rolloutOf(ctx context.Context, s *system) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	got, err := provisionerv1.NewRolloutServiceClient(conn).ListRollouts(ctx, &provisionerv1.ListRolloutsRequest{PageSize: 1})
	if err != nil {
		return err
	}
	if len(got.GetRollouts()) > 0 {
		s.rollout = got.GetRollouts()[0]
	}
	return nil
}

func (a *app) printSystem(s *system) error {
	if a.json {
		return a.printSystemJSON(s)
	}
	var rows [][]string
	for _, h := range s.services {
		rows = append(rows, []string{h.Service, h.Address, strings.ToLower(h.Health)})
	}
	if err := a.printTable([]string{"service", "address", "health"}, rows); err != nil {
		return err
	}
	if err := a.printTable(clusterHeadings(), clusterRows(s.clusters)); err != nil {
		return err
	}
	fields := [][2]string{}
	for _, state := range []string{"provisioning", "suspended", "maintenance", "deleting", "failed"} {
		if n := s.inactive[state]; n > 0 {
			fields = append(fields, [2]string{state, strconv.Itoa(n)})
		}
	}
	if s.rollout != nil {
		fields = append(fields, [2]string{"last rollout", summary(s.rollout)})
	}
	return a.printFields(fields)
}

func (a *app) printSystemJSON(s *system) error {
	var o object
	clusters := []json.RawMessage{}
	for _, c := range s.clusters {
		line, err := jsonLine(c)
		if err != nil {
			return err
		}
		clusters = append(clusters, line)
	}
	err := errors.Join(o.add("services", s.services), o.add("clusters", clusters), o.add("inactive_companies", s.inactive))
	if s.rollout != nil {
		err = errors.Join(err, o.add("last_rollout", s.rollout))
	}
	if err != nil {
		return err
	}
	return a.printJSON(&o)
}

func (a *app) tenantStatus(ctx context.Context, company string) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	got, err := provisionerv1.NewProvisionerServiceClient(conn).GetTenantStatus(ctx, &provisionerv1.GetTenantStatusRequest{Company: company})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(got)
	}
	database := got.GetDatabase() + " on " + got.GetCluster()
	if got.GetDatabaseExists() {
		database += fmt.Sprintf(", %.1f MB", float64(got.GetDatabaseBytes())/1e6)
	} else {
		database += ", which does not exist"
	}
	last := ""
	if r := got.GetLastResult(); r != nil {
		last = resultLine(r)
	}
	if err := a.printFields([][2]string{
		{"id", got.GetCompanyId()}, {"slug", got.GetSlug()}, {"state", stateName(got.GetState(), statePrefix)}, {"database", database},
		{"schema", got.GetSchemaVersion()}, {"new tenants", got.GetCurrentVersion()}, {"last result", last},
	}); err != nil {
		return err
	}
	var rows [][]string
	for _, set := range got.GetSets() {
		var pending []string
		for _, m := range set.GetPending() {
			pending = append(pending, strings.TrimSpace(m.GetVersion()+" "+m.GetDescription()))
		}
		rows = append(rows, []string{set.GetSet(), set.GetVersion(), strings.Join(pending, "\n")})
	}
	return a.printTable([]string{"set", "version", "pending"}, rows)
}
