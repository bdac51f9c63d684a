package snapshot_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	snapshotv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/snapshot/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/snapshot"
	"github.com/tenantry/tenantry/services/internal/credential"
)

const day = 24 * time.Hour

// fixture is files in a directory of their own.
type fixture struct {
	*snapshot.Files
	t    testing.TB
	key  credential.MasterKey
	path string
}

func open(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, key: credential.NewMasterKey(), path: filepath.Join(t.TempDir(), "routes")}
	var err error
	f.Files, err = snapshot.Open(f.path, f.key)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

// records are one of each kind.
func records() []*snapshotv1.Record {
	id := func(b byte) []byte { return append(make([]byte, 15), b) }
	return []*snapshotv1.Record{
		{Part: &snapshotv1.Record_Cluster{Cluster: &registryv1.Cluster{Name: "a", Host: "a.example", Port: 5432, ConnectionBudget: 100}}},
		{Part: &snapshotv1.Record_Routes{Routes: &registryv1.RouteBatch{Routes: []*registryv1.Route{
			{CompanyId: id(1), DatabaseId: id(2), Slug: "sun", Cluster: "a", State: registryv1.CompanyState_COMPANY_STATE_ACTIVE, Version: 3, SchemaVersion: "9", PasswordVersion: 1},
			{CompanyId: id(3), DatabaseId: id(4), Slug: "moon", Cluster: "a", State: registryv1.CompanyState_COMPANY_STATE_SUSPENDED, Version: 4},
		}}}},
		{Part: &snapshotv1.Record_Revoked{Revoked: &snapshotv1.Revoked{Ids: [][]byte{id(5), id(6)}, ForgetTime: timestamppb.New(time.Unix(1, 2))}}},
		{Part: &snapshotv1.Record_Keys{Keys: &registryv1.GetJwksResponse{Keys: []*registryv1.JsonWebKey{{Kty: "OKP", X: "x"}}}}},
		{Part: &snapshotv1.Record_ApiKey{ApiKey: &snapshotv1.ApiKey{Hash: make([]byte, 32), Caller: &registryv1.ResolveCredentialResponse{ApiKeyId: "k", Roles: []string{"user"}}}}},
	}
}

// write writes some records, with routes that were fresh some time ago.
func (f *fixture) write(age time.Duration, some ...*snapshotv1.Record) {
	f.t.Helper()
	size, err := f.WriteRoutes(&snapshotv1.Head{FreshTime: timestamppb.New(time.Now().Add(-age)), Sequence: 42}, func(add func(*snapshotv1.Record) error) error {
		for _, r := range some {
			if err := add(r); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(f.t, err)
	info, err := os.Stat(f.path)
	require.NoError(f.t, err)
	require.Equal(f.t, info.Size(), size)
}

func (f *fixture) read() (*snapshotv1.Head, []*snapshotv1.Record, error) {
	f.t.Helper()
	var got []*snapshotv1.Record
	head, err := f.ReadRoutes(day, func(r *snapshotv1.Record) error {
		got = append(got, r)
		return nil
	})
	return head, got, err
}

// refused requires that the snapshot is refused for a reason, before any record is seen.
func (f *fixture) refused(reason snapshot.Reason, why string, args ...any) {
	f.t.Helper()
	_, got, err := f.read()
	requireReason(f.t, err, reason, fmt.Sprintf(why, args...))
	require.Empty(f.t, got, why)
}

func requireReason(t testing.TB, err error, reason snapshot.Reason, why string) {
	t.Helper()
	var refusal *snapshot.Refusal
	require.ErrorAs(t, err, &refusal, why)
	require.Equal(t, reason, refusal.Reason, "%s: %v", why, err)
}

func TestASnapshotIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.refused(snapshot.Missing, "there is none yet")
	for range 2 {
		f.write(time.Minute, records()...)
		head, got, err := f.read()
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(records(), got, protocmp.Transform()))
		require.EqualValues(t, 42, head.GetSequence())
		require.InDelta(t, time.Minute, time.Since(head.GetFreshTime().AsTime()), float64(30*time.Second))
		info, err := os.Stat(f.path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	entries, err := os.ReadDir(filepath.Dir(f.path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the snapshot and the lock: %v", entries)
}

func TestASnapshotThatIsCutAnywhereIsRefused(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.write(0, records()...)
	whole, err := os.ReadFile(f.path)
	require.NoError(t, err)
	for n := range whole {
		require.NoError(t, os.WriteFile(f.path, whole[:n], 0o600))
		f.refused(snapshot.CutShort, "%d of %d bytes", n, len(whole))
	}
	require.NoError(t, os.WriteFile(f.path, append(whole, 0), 0o600))
	f.refused(snapshot.CutShort, "a byte more")
}

func TestASnapshotWithAFlippedBitIsRefused(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.write(0, records()...)
	whole, err := os.ReadFile(f.path)
	require.NoError(t, err)
	const front, back = 12, 40
	for i := range whole {
		for bit := range 8 {
			altered := append([]byte(nil), whole...)
			altered[i] ^= 1 << bit
			require.NoError(t, os.WriteFile(f.path, altered, 0o600))
			want := snapshot.Altered
			switch {
			case i < front:
				want = snapshot.OtherVersion
			case i >= len(whole)-back && i < len(whole)-back+8:
				want = snapshot.CutShort
			}
			f.refused(want, "bit %d of byte %d", bit, i)
		}
	}
}

func TestASnapshotOfAnotherVersionKeyOrTimeIsRefused(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.write(0, records()...)
	whole, err := os.ReadFile(f.path)
	require.NoError(t, err)

	binary.BigEndian.PutUint32(whole[8:], 2)
	require.NoError(t, os.WriteFile(f.path, whole, 0o600))
	f.refused(snapshot.OtherVersion, "a later version")

	other := open(t)
	other.write(0, records()...)
	theirs, err := os.ReadFile(other.path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.path, theirs, 0o600))
	f.refused(snapshot.Altered, "another master key")

	require.NoError(t, f.WriteLease(&snapshotv1.Lease{}))
	lease, err := os.ReadFile(f.path + ".lease")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.path, lease, 0o600))
	f.refused(snapshot.Altered, "the other kind of file")

	f.write(day+time.Minute, records()...)
	f.refused(snapshot.TooOld, "a day and a minute")
	f.write(day-time.Minute, records()...)
	_, _, err = f.read()
	require.NoError(t, err)
	f.write(-time.Minute, records()...)
	f.refused(snapshot.Future, "a minute ahead")

	require.NoError(t, os.Remove(f.path))
	require.NoError(t, os.Symlink(f.path, f.path))
	f.refused(snapshot.Unreadable, "it leads nowhere")
}

func TestARecordThatIsNotTakenRefusesTheWholeSnapshot(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.write(0, records()...)
	_, err := f.ReadRoutes(day, func(*snapshotv1.Record) error { return errors.New("an id of 3 bytes") })
	requireReason(t, err, snapshot.Malformed, "it cannot be used")
	require.ErrorContains(t, err, "an id of 3 bytes")
}

func TestAWriteThatFailsLeavesTheOldSnapshot(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.write(0, records()...)
	_, err := f.WriteRoutes(&snapshotv1.Head{FreshTime: timestamppb.Now()}, func(add func(*snapshotv1.Record) error) error {
		require.NoError(t, add(records()[0]))
		return errors.New("half way")
	})
	require.ErrorContains(t, err, "half way")
	_, got, err := f.read()
	require.NoError(t, err)
	require.Len(t, got, len(records()))

	// What a process left that died in the middle is in nobody's way.
	require.NoError(t, os.WriteFile(f.path+".new", []byte("half"), 0o644))
	f.write(0, records()[:1]...)
	_, got, err = f.read()
	require.NoError(t, err)
	require.Len(t, got, 1)
}

func TestSharesAreReadByTheSameInstanceAlone(t *testing.T) {
	t.Parallel()
	f := open(t)
	_, err := f.ReadLease("one")
	requireReason(t, err, snapshot.Missing, "there is none yet")
	want := &snapshotv1.Lease{Instance: "one", AnswerTime: timestamppb.New(time.Now().Add(-time.Second)), LeaseDuration: durationpb.New(time.Minute), AloneShare: 2,
		ForgetDuration: durationpb.New(time.Hour), Clusters: []*registryv1.ClusterShare{{Cluster: "a", Share: 6, Budget: 12}}}
	require.NoError(t, f.WriteLease(proto.CloneOf(want)))
	got, err := f.ReadLease("one")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&snapshotv1.Lease{}, "write_time")))
	_, err = f.ReadLease("two")
	requireReason(t, err, snapshot.OtherInstance, "it is the other's")

	want.AnswerTime = timestamppb.New(time.Now().Add(time.Minute))
	require.NoError(t, f.WriteLease(want))
	_, err = f.ReadLease("one")
	requireReason(t, err, snapshot.Future, "the clock went back")

	require.NoError(t, f.RemoveLease())
	require.NoError(t, f.RemoveLease(), "it is gone already")
	_, err = f.ReadLease("one")
	requireReason(t, err, snapshot.Missing, "it was removed")
}

func TestOneProcessAtATimeHasTheFiles(t *testing.T) {
	t.Parallel()
	f := open(t)
	_, err := snapshot.Open(f.path, f.key)
	require.ErrorContains(t, err, "another process has it")
	require.NoError(t, f.Close())
	f.Files, err = snapshot.Open(f.path, f.key)
	require.NoError(t, err)
}

// FuzzNothingIsReadThatWasNotWritten gives the reader files that anybody may have written, and sealed ones of bytes that
// mean nothing.
func FuzzNothingIsReadThatWasNotWritten(f *testing.F) {
	files := open(f)
	files.write(0, records()...)
	whole, err := os.ReadFile(files.path)
	require.NoError(f, err)
	f.Add(whole[:len(whole)-1])
	f.Add(whole[12 : len(whole)-40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		x := open(t)
		require.NoError(t, os.WriteFile(x.path, text, 0o600))
		_, got, err := x.read()
		require.Error(t, err)
		require.Empty(t, got)

		require.NoError(t, x.Seal(text))
		var refusal *snapshot.Refusal
		if _, _, err := x.read(); err != nil {
			require.ErrorAs(t, err, &refusal)
		}
	})
}
