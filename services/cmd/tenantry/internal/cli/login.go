package cli

import (
	"context"
	"errors"
	"os"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// loginCmd is `tenantry login`.
type loginCmd struct {
	Email string `arg:"" help:"E-mail of the user."`
}

// Help is the long help.
func (loginCmd) Help() string {
	return `The password is that of the variable TENANTRY_PASSWORD, or is asked for on a terminal, or is the first line of standard input. The session is kept in a file that you alone can read, under $XDG_STATE_HOME/tenantry (else ~/.local/state/tenantry), and is renewed as needed; "tenantry sql @ …" uses it. As JSON, its tokens are printed, too.

Example:

    tenantry login ada@sunvalley.example
    TOKEN=$(tenantry login ada@sunvalley.example --json < password-file | jq -r .access_token)`
}

// Run logs in through the gateway, as any client would.
func (c *loginCmd) Run(ctx context.Context, a *app) error {
	conn, err := a.connect(gatewayAddress, "")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	password, err := a.password("Password of " + c.Email + ": ")
	if err != nil {
		return err
	}
	got, err := registryv1.NewSessionServiceClient(conn).Login(ctx, &registryv1.LoginRequest{Email: c.Email, Password: password})
	if fault.HasReason(err, fault.CredentialsInvalid) {
		// The hint to log in would be of no use to someone who tries to.
		return &hintedError{error: err, hint: "Check the e-mail and the password. A user without a password gets one by UserService.ChangePassword."}
	}
	if err != nil {
		return err
	}
	store, err := openSessionStore(a.settings.getenv)
	if err != nil {
		return err
	}
	defer store.close()
	err = store.save(session{
		Gateway: conn.Target(), Email: c.Email, CompanyID: got.GetCompanyId(), UserID: got.GetUserId(),
		AccessToken: got.GetAccessToken(), RefreshToken: got.GetRefreshToken(), ExpiresAt: got.GetExpiresAt().AsTime(),
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(got)
	}
	return a.printf("Logged in as %s of company %s. Try: tenantry sql @ \"SELECT count(*) FROM people\"\n", c.Email, got.GetCompanyId())
}

// logoutCmd is `tenantry logout`.
type logoutCmd struct{}

// Help is the long help.
func (logoutCmd) Help() string {
	return `Example:

    tenantry logout`
}

// Run ends the session at the registry, then forgets it.
func (*logoutCmd) Run(ctx context.Context, a *app) error {
	store, err := openSessionStore(a.settings.getenv)
	if err != nil {
		return err
	}
	defer store.close()
	s, err := store.load()
	if errors.Is(err, os.ErrNotExist) {
		a.notef("There is no session to end.")
		return nil
	}
	if err != nil {
		return err
	}
	conn, err := a.connect(gatewayAddress, "")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	if conn.Target() == s.Gateway {
		_, err := registryv1.NewSessionServiceClient(conn).Logout(ctx, &registryv1.LogoutRequest{RefreshToken: s.RefreshToken})
		if err != nil {
			return err
		}
	}
	return store.forget()
}
