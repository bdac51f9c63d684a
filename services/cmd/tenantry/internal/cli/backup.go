package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// backups calls f with a client of the provisioner, as an operator.
func (a *app) backups(f func(provisionerv1.BackupServiceClient) error) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	return f(provisionerv1.NewBackupServiceClient(conn))
}

// manifestSuffix makes the name of the file beside a copy that says what it is of.
const manifestSuffix = ".json"

// manifestFile is that file's content.
type manifestFile struct {
	Manifest json.RawMessage `json:"manifest"`
	Trailer  json.RawMessage `json:"trailer"`
}

// tenantBackupCmd is `tenantry tenant backup`.
type tenantBackupCmd struct {
	Company string `arg:"" help:"Id or slug."`
	File    string `arg:"" type:"path" help:"File to write; FILE.json beside it says what it is of, with its size and checksum. Neither must exist."`
	Force   bool   `name:"force" help:"Replace files that are there, once the new copy is whole."`
}

// Help is the long help.
func (tenantBackupCmd) Help() string {
	return `The copy is consistent, and in pg_dump's custom format: pg_restore reads it, too.

Example:

    tenantry tenant backup sun-valley sun-valley.dump
    tenantry tenant backup sun-valley sun-valley.dump --force`
}

// free tells whether the names of the files may be taken.
func (c *tenantBackupCmd) free() error {
	for _, name := range []string{c.File, c.File + manifestSuffix} {
		if _, err := os.Lstat(name); err == nil && !c.Force {
			return usagef("Choose another name, or replace it with --force.", "%s is there already", name)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return usagef("", "%v", err)
		}
	}
	return nil
}

// Run copies a tenant's database into a file.
func (c *tenantBackupCmd) Run(ctx context.Context, a *app) error {
	if err := c.free(); err != nil {
		return err
	}
	return a.backups(func(client provisionerv1.BackupServiceClient) (err error) {
		stream, err := client.BackupTenant(ctx, &provisionerv1.BackupTenantRequest{Company: c.Company})
		if err != nil {
			return err
		}
		var manifest *provisionerv1.BackupManifest
		var trailer *provisionerv1.BackupTrailer
		data, err := writePart(c.File, func(w io.Writer) (err error) {
			manifest, trailer, err = receiveCopy(stream.Recv, w)
			return err
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, removePart(data)) }()
		about, err := writePart(c.File+manifestSuffix, func(w io.Writer) error { return writeManifest(w, manifest, trailer) })
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, removePart(about)) }()
		if err := c.free(); err != nil { // Somebody may have come first.
			return err
		}
		if err := os.Rename(about, c.File+manifestSuffix); err != nil {
			return err
		}
		if err := os.Rename(data, c.File); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(manifest)
		}
		return a.printf("%s: %d bytes of %s at %s\n", c.File, trailer.GetBytes(), manifest.GetSlug(), manifest.GetSchemaVersion())
	})
}

// writePart writes a file beside the one that it is to become, and returns its name: what was cut off must not be taken for
// the whole. Nothing is left of one that fails.
func writePart(path string, write func(w io.Writer) error) (name string, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-*")
	if err != nil {
		return "", usagef("", "%v", err)
	}
	if err := errors.Join(write(file), file.Sync(), file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// removePart removes a part that did not become what it was to.
func removePart(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// receiveCopy writes the bytes of a copy, which has to end with its trailer.
func receiveCopy(recv func() (*provisionerv1.BackupTenantResponse, error), w io.Writer) (manifest *provisionerv1.BackupManifest, trailer *provisionerv1.BackupTrailer, err error) {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			if manifest == nil || trailer == nil {
				return nil, nil, errors.New("the copy was cut off")
			}
			return manifest, trailer, nil
		}
		if err != nil {
			return nil, nil, err
		}
		switch part := m.GetPart().(type) {
		case *provisionerv1.BackupTenantResponse_Manifest:
			manifest = part.Manifest
		case *provisionerv1.BackupTenantResponse_Data:
			if _, err := w.Write(part.Data); err != nil {
				return nil, nil, err
			}
		case *provisionerv1.BackupTenantResponse_Trailer:
			trailer = part.Trailer
		}
	}
}

func writeManifest(w io.Writer, manifest *provisionerv1.BackupManifest, trailer *provisionerv1.BackupTrailer) error {
	var content manifestFile
	var err error
	options := protojson.MarshalOptions{UseProtoNames: true}
	if content.Manifest, err = options.Marshal(manifest); err != nil {
		return err
	}
	if content.Trailer, err = options.Marshal(trailer); err != nil {
		return err
	}
	data, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

func readManifest(path string) (*provisionerv1.BackupManifest, *provisionerv1.BackupTrailer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, usagef("`tenantry tenant backup` writes it beside the copy.", "%v", err)
	}
	var content manifestFile
	manifest, trailer := &provisionerv1.BackupManifest{}, &provisionerv1.BackupTrailer{}
	err = json.Unmarshal(data, &content)
	if err == nil {
		err = protojson.Unmarshal(content.Manifest, manifest)
	}
	if err == nil {
		err = protojson.Unmarshal(content.Trailer, trailer)
	}
	if err != nil {
		return nil, nil, usagef("", "%s: %v", path, err)
	}
	return manifest, trailer, nil
}

// tenantRestoreCmd is `tenantry tenant restore`.
type tenantRestoreCmd struct {
	Company    string `arg:"" help:"Id or slug of the company that gets the copy."`
	File       string `arg:"" type:"path" help:"File that backup wrote; FILE.json must be beside it."`
	AnyCompany bool   `name:"any-company" help:"Take a copy that is of another company."`
}

// Help is the long help.
func (tenantRestoreCmd) Help() string {
	return `The copy becomes a database of its own, is brought to the current release, and takes the place of the one that the company has only when it is whole; the old one is dropped then. Whatever fails before, the company keeps what it has. A file that is not what FILE.json says is refused before anything is sent.

Example:

    tenantry tenant restore sun-valley sun-valley.dump`
}

// uploadSize is how many bytes one message has.
const uploadSize = 256 << 10

// Run restores.
func (c *tenantRestoreCmd) Run(ctx context.Context, a *app) error {
	manifest, trailer, err := readManifest(c.File + manifestSuffix)
	if err != nil {
		return err
	}
	file, err := os.Open(c.File)
	if err != nil {
		return usagef("", "%v", err)
	}
	defer func() { _ = file.Close() }() // It was only read.
	if err := checkCopy(ctx, file, trailer); err != nil {
		return err
	}
	return a.backups(func(client provisionerv1.BackupServiceClient) error {
		stream, err := client.RestoreTenant(ctx)
		if err != nil {
			return err
		}
		err = sendCopy(stream.Send, file, &provisionerv1.RestoreStart{Company: c.Company, Manifest: manifest, AnyCompany: c.AnyCompany}, trailer)
		if err != nil && !errors.Is(err, io.EOF) { // The answer says why the stream ended.
			return err
		}
		out, err := stream.CloseAndRecv()
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(out)
		}
		return a.printf("%s has database %s at %s\n", c.Company, out.GetDatabase(), out.GetSchemaVersion())
	})
}

func sendCopy(send func(*provisionerv1.RestoreTenantRequest) error, r io.Reader, start *provisionerv1.RestoreStart, trailer *provisionerv1.BackupTrailer) error {
	if err := send(&provisionerv1.RestoreTenantRequest{Part: &provisionerv1.RestoreTenantRequest_Start{Start: start}}); err != nil {
		return err
	}
	for {
		part := make([]byte, uploadSize)
		n, err := io.ReadFull(r, part)
		if n > 0 {
			if err := send(&provisionerv1.RestoreTenantRequest{Part: &provisionerv1.RestoreTenantRequest_Data{Data: part[:n]}}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return send(&provisionerv1.RestoreTenantRequest{Part: &provisionerv1.RestoreTenantRequest_Trailer{Trailer: trailer}})
		case err != nil:
			return fmt.Errorf("read the copy: %w", err)
		}
	}
}

// tenantCloneCmd is `tenantry tenant clone`.
type tenantCloneCmd struct {
	Source     string `arg:"" help:"Id or slug of the company whose database is copied."`
	Name       string `arg:"" help:"Name of the new company."`
	Slug       string `name:"slug" placeholder:"SLUG" help:"Its slug. Default: made of the name."`
	OwnerName  string `name:"owner-name" placeholder:"NAME" help:"Name of its first user. Default: the e-mail."`
	OwnerEmail string `name:"owner-email" required:"" placeholder:"EMAIL" help:"E-mail of its first user."`
	RequestID  string `name:"request-id" placeholder:"ID" help:"Repeats the request of that id instead of making another."`
}

// Help is the long help.
func (tenantCloneCmd) Help() string {
	return `A new company signs up, and its database is a copy of another's: for trying something out, or for support.

Example:

    tenantry tenant clone sun-valley "Sun Valley trial" --owner-email ada+trial@sunvalley.example`
}

// Run clones.
func (c *tenantCloneCmd) Run(ctx context.Context, a *app) error {
	if c.RequestID == "" {
		c.RequestID = newRequestID()
		a.notef("request id %s", c.RequestID)
	}
	if c.OwnerName == "" {
		c.OwnerName = c.OwnerEmail
	}
	request := &provisionerv1.CloneTenantRequest{RequestId: c.RequestID, Source: c.Source, Company: &registryv1.CompanyDraft{Name: c.Name, Slug: c.Slug},
		Owner: &registryv1.OwnerDraft{Name: c.OwnerName, Email: c.OwnerEmail}}
	return a.backups(func(client provisionerv1.BackupServiceClient) error {
		var out *provisionerv1.CloneTenantResponse
		err := persist(ctx, a, func() (err error) { out, err = client.CloneTenant(ctx, request); return err })
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(out)
		}
		return a.printf("%s is %s at %s\n", out.GetSlug(), stateName(out.GetState(), "COMPANY_STATE_"), out.GetSchemaVersion())
	})
}
