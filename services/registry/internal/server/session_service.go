package server

import (
	"context"
	"encoding/base64"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/token"
	"github.com/tenantry/tenantry/services/registry/internal/store"
)

type sessionService struct {
	registryv1.UnimplementedSessionServiceServer
	*Server
}

func badLogin() error {
	return fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "the e-mail or the password is wrong")
}

// Login implements the contract. Whoever it is, one password is compared: with nothing, where there is none.
func (s sessionService) Login(ctx context.Context, r *registryv1.LoginRequest) (*registryv1.LoginResponse, error) {
	u, err := s.store.UserByEmail(ctx, r.GetEmail())
	if err != nil {
		return nil, err
	}
	hash := ""
	if u != nil && !u.GetDisabled() {
		hash = u.PasswordHash
	}
	ok, err := s.hasher.Matches(ctx, r.GetPassword(), hash)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, badLogin()
	}
	if !store.MayLogIn(u.CompanyState) {
		return nil, store.NotActive(u.CompanyState)
	}
	refresh := credential.NewRefreshToken()
	session, err := s.store.OpenSession(ctx, "user/"+u.GetUserId(), u, credential.HashOf(refresh))
	if err != nil {
		return nil, err
	}
	access, expires, err := s.access(u, session)
	return &registryv1.LoginResponse{AccessToken: access, RefreshToken: refresh, ExpiresAt: timestamppb.New(expires), CompanyId: u.GetCompanyId(), UserId: u.GetUserId()}, err
}

// access signs an access token with the user's roles as they are now.
func (s sessionService) access(u *store.User, session uuid.UUID) (string, time.Time, error) {
	expires := time.Now().Add(store.AccessTokenLife).Truncate(time.Second)
	signed, err := s.signer.SignAccess(token.Claims{CompanyID: u.Company, UserID: u.ID, SessionID: session, Roles: u.GetRoles(), ExpiresAt: expires})
	return signed, expires, err
}

// Refresh implements the contract.
func (s sessionService) Refresh(ctx context.Context, r *registryv1.RefreshRequest) (*registryv1.RefreshResponse, error) {
	refresh := credential.NewRefreshToken()
	session, u, err := s.store.RotateRefresh(ctx, credential.HashOf(r.GetRefreshToken()), credential.HashOf(refresh))
	if err != nil {
		return nil, err
	}
	access, expires, err := s.access(u, session)
	return &registryv1.RefreshResponse{AccessToken: access, RefreshToken: refresh, ExpiresAt: timestamppb.New(expires), CompanyId: u.GetCompanyId(), UserId: u.GetUserId()}, err
}

// Logout implements the contract.
func (s sessionService) Logout(ctx context.Context, r *registryv1.LogoutRequest) (*registryv1.LogoutResponse, error) {
	if r.GetRefreshToken() != "" {
		return &registryv1.LogoutResponse{}, s.store.CloseByRefresh(ctx, credential.HashOf(r.GetRefreshToken()))
	}
	caller := identity.FromContext(ctx)
	if caller.SessionID == uuid.Nil {
		return nil, fault.New(codes.Unauthenticated, fault.CredentialsMissing, "want a refresh token, or the access token of the session to end")
	}
	u, err := s.store.User(ctx, caller.UserID)
	if err != nil {
		return nil, err
	}
	_, err = s.store.RevokeSessions(ctx, caller.Actor(), u, []uuid.UUID{caller.SessionID})
	return &registryv1.LogoutResponse{}, err
}

// userOf is the user that a call is about: the caller, or one that the caller may manage.
func (s *Server) userOf(ctx context.Context, userID string) (*store.User, error) {
	caller := identity.FromContext(ctx)
	id, err := parseID("user_id", userID)
	if err != nil {
		return nil, err
	}
	if id == uuid.Nil {
		if id = caller.UserID; id == uuid.Nil {
			return nil, fault.Invalid("user_id", "got nothing, want a user, since the caller is none")
		}
	}
	u, err := s.store.User(ctx, id)
	if err != nil {
		return nil, err
	}
	if caller.IsTenant() && u.Company != caller.CompanyID {
		// Whether another company has such a user is not the caller's to know.
		return nil, fault.New(codes.NotFound, fault.UserNotFound, "there is no user %s", id).With("user_id", id.String())
	}
	if id == caller.UserID {
		return u, nil
	}
	if err := manages(ctx, u.Company); err != nil {
		return nil, err
	}
	return u, mayGrant(ctx, u.GetRoles())
}

// ListSessions implements the contract.
func (s sessionService) ListSessions(ctx context.Context, r *registryv1.ListSessionsRequest) (*registryv1.ListSessionsResponse, error) {
	u, err := s.userOf(ctx, r.GetUserId())
	if err != nil {
		return nil, err
	}
	sessions, err := s.store.ListSessions(ctx, u.ID)
	return &registryv1.ListSessionsResponse{Sessions: sessions}, err
}

// RevokeSessions implements the contract.
func (s sessionService) RevokeSessions(ctx context.Context, r *registryv1.RevokeSessionsRequest) (*registryv1.RevokeSessionsResponse, error) {
	u, err := s.userOf(ctx, r.GetUserId())
	if err != nil {
		return nil, err
	}
	var ids []uuid.UUID
	for _, text := range r.GetSessionIds() {
		id, err := parseID("session_ids", text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	n, err := s.store.RevokeSessions(ctx, actor(ctx), u, ids)
	return &registryv1.RevokeSessionsResponse{Revoked: int32(n)}, err
}

// GetJwks implements the contract.
func (s sessionService) GetJwks(context.Context, *registryv1.GetJwksRequest) (*registryv1.GetJwksResponse, error) {
	out := &registryv1.GetJwksResponse{}
	for _, k := range s.signer.Keys() {
		out.Keys = append(out.Keys, &registryv1.JsonWebKey{Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(k.Public),
			Kid: k.ID, Alg: "EdDSA", Use: "sig", Issuer: token.RegistryIssuer})
	}
	return out, nil
}
