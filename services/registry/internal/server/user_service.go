package server

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/page"
	"github.com/tenantry/tenantry/services/registry/internal/store"
)

type userService struct {
	registryv1.UnimplementedUserServiceServer
	*Server
}

const roleUser = "user"

// rolesOf are roles as they are kept: sorted, and `user` where none was given.
func rolesOf(given []string) []string {
	if len(given) == 0 {
		return []string{roleUser}
	}
	roles := slices.Clone(given)
	slices.Sort(roles)
	return slices.Compact(roles)
}

// CreateUser implements the contract.
func (s userService) CreateUser(ctx context.Context, r *registryv1.CreateUserRequest) (*registryv1.CreateUserResponse, error) {
	company, err := s.managed(ctx, r.GetCompany(), r.GetRoles())
	if err != nil {
		return nil, err
	}
	var hash string
	if r.GetPassword() != "" {
		if hash, err = s.hasher.Hash(ctx, r.GetPassword()); err != nil {
			return nil, err
		}
	}
	u, err := s.store.CreateUser(ctx, actor(ctx), company, r.GetEmail(), r.GetName(), rolesOf(r.GetRoles()), hash)
	if err != nil {
		return nil, err
	}
	return &registryv1.CreateUserResponse{User: u.User}, nil
}

// ListUsers implements the contract.
func (s userService) ListUsers(ctx context.Context, r *registryv1.ListUsersRequest) (*registryv1.ListUsersResponse, error) {
	const method = page.Method("ListUsers")
	company, err := s.managed(ctx, r.GetCompany(), nil)
	if err != nil {
		return nil, err
	}
	after, err := method.AfterID(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := method.Size(r.GetPageSize())
	users, err := s.store.ListUsers(ctx, company, after, size+1)
	if err != nil {
		return nil, err
	}
	out := &registryv1.ListUsersResponse{}
	out.Users, out.NextPageToken = page.Cut(method, users, size, (*registryv1.User).GetUserId)
	return out, nil
}

// UpdateUser implements the contract.
func (s userService) UpdateUser(ctx context.Context, r *registryv1.UpdateUserRequest) (*registryv1.UpdateUserResponse, error) {
	u, err := s.userOf(ctx, r.GetUserId())
	if err != nil {
		return nil, err
	}
	f := r.GetFields()
	fields, err := masked(r.GetUpdateMask().GetPaths(), map[string]string{"email": f.GetEmail(), "name": f.GetName(), "roles": ""})
	if err != nil {
		return nil, err
	}
	change := store.UserChange{Action: "user.updated"}
	for path, value := range fields {
		switch path {
		case "roles":
			// One's own roles are others' to change.
			if err := manages(ctx, u.Company); err != nil {
				return nil, err
			}
			if err := mayGrant(ctx, append(slices.Clone(f.GetRoles()), u.GetRoles()...)); err != nil {
				return nil, err
			}
			change.Roles = rolesOf(f.GetRoles())
		case "email":
			if value == "" {
				return nil, fault.Invalid("fields.email", "got nothing, want an e-mail")
			}
			change.Email = &value
		case "name":
			if strings.TrimSpace(value) == "" {
				return nil, fault.Invalid("fields.name", "got nothing, want a name")
			}
			change.Name = &value
		}
	}
	if u, err = s.store.ChangeUser(ctx, actor(ctx), u.ID, change); err != nil {
		return nil, err
	}
	return &registryv1.UpdateUserResponse{User: u.User}, nil
}

// DisableUser implements the contract.
func (s userService) DisableUser(ctx context.Context, r *registryv1.DisableUserRequest) (*registryv1.DisableUserResponse, error) {
	u, err := s.userOf(ctx, r.GetUserId())
	if err != nil {
		return nil, err
	}
	if err := manages(ctx, u.Company); err != nil {
		return nil, err
	}
	if u, err = s.store.ChangeUser(ctx, actor(ctx), u.ID, store.UserChange{Disable: true, Action: "user.disabled"}); err != nil {
		return nil, err
	}
	return &registryv1.DisableUserResponse{User: u.User}, nil
}

// ChangePassword implements the contract.
func (s userService) ChangePassword(ctx context.Context, r *registryv1.ChangePasswordRequest) (*registryv1.ChangePasswordResponse, error) {
	u, err := s.userOf(ctx, r.GetUserId())
	if err != nil {
		return nil, err
	}
	if u.ID == identity.FromContext(ctx).UserID {
		ok, err := s.hasher.Matches(ctx, r.GetCurrentPassword(), u.PasswordHash)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "the current password is wrong")
		}
	}
	hash, err := s.hasher.Hash(ctx, r.GetNewPassword())
	if err != nil {
		return nil, err
	}
	_, err = s.store.ChangeUser(ctx, actor(ctx), u.ID, store.UserChange{PasswordHash: &hash, Action: "user.password_changed"})
	return &registryv1.ChangePasswordResponse{}, err
}
