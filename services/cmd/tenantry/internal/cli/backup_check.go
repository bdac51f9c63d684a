package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// checkCopy compares the file of a copy with its trailer, and leaves it at its beginning: INVALID_ARGUMENT `BACKUP_INVALID`,
// as the provisioner says when all was sent and a database was filled with it.
func checkCopy(ctx context.Context, file *os.File, trailer *provisionerv1.BackupTrailer) error {
	about := file.Name() + manifestSuffix
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	if info.Size() != trailer.GetBytes() {
		return fault.New(codes.InvalidArgument, fault.BackupInvalid, "%s has %d bytes, and %s says %d", file.Name(), info.Size(), about, trailer.GetBytes()).
			At("trailer.bytes")
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, whileWanted{ctx, file}); err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	if got := hash.Sum(nil); !bytes.Equal(got, trailer.GetSha256()) {
		return fault.New(codes.InvalidArgument, fault.BackupInvalid, "%s has the SHA-256 %x, and %s says %x", file.Name(), got, about, trailer.GetSha256()).
			At("trailer.sha256")
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// whileWanted reads until the context ends.
type whileWanted struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (w whileWanted) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}
