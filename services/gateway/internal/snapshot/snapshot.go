// Package snapshot keeps on disk what a gateway knows, so that it can start while the registry is away: the routes, the
// credentials that have ended and the keys that verify tokens in one file, and its shares of the connection budgets in a
// small one beside it, which is written more often. There is no secret in them.
//
// A file is sealed: an HMAC over all of it, with a key that is derived from the master key, proves that a gateway wrote it
// as it is. It is used as a whole or not at all, and the error of one that is not is a Refusal. It is written beside the
// old one, and takes its place when it is on the disk.
//
// # Why shares that are read from disk never pass the budget
//
// The registry counts, for each copy, what the copy may have open; the sum of that never passes the budget. So nobody has
// too much as long as a copy never uses more than is counted for it. In a process that lives, package budget sees to that:
//
//   - A share grows when the registry said so, which is after the registry counted it, and shrinks as soon as it said so.
//     The registry counts less only once the copy told a smaller share in a heartbeat, the copy's acknowledgement.
//   - When heartbeats are not answered, the copy counts its lease from when the last one that was answered was sent, the
//     registry from when that came. What is sent comes later, so the copy gives up first.
//
// What is on the disk is a share that a process might have in future. So that it is counted, too:
//
//   - Each heartbeat tells no less than what the file would give to whoever read it now. A share that shrinks is written
//     before it is acknowledged; where it cannot be written, the larger one is told until the file's own time is over.
//   - Who reads the file counts the lease as the process that wrote it did, from the time when the last answered heartbeat
//     was sent, which is in the file. The file may be older than the process's last answer; then its lease ends earlier.
//   - A copy that gives its shares back writes that there are none before it tells the registry. One that cannot reach the
//     registry tells nothing and keeps them, for as long as they last.
//   - Only one process has the files at a time, by a lock that ends with the process, and only a copy of the same name uses
//     the shares. The registry counts the lease of the process that died until it was silent for the term, or for seconds
//     once a copy of the same name has a lease of its own; and that begins with a heartbeat that tells the shares that were
//     read, and so counts them.
//   - The connections of a process that died end with it: PostgreSQL looks each second whether who asked is still there.
//     Shares that were read are used a little later than that.
//
// What is assumed: the machine's clock does not go back while no gateway runs, by more than can be seen. A file whose time
// is in the future is not used, so a clock that went back can lengthen a lease by no longer than nobody wrote the file,
// which is how long the gateway was down and some seconds. And the files stay where they were written: a copy of a file is
// as good as the file, and its seal does not tell of shares that were given back since.
package snapshot

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	snapshotv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/snapshot/v1"
	"github.com/tenantry/tenantry/services/internal/credential"
)

// Files are a gateway's snapshot at PATH, its shares at PATH.lease, and a lock at PATH.lock. They are this process's until
// Close, or until it dies.
type Files struct {
	routes, lease sealed
	lock          *os.File
}

// Open takes the files at a path, which need not exist; its directory must. It fails when another process has them.
func Open(path string, key credential.MasterKey) (*Files, error) {
	routesKey, err1 := key.SealKey("routes")
	leaseKey, err2 := key.SealKey("lease")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("snapshot: lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot: %s: another process has it: %w", lock.Name(), err), lock.Close())
	}
	return &Files{routes: sealed{path, routesKey}, lease: sealed{path + ".lease", leaseKey}, lock: lock}, nil
}

// Close lets another process have the files.
func (f *Files) Close() error { return f.lock.Close() }

// WriteRoutes replaces the snapshot. records calls its argument with one record after another; each may be used again
// once that returned. It sets the head's write time, and returns the snapshot's size in bytes.
func (f *Files) WriteRoutes(head *snapshotv1.Head, records func(add func(*snapshotv1.Record) error) error) (size int64, err error) {
	head.WriteTime = timestamppb.Now()
	return f.routes.write(func(w *writer) error {
		if err := w.add(head); err != nil {
			return err
		}
		return records(func(r *snapshotv1.Record) error { return w.add(r) })
	})
}

// ReadRoutes reads the snapshot, unless its routes were last fresh longer ago than maxAge, and calls take with each of its
// records. take is called only for a file whose seal is good; it may refuse a record all the same, so what it took counts
// when ReadRoutes returned no error.
func (f *Files) ReadRoutes(maxAge time.Duration, take func(*snapshotv1.Record) error) (*snapshotv1.Head, error) {
	var head snapshotv1.Head
	err := f.routes.read(func(r *reader) error {
		if err := r.next(&head); err != nil {
			return err
		}
		if err := notFuture(head.GetWriteTime(), head.GetFreshTime()); err != nil {
			return err
		}
		if age := time.Since(head.GetFreshTime().AsTime()); age > maxAge {
			return refuse(TooOld, "the routes were last fresh %s ago, want at most %s", age.Round(time.Second), maxAge)
		}
		for r.more() {
			var record snapshotv1.Record
			if err := r.next(&record); err != nil {
				return err
			}
			if err := take(&record); err != nil {
				return refuse(Malformed, "%v", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &head, nil
}

// WriteLease replaces the shares, and sets their write time.
func (f *Files) WriteLease(l *snapshotv1.Lease) error {
	l.WriteTime = timestamppb.Now()
	_, err := f.lease.write(func(w *writer) error { return w.add(l) })
	return err
}

// ReadLease reads the shares of a copy.
func (f *Files) ReadLease(instance string) (*snapshotv1.Lease, error) {
	var l snapshotv1.Lease
	err := f.lease.read(func(r *reader) error {
		if err := r.next(&l); err != nil {
			return err
		}
		if l.GetInstance() != instance {
			return refuse(OtherInstance, "got %q's, want %q's", l.GetInstance(), instance)
		}
		return notFuture(l.GetWriteTime(), l.GetAnswerTime())
	})
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// RemoveLease removes the shares, for good when it returns nil.
func (f *Files) RemoveLease() error { return f.lease.remove() }

// notFuture refuses what says that it is from the future: the clock went back, and how long ago anything was is not known.
func notFuture(written, known *timestamppb.Timestamp) error {
	now := time.Now()
	for _, at := range []*timestamppb.Timestamp{written, known} {
		if err := at.CheckValid(); err != nil {
			return refuse(Malformed, "%v", err)
		}
		if ahead := at.AsTime().Sub(now); ahead > 0 {
			return refuse(Future, "it is from %s in the future", ahead)
		}
	}
	return nil
}
