package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/token"
)

// keyCmd is `tenantry key`.
type keyCmd struct {
	New keyNewCmd `cmd:"" help:"Make a key."`
}

// keyNewCmd is `tenantry key new`.
type keyNewCmd struct {
	Kind string `arg:"" enum:"signing,master" help:"signing: an Ed25519 key that tokens are signed with, in PEM. master: 32 random bytes in hex, from which the passwords of tenants' database roles are derived."`
	File string `arg:"" type:"path" help:"File to write, for you alone to read. It must not exist."`
}

// Help is the long help.
func (keyNewCmd) Help() string {
	return `The registry and the gateway need a signing key each; the provisioner and the gateway share one master key. Losing the master key means giving every tenant role a new password; losing a signing key means that everyone logs in again.

Example:

    tenantry key new signing access.pem
    tenantry key new master master.hex`
}

// Run makes the key.
func (c *keyNewCmd) Run(a *app) error {
	content, err := c.content()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usagef("Name another file: keys are never written over.", "%s is there already", c.File)
	}
	if err != nil {
		return usagef("", "%v", err)
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", c.File, err)
	}
	if a.json {
		return a.printJSON(map[string]string{"kind": c.Kind, "file": c.File})
	}
	return a.printf("%s\n", c.File)
}

func (c *keyNewCmd) content() ([]byte, error) {
	if c.Kind == "master" {
		return []byte(credential.NewMasterKey().Hex() + "\n"), nil
	}
	signer, err := token.NewSigner()
	if err != nil {
		return nil, err
	}
	return signer.PEM()
}
