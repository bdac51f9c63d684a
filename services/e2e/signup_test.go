package e2e

import (
	"context"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// password is every owner's.
const password = "correct horse battery staple"

// company is one that signed up.
type company struct {
	id, slug, owner string
}

// signUp signs a company up whose owner is owner@SLUG.example.
func (s *system) signUp(slug string, plugins ...string) company {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	c := company{slug: slug, owner: "owner@" + slug + ".example"}
	got, err := provisionerv1.NewProvisionerServiceClient(s.dial("TENANTRY_PROVISIONER", asSignup)).CreateTenant(ctx,
		&provisionerv1.CreateTenantRequest{
			RequestId: uuid.NewString(),
			Company:   &registryv1.CompanyDraft{Name: "Company " + slug, Slug: slug},
			Owner:     &registryv1.OwnerDraft{Name: "Owner", Email: c.owner, Password: password},
			Plugins:   plugins,
		})
	require.NoError(s.t, err)
	require.Equal(s.t, registryv1.CompanyState_COMPANY_STATE_ACTIVE, got.GetState())
	c.id = got.GetCompanyId()
	return c
}

// logIn logs the owner of a company in through the gateway, and returns a context that carries the token.
func (s *system) logIn(c company) context.Context {
	s.t.Helper()
	return metadata.AppendToOutgoingContext(s.t.Context(), "authorization", "Bearer "+s.token(c))
}

// token is the access token of a company's owner.
func (s *system) token(c company) string {
	s.t.Helper()
	got, err := registryv1.NewSessionServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).Login(s.t.Context(),
		&registryv1.LoginRequest{Email: c.owner, Password: password})
	require.NoError(s.t, err)
	require.Equal(s.t, c.id, got.GetCompanyId())
	return got.GetAccessToken()
}

// execute runs a statement as the owner of a company.
func (s *system) execute(c company, sql string, params ...string) int64 {
	s.t.Helper()
	request := &gatewayv1.ExecuteRequest{Sql: sql}
	for _, p := range params {
		request.Params = append(request.Params, &gatewayv1.Value{Value: &gatewayv1.Value_Text{Text: p}})
	}
	got, err := gatewayv1.NewSqlServiceClient(s.dial("TENANTRY_GATEWAY", asNobody)).Execute(s.logIn(c), request)
	require.NoError(s.t, err)
	return got.GetRowsAffected()
}
