package registry_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/token"
)

func TestALoginGivesATokenThatAnyoneCanVerify(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	out := s.login(strings.ToUpper(c.GetOwnerEmail()))
	require.Equal(t, c.GetTenant().GetCompanyId(), out.GetCompanyId())
	require.Equal(t, c.GetOwnerId(), out.GetUserId())
	require.WithinDuration(t, time.Now().Add(10*time.Minute), out.GetExpiresAt().AsTime(), 30*time.Second)

	jwks, err := s.sessions().GetJwks(t.Context(), &registryv1.GetJwksRequest{})
	require.NoError(t, err)
	public, err := base64.RawURLEncoding.DecodeString(jwks.GetKeys()[0].GetX())
	require.NoError(t, err)
	claims, err := token.NewVerifier(token.NewKey(ed25519.PublicKey(public))).VerifyAccess(out.GetAccessToken())
	require.NoError(t, err)
	require.Equal(t, out.GetUserId(), claims.UserID.String())
	require.Equal(t, out.GetCompanyId(), claims.CompanyID.String())
	require.Equal(t, []string{"owner"}, claims.Roles)
}

func TestEveryBadLoginIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	users := registryv1.NewUserServiceClient(s.as("operator/ops"))
	nopass, err := users.CreateUser(t.Context(), &registryv1.CreateUserRequest{Company: c.GetTenant().GetSlug(), Email: "nopass@example.com", Name: "N"})
	require.NoError(t, err)
	require.False(t, nopass.GetUser().GetHasPassword())
	disabled, err := users.CreateUser(t.Context(), &registryv1.CreateUserRequest{Company: c.GetTenant().GetSlug(), Email: "disabled@example.com", Name: "D", Password: password})
	require.NoError(t, err)
	_, err = users.DisableUser(t.Context(), &registryv1.DisableUserRequest{UserId: disabled.GetUser().GetUserId()})
	require.NoError(t, err)
	var texts []string
	for _, login := range []*registryv1.LoginRequest{
		{Email: "unknown@example.com", Password: password}, {Email: c.GetOwnerEmail(), Password: "wrong horse"},
		{Email: "nopass@example.com", Password: "a password that nobody has"}, {Email: "disabled@example.com", Password: password},
	} {
		_, err := s.sessions().Login(t.Context(), login)
		texts = append(texts, requireFault(t, err, codes.Unauthenticated, fault.CredentialsInvalid).Error())
	}
	for _, text := range texts {
		require.Equal(t, texts[0], text)
	}
}

func TestACompanyThatIsNotOpenHasNoLogins(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.request()
	out, err := s.tenants().ReserveTenant(t.Context(), q)
	require.NoError(t, err)
	_, err = s.sessions().Login(t.Context(), &registryv1.LoginRequest{Email: q.GetOwner().GetEmail(), Password: password})
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyNotActive)
	id := out.GetReservation().GetTenant().GetCompanyId()
	_, err = s.tenants().ActivateTenant(t.Context(), &registryv1.ActivateTenantRequest{CompanyId: id, SchemaVersion: "1"})
	require.NoError(t, err)
	login := s.login(q.GetOwner().GetEmail())
	_, err = registryv1.NewCompanyServiceClient(s.as("operator/ops")).SuspendCompany(t.Context(), &registryv1.SuspendCompanyRequest{Company: id, Reason: "x"})
	require.NoError(t, err)
	_, err = s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: login.GetRefreshToken()})
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyNotActive)
	_, err = registryv1.NewCompanyServiceClient(s.as("")).GetCompany(s.with(login.GetAccessToken()), &registryv1.GetCompanyRequest{Company: id})
	requireFault(t, err, codes.FailedPrecondition, fault.CompanyNotActive)
	_, err = registryv1.NewCompanyServiceClient(s.as("operator/ops")).ResumeCompany(t.Context(), &registryv1.ResumeCompanyRequest{Company: id})
	require.NoError(t, err)
	_, err = s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: login.GetRefreshToken()})
	require.NoError(t, err, "the refused refresh did not use the token up")
}

func TestARefreshTokenWorksOnceAndItsSecondUseEndsTheSession(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	stream := s.watch(t.Context(), 0)
	_, _ = snapshot(t, stream)
	first := s.login(c.GetOwnerEmail())
	second, err := s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: first.GetRefreshToken()})
	require.NoError(t, err)
	_, err = s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: first.GetRefreshToken()})
	requireFault(t, err, codes.Unauthenticated, fault.RefreshTokenReused)
	_, err = s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: second.GetRefreshToken()})
	requireFault(t, err, codes.Unauthenticated, fault.RefreshTokenInvalid)
	_, err = s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: "never given"})
	requireFault(t, err, codes.Unauthenticated, fault.RefreshTokenInvalid)
	m := next(t, stream).GetCredentialsRevoked()
	require.Len(t, m.GetSessionIds(), 1)
	require.True(t, m.GetForgetTime().AsTime().After(second.GetExpiresAt().AsTime()))
	_, err = registryv1.NewCompanyServiceClient(s.as("")).GetCompany(s.with(second.GetAccessToken()), &registryv1.GetCompanyRequest{Company: c.GetTenant().GetSlug()})
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsInvalid)
	require.NotEmpty(t, s.query("SELECT action FROM audit_events WHERE action = 'session.reused'"))
}

func TestOfManyRefreshesAtOnceOneWins(t *testing.T) {
	t.Parallel()
	s := start(t)
	login := s.login(s.company().GetOwnerEmail())
	client := s.sessions()
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() {
			_, errs[i] = client.Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: login.GetRefreshToken()})
		})
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		}
	}
	require.Equal(t, 1, won)
}

func TestLogoutEndsTheSessionByEitherToken(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	byRefresh, byAccess := s.login(c.GetOwnerEmail()), s.login(c.GetOwnerEmail())
	for range 2 {
		_, err := s.sessions().Logout(t.Context(), &registryv1.LogoutRequest{RefreshToken: byRefresh.GetRefreshToken()})
		require.NoError(t, err)
	}
	_, err := s.sessions().Logout(s.with(byAccess.GetAccessToken()), &registryv1.LogoutRequest{})
	require.NoError(t, err)
	_, err = s.sessions().Logout(t.Context(), &registryv1.LogoutRequest{})
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsMissing)
	for _, login := range []*registryv1.LoginResponse{byRefresh, byAccess} {
		_, err = s.sessions().Refresh(t.Context(), &registryv1.RefreshRequest{RefreshToken: login.GetRefreshToken()})
		requireFault(t, err, codes.Unauthenticated, fault.RefreshTokenInvalid)
	}
}

func TestSessionsAreListedAndRevoked(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	a, b := s.login(c.GetOwnerEmail()), s.login(c.GetOwnerEmail())
	list, err := s.sessions().ListSessions(s.with(a.GetAccessToken()), &registryv1.ListSessionsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetSessions(), 2)
	out, err := s.sessions().RevokeSessions(s.with(a.GetAccessToken()), &registryv1.RevokeSessionsRequest{SessionIds: []string{list.GetSessions()[0].GetSessionId()}})
	require.NoError(t, err)
	require.EqualValues(t, 1, out.GetRevoked())
	_, err = s.sessions().ListSessions(s.with(b.GetAccessToken()), &registryv1.ListSessionsRequest{})
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsInvalid)
	out, err = registryv1.NewSessionServiceClient(s.as("operator/ops")).RevokeSessions(t.Context(), &registryv1.RevokeSessionsRequest{UserId: c.GetOwnerId()})
	require.NoError(t, err)
	require.EqualValues(t, 1, out.GetRevoked())
}

func TestUsersAreManagedByOwnersAdminsAndOperatorsWithinTheirReach(t *testing.T) {
	t.Parallel()
	s := start(t)
	c, other := s.company(), s.company()
	users := registryv1.NewUserServiceClient(s.as(""))
	owner := s.with(s.login(c.GetOwnerEmail()).GetAccessToken())
	create := func(email string, roles ...string) string {
		out, err := users.CreateUser(owner, &registryv1.CreateUserRequest{Email: email, Name: "X", Roles: roles, Password: password})
		require.NoError(t, err)
		return out.GetUser().GetUserId()
	}
	adminID, userID := create("admin@example.com", "admin"), create("user@example.com")
	admin, user := s.with(s.login("admin@example.com").GetAccessToken()), s.with(s.login("user@example.com").GetAccessToken())

	_, err := users.CreateUser(owner, &registryv1.CreateUserRequest{Email: "USER@example.com", Name: "X"})
	requireFault(t, err, codes.AlreadyExists, fault.EmailTaken)
	_, err = users.ListUsers(user, &registryv1.ListUsersRequest{})
	requireFault(t, err, codes.PermissionDenied, fault.RoleMissing)
	_, err = users.CreateUser(owner, &registryv1.CreateUserRequest{Company: other.GetTenant().GetSlug(), Email: "x@example.com", Name: "X"})
	requireFault(t, err, codes.PermissionDenied, fault.TenantMismatch)
	_, err = users.DisableUser(owner, &registryv1.DisableUserRequest{UserId: other.GetOwnerId()})
	requireFault(t, err, codes.NotFound, fault.UserNotFound)

	// An admin may neither make nor touch an owner, nor become one.
	_, err = users.CreateUser(admin, &registryv1.CreateUserRequest{Email: "o2@example.com", Name: "X", Roles: []string{"owner"}})
	requireFault(t, err, codes.PermissionDenied, fault.RoleMissing)
	_, err = users.ChangePassword(admin, &registryv1.ChangePasswordRequest{UserId: c.GetOwnerId(), NewPassword: "a new password"})
	requireFault(t, err, codes.PermissionDenied, fault.RoleMissing)
	_, err = users.UpdateUser(admin, &registryv1.UpdateUserRequest{UserId: adminID, Fields: &registryv1.UserFields{Roles: []string{"owner"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"roles"}}})
	requireFault(t, err, codes.PermissionDenied, fault.RoleMissing)
	_, err = users.UpdateUser(user, &registryv1.UpdateUserRequest{UserId: userID, Fields: &registryv1.UserFields{Roles: []string{"admin"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"roles"}}})
	requireFault(t, err, codes.PermissionDenied, fault.RoleMissing)

	// Changed roles end sessions, as tokens would go on with the old ones.
	out, err := users.UpdateUser(admin, &registryv1.UpdateUserRequest{UserId: userID, Fields: &registryv1.UserFields{Roles: []string{"user", "clerk"}, Name: "Ursula"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"roles", "name"}}})
	require.NoError(t, err)
	require.Equal(t, []string{"clerk", "user"}, out.GetUser().GetRoles())
	require.Equal(t, "Ursula", out.GetUser().GetName())
	_, err = users.ChangePassword(user, &registryv1.ChangePasswordRequest{CurrentPassword: password, NewPassword: "a new password"})
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsInvalid)

	user = s.with(s.login("user@example.com").GetAccessToken())
	_, err = users.ChangePassword(user, &registryv1.ChangePasswordRequest{CurrentPassword: "wrong horse", NewPassword: "a new password"})
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsInvalid)
	_, err = users.ChangePassword(user, &registryv1.ChangePasswordRequest{CurrentPassword: password, NewPassword: "a new password"})
	require.NoError(t, err)
	_, err = s.sessions().Login(t.Context(), &registryv1.LoginRequest{Email: "user@example.com", Password: "a new password"})
	require.NoError(t, err)

	list, err := users.ListUsers(owner, &registryv1.ListUsersRequest{PageSize: 2})
	require.NoError(t, err)
	require.Len(t, list.GetUsers(), 2)
	list, err = users.ListUsers(owner, &registryv1.ListUsersRequest{PageSize: 2, PageToken: list.GetNextPageToken()})
	require.NoError(t, err)
	require.Len(t, list.GetUsers(), 1)
}

func TestACompanyAlwaysKeepsAnOwner(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	users := registryv1.NewUserServiceClient(s.as("operator/ops"))
	_, err := users.DisableUser(t.Context(), &registryv1.DisableUserRequest{UserId: c.GetOwnerId()})
	requireFault(t, err, codes.FailedPrecondition, fault.LastOwner)
	second, err := users.CreateUser(t.Context(), &registryv1.CreateUserRequest{Company: c.GetTenant().GetSlug(), Email: "o2@example.com", Name: "X", Roles: []string{"owner"}})
	require.NoError(t, err)
	var group sync.WaitGroup
	errs := make([]error, 2)
	for i, id := range []string{c.GetOwnerId(), second.GetUser().GetUserId()} {
		group.Go(func() { _, errs[i] = users.DisableUser(t.Context(), &registryv1.DisableUserRequest{UserId: id}) })
	}
	group.Wait()
	require.NotEqual(t, errs[0] == nil, errs[1] == nil, "%v", errs)
	require.Equal(t, []string{"1"}, s.query("SELECT count(*)::text FROM users WHERE disabled_at IS NULL"))
}

func TestAnAPIKeyIsShownOnceWorksAndIsRevoked(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	keys, companies := registryv1.NewApiKeyServiceClient(s.as("")), registryv1.NewCompanyServiceClient(s.as(""))
	owner := s.with(s.login(c.GetOwnerEmail()).GetAccessToken())
	created, err := keys.CreateApiKey(owner, &registryv1.CreateApiKeyRequest{Name: "meters"})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(created.GetKey(), created.GetApiKey().GetPrefix()+"_"))
	got, err := companies.GetCompany(s.with(created.GetKey()), &registryv1.GetCompanyRequest{Company: c.GetTenant().GetSlug()})
	require.NoError(t, err)
	require.Equal(t, c.GetTenant().GetCompanyId(), got.GetCompany().GetCompanyId())
	_, err = keys.CreateApiKey(s.with(created.GetKey()), &registryv1.CreateApiKeyRequest{Name: "more"})
	requireFault(t, err, codes.PermissionDenied, fault.RoleMissing)
	_, err = keys.CreateApiKey(owner, &registryv1.CreateApiKeyRequest{Name: "late", ExpireTime: timestamppb.New(time.Now().Add(-time.Hour))})
	requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)

	gateway := registryv1.NewRouteServiceClient(s.as("service/gateway"))
	hash := credential.HashOf(created.GetKey())
	resolved, err := gateway.ResolveCredential(t.Context(), &registryv1.ResolveCredentialRequest{ApiKeyHash: hash[:]})
	require.NoError(t, err)
	require.Equal(t, created.GetApiKey().GetApiKeyId(), resolved.GetApiKeyId())
	require.Equal(t, []string{"user"}, resolved.GetRoles())
	list, err := keys.ListApiKeys(owner, &registryv1.ListApiKeysRequest{})
	require.NoError(t, err)
	require.NotNil(t, list.GetApiKeys()[0].GetLastUsedTime())

	for range 2 {
		revoked, err := keys.RevokeApiKey(owner, &registryv1.RevokeApiKeyRequest{ApiKeyId: created.GetApiKey().GetApiKeyId()})
		require.NoError(t, err)
		require.NotNil(t, revoked.GetApiKey().GetRevokeTime())
	}
	_, err = gateway.ResolveCredential(t.Context(), &registryv1.ResolveCredentialRequest{ApiKeyHash: hash[:]})
	requireFault(t, err, codes.Unauthenticated, fault.CredentialsInvalid)
	other := s.with(s.login(s.company().GetOwnerEmail()).GetAccessToken())
	_, err = keys.RevokeApiKey(other, &registryv1.RevokeApiKeyRequest{ApiKeyId: created.GetApiKey().GetApiKeyId()})
	requireFault(t, err, codes.NotFound, fault.APIKeyNotFound)
}

func TestNoSecretIsInTheDatabase(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.company()
	login := s.login(c.GetOwnerEmail())
	key, err := registryv1.NewApiKeyServiceClient(s.as("")).CreateApiKey(s.with(login.GetAccessToken()), &registryv1.CreateApiKeyRequest{Name: "k"})
	require.NoError(t, err)
	var all strings.Builder
	for _, table := range s.query("SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'atlas_schema_revisions')") {
		for _, row := range s.query("SELECT t::text FROM " + table + " t") {
			all.WriteString(row)
		}
	}
	require.Contains(t, all.String(), "$argon2id$", "the dump holds what it should")
	for _, secret := range []string{password, login.GetRefreshToken(), login.GetAccessToken(), key.GetKey()} {
		require.NotContains(t, all.String(), secret)
	}
}
