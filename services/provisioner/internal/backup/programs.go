package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// Programs are PostgreSQL's own, which know how to copy a database.
type Programs struct{ dump, restore string }

// Find looks for pg_dump and pg_restore in TENANTRY_PG_BIN, where Debian, Fedora and Homebrew put them, the newest first,
// and on PATH: FAILED_PRECONDITION `PROGRAM_NOT_FOUND`.
func Find() (Programs, error) {
	var dirs []string
	if dir := os.Getenv("TENANTRY_PG_BIN"); dir != "" {
		dirs = []string{dir}
	} else {
		for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				return Programs{}, fmt.Errorf("backup: %w", err)
			}
			slices.Sort(found)
			slices.Reverse(found)
			dirs = append(dirs, found...)
		}
		dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	}
	for _, dir := range dirs {
		p := Programs{filepath.Join(dir, "pg_dump"), filepath.Join(dir, "pg_restore")}
		if executable(p.dump) && executable(p.restore) {
			return p, nil
		}
	}
	return Programs{}, fault.New(codes.FailedPrecondition, fault.ProgramNotFound,
		"the provisioner finds no pg_dump and pg_restore: install PostgreSQL's client programs, or name their directory in TENANTRY_PG_BIN")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Sum is what a copy is known by.
type Sum struct {
	Bytes  int64
	SHA256 [sha256.Size]byte
}

// summed counts and hashes what passes.
type summed struct {
	bytes int64
	hash  interface {
		io.Writer
		Sum(b []byte) []byte
	}
}

func newSummed() *summed { return &summed{hash: sha256.New()} }

func (s *summed) Write(p []byte) (int, error) {
	s.bytes += int64(len(p))
	return s.hash.Write(p)
}

func (s *summed) sum() Sum {
	out := Sum{Bytes: s.bytes}
	copy(out.SHA256[:], s.hash.Sum(nil))
	return out
}

// Dump writes a consistent copy of the database of a DSN (a URI) in pg_dump's custom format.
func (p Programs) Dump(ctx context.Context, dsn string, w io.Writer) (Sum, error) {
	s := newSummed()
	err := run(ctx, p.dump, dsn, nil, io.MultiWriter(w, s), "--format=custom", "--no-owner")
	return s.sum(), err
}

// Restore reads such a copy into the empty database of a DSN, all or nothing, and returns what it has read: INVALID_ARGUMENT
// `BACKUP_INVALID` when it cannot be restored.
func (p Programs) Restore(ctx context.Context, dsn string, r io.Reader) (Sum, error) {
	s := newSummed()
	source := &failing{r: io.TeeReader(r, s)}
	err := run(ctx, p.restore, dsn, source, io.Discard, "--format=custom", "--no-owner", "--single-transaction", "--exit-on-error")
	if err == nil {
		_, err = io.Copy(io.Discard, source) // What may come behind the copy belongs to its sum.
	}
	switch {
	case source.err != nil:
		return s.sum(), source.err // Whoever sent it said why it ended; pg_restore only saw that it did.
	case err != nil && ctx.Err() == nil:
		return s.sum(), fault.New(codes.InvalidArgument, fault.BackupInvalid, "the copy cannot be restored: %v", err).Because(err)
	}
	return s.sum(), err
}

// failing remembers why a stream ended before its time.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// endWithin is how long a program may take to end that is told to.
const endWithin = 5 * time.Second

// run runs a program on a database. The password goes by the environment, where other users of the machine cannot read it.
func run(ctx context.Context, program, dsn string, in io.Reader, out io.Writer, args ...string) error {
	u, err := url.Parse(dsn)
	if err != nil {
		// The error of url.Parse repeats what it could not parse.
		return errors.New("backup: the DSN is no URI")
	}
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	var complaint tail
	cmd := exec.CommandContext(ctx, program, append(args, "--no-password", "--dbname", u.String())...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password, "PGAPPNAME=tenantry provisioner")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &complaint
	cmd.WaitDelay = endWithin
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("%s: %w: %s", filepath.Base(program), err, complaint.text()))
	}
	return nil
}

// tail keeps the end of what a program says.
type tail struct{ buffer bytes.Buffer }

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.buffer.Write(p)
	if over := t.buffer.Len() - tailSize; over > 0 {
		t.buffer.Next(over)
	}
	return len(p), nil
}

func (t *tail) text() string { return strings.TrimSpace(t.buffer.String()) }
