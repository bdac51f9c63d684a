package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/backup"
)

type backupService struct {
	provisionerv1.UnimplementedBackupServiceServer
	*Server
}

// chunk is how many bytes of a copy one message has.
const chunk = 256 << 10

// BackupTenant implements the contract.
func (s backupService) BackupTenant(r *provisionerv1.BackupTenantRequest, out grpc.ServerStreamingServer[provisionerv1.BackupTenantResponse]) error {
	ctx := out.Context()
	t, err := s.inUse(ctx, r.GetCompany())
	if err != nil {
		return err
	}
	manifest, err := s.Backups.Manifest(ctx, t)
	if err != nil {
		return err
	}
	if err := out.Send(&provisionerv1.BackupTenantResponse{Part: &provisionerv1.BackupTenantResponse_Manifest{Manifest: manifest}}); err != nil {
		return err
	}
	w := bufio.NewWriterSize(writerFunc(func(p []byte) error {
		return out.Send(&provisionerv1.BackupTenantResponse{Part: &provisionerv1.BackupTenantResponse_Data{Data: p}})
	}), chunk)
	sum, err := s.Backups.Dump(ctx, t, w)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	return out.Send(&provisionerv1.BackupTenantResponse{Part: &provisionerv1.BackupTenantResponse_Trailer{
		Trailer: &provisionerv1.BackupTrailer{Bytes: sum.Bytes, Sha256: sum.SHA256[:]}}})
}

type writerFunc func(p []byte) error

// Write implements io.Writer, with parts that no message is too large for.
func (f writerFunc) Write(p []byte) (int, error) {
	for written := 0; written < len(p); written += chunk {
		// What is sent may be read after Write has returned.
		if err := f(bytes.Clone(p[written:min(len(p), written+chunk)])); err != nil {
			return written, err
		}
	}
	return len(p), nil
}

// RestoreTenant implements the contract.
func (s backupService) RestoreTenant(in grpc.ClientStreamingServer[provisionerv1.RestoreTenantRequest, provisionerv1.RestoreTenantResponse]) error {
	ctx := in.Context()
	first, err := in.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return fault.Invalid("start", "got another part, want it first")
	}
	t, err := s.inUse(ctx, start.GetCompany())
	if err != nil {
		return err
	}
	if start.GetManifest().GetCompanyId() != t.GetCompanyId() && !start.GetAnyCompany() {
		return fault.New(codes.FailedPrecondition, fault.BackupMismatch, "the copy is of company %s (%s), and not of %s: say any_company if that is meant",
			start.GetManifest().GetSlug(), start.GetManifest().GetCompanyId(), t.GetSlug()).With("company_id", start.GetManifest().GetCompanyId())
	}
	r := &copyReader{in: in}
	after, err := s.Backups.Restore(ctx, t, r, r.check, actor(ctx))
	if err != nil {
		return err
	}
	database, err := uuid.Parse(after.GetDatabaseId())
	if err != nil {
		return err
	}
	return in.SendAndClose(&provisionerv1.RestoreTenantResponse{Database: tenant.DatabaseName(database), SchemaVersion: after.GetSchemaVersion()})
}

// copyReader reads the bytes of a copy from a stream, which has to end with a trailer.
type copyReader struct {
	in      grpc.ClientStreamingServer[provisionerv1.RestoreTenantRequest, provisionerv1.RestoreTenantResponse]
	rest    []byte
	trailer *provisionerv1.BackupTrailer
}

func cutOff() error {
	return fault.New(codes.InvalidArgument, fault.BackupInvalid, "the copy ends without its trailer: it was cut off").At("trailer")
}

// Read implements io.Reader.
func (r *copyReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.trailer != nil {
			return 0, io.EOF
		}
		m, err := r.in.Recv()
		if errors.Is(err, io.EOF) {
			return 0, cutOff()
		}
		if err != nil {
			return 0, err
		}
		switch part := m.GetPart().(type) {
		case *provisionerv1.RestoreTenantRequest_Data:
			r.rest = part.Data
		case *provisionerv1.RestoreTenantRequest_Trailer:
			r.trailer = part.Trailer
		default:
			return 0, fault.Invalid("part", "got start again, want data or trailer")
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// check compares what was read with the trailer.
func (r *copyReader) check(sum backup.Sum) error {
	switch {
	case r.trailer == nil:
		return cutOff()
	case sum.Bytes != r.trailer.GetBytes():
		return fault.New(codes.InvalidArgument, fault.BackupInvalid, "got %d bytes of the copy, and its trailer says %d", sum.Bytes, r.trailer.GetBytes()).At("trailer.bytes")
	case !bytes.Equal(sum.SHA256[:], r.trailer.GetSha256()):
		return fault.New(codes.InvalidArgument, fault.BackupInvalid, "the copy's SHA-256 is %x, and its trailer says %x", sum.SHA256, r.trailer.GetSha256()).At("trailer.sha256")
	}
	return nil
}

// CloneTenant implements the contract.
func (s backupService) CloneTenant(ctx context.Context, r *provisionerv1.CloneTenantRequest) (*provisionerv1.CloneTenantResponse, error) {
	if slug := r.GetCompany().GetSlug(); slug != "" {
		if err := tenant.CheckSlug(slug); err != nil {
			return nil, fault.Invalid("company.slug", "%v", err)
		}
	}
	source, err := s.inUse(ctx, r.GetSource())
	if err != nil {
		return nil, err
	}
	id, err := uuid.Parse(source.GetCompanyId())
	if err != nil {
		return nil, err
	}
	if _, err := backup.Find(); err != nil {
		return nil, err
	}
	t, err := s.Signups.Signup(ctx, &registryv1.ReserveTenantRequest{
		RequestId: r.GetRequestId(), Company: r.GetCompany(), Owner: r.GetOwner(), Plugins: source.GetPlugins(), Cluster: source.GetCluster(),
	}, &id)
	if err != nil {
		return nil, err
	}
	return &provisionerv1.CloneTenantResponse{CompanyId: t.GetCompanyId(), Slug: t.GetSlug(), State: t.GetState(), SchemaVersion: t.GetSchemaVersion()}, nil
}
