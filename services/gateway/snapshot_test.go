package gateway

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/gateway/internal/budget"
	"github.com/tenantry/tenantry/services/gateway/internal/routes"
	"github.com/tenantry/tenantry/services/gateway/internal/session"
	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/token"
)

// disk is where keepers of one gateway keep what they know.
type disk struct {
	dir string
	key credential.MasterKey
}

// keeper is one that knows nothing yet, and its log.
func (d disk) keeper(t testing.TB) (*keeper, *observer.ObservedLogs) {
	t.Helper()
	core, log := observer.New(zapcore.DebugLevel)
	k, err := openKeeper(Config{RouteSnapshot: filepath.Join(d.dir, "routes"), MasterKey: d.key, Instance: "one", Logger: zap.New(core)})
	require.NoError(t, err)
	signer, err := token.NewSigner()
	require.NoError(t, err)
	k.routes = routes.New(nil, "one", routes.Events{}, zap.NewNop())
	k.sessions = session.New(nil, nil, signer, "assertion", nil, zap.NewNop())
	t.Cleanup(func() { _ = k.close() }) // Some are closed by then.
	return k, log
}

// learn puts some routes into a keeper's table, of which the registry spoke a minute ago.
func (k *keeper) learn(t testing.TB, n int) {
	t.Helper()
	image := routes.NewImage()
	image.Sequence, image.Fresh = 42, time.Now().Add(-time.Minute)
	image.PutCluster(&registryv1.Cluster{Name: "main", Host: "db", Port: 5432, ConnectionBudget: 20, Tls: registryv1.ClusterTls_CLUSTER_TLS_REQUIRE})
	for i := range n {
		id, database := uuid.New(), uuid.New()
		require.NoError(t, image.PutRoutes([]*registryv1.Route{{CompanyId: id[:], DatabaseId: database[:], Slug: fmt.Sprintf("company-%d", i), Cluster: "main",
			State: registryv1.CompanyState(1 + i%3), Version: int64(i), SchemaVersion: "20260101", PasswordVersion: 2}}))
	}
	k.routes.Restore(image)
}

func TestAKeeperKnowsWhatTheOneBeforeKnew(t *testing.T) {
	t.Parallel()
	d := disk{t.TempDir(), credential.NewMasterKey()}
	k, log := d.keeper(t)
	k.restore()
	require.Equal(t, 1, log.FilterMessage("there is no route snapshot yet").Len())
	require.False(t, k.routes.Restored())
	const many = 2*perRecord + 3
	k.learn(t, many)
	signer, err := token.NewSigner()
	require.NoError(t, err)
	k.sessions.RestoreKeys(&registryv1.GetJwksResponse{Keys: session.JSONWebKeys(signer.Keys(), token.RegistryIssuer)})
	key := credential.NewAPIKey()
	require.NoError(t, k.sessions.RestoreAPIKey(key.Hash[:], &registryv1.ResolveCredentialResponse{ApiKeyId: uuid.NewString(), CompanyId: uuid.NewString()}, time.Now().Add(time.Minute)))
	revoked := map[uuid.UUID]time.Time{}
	for i := range 3 * perRecord {
		id, until := uuid.New(), time.Now().Add(time.Duration(1+i%2)*time.Minute).UTC()
		if i%2 == 0 {
			until = until.Truncate(time.Hour).Add(2 * time.Hour) // Many of one time.
		}
		revoked[id] = until
		k.sessions.RestoreRevoked(id, until)
	}
	k.write()
	require.False(t, k.failing.Load())
	require.NoError(t, k.saveShares(budget.Saved{Answered: time.Now(), Lease: time.Minute, Alone: 2, Forget: time.Hour, Shares: map[string]budget.Share{"main": {Share: 6, Budget: 20}}}))
	require.NoError(t, k.close())

	again, log := d.keeper(t)
	again.restore()
	require.Equal(t, 1, log.FilterMessage("the route snapshot was read").Len())
	require.InDelta(t, time.Minute, again.routes.Age(), float64(30*time.Second))
	sequence, _ := again.routes.Sequence()
	require.EqualValues(t, 42, sequence)
	n := 0
	k.routes.Each(func(want *routes.Route) bool {
		n++
		got, ok := again.routes.ByID(want.CompanyID)
		require.True(t, ok)
		require.Equal(t, *want, *got)
		return true
	})
	require.Equal(t, many, n)
	c, ok := again.routes.Cluster("main")
	require.True(t, ok)
	require.EqualValues(t, 20, c.GetConnectionBudget())
	require.Equal(t, k.sessions.Keys().GetKeys()[0].GetX(), again.sessions.Keys().GetKeys()[0].GetX())
	again.sessions.EachRevoked(func(id uuid.UUID, until time.Time) bool {
		require.True(t, revoked[id].Equal(until))
		delete(revoked, id)
		return true
	})
	require.Empty(t, revoked)
	keys := 0
	again.sessions.EachAPIKey(func(hash credential.Hash, _ *registryv1.ResolveCredentialResponse, _ time.Time) bool {
		require.Equal(t, key.Hash, hash)
		keys++
		return true
	})
	require.Equal(t, 1, keys)
	shares, err := again.shares()
	require.NoError(t, err)
	require.Equal(t, 6, shares.Shares["main"].Share)
	require.Equal(t, time.Minute, shares.Lease)
}

func TestAKeeperThatCannotWriteSaysSoOnceAndGoesOn(t *testing.T) {
	t.Parallel()
	d := disk{t.TempDir(), credential.NewMasterKey()}
	k, log := d.keeper(t)
	k.learn(t, 10)
	k.write()
	blocked := filepath.Join(d.dir, "routes.new")
	require.NoError(t, os.MkdirAll(filepath.Join(blocked, "x"), 0o700)) // What is in the way cannot be removed.
	for range 3 {
		k.write()
		require.True(t, k.failing.Load())
	}
	const failed, works = "the route snapshot cannot be written; serving goes on without", "the route snapshot is written again"
	require.Equal(t, 1, log.FilterMessage(failed).Len())
	require.NoError(t, os.RemoveAll(blocked))
	k.write()
	require.False(t, k.failing.Load())
	require.Equal(t, 1, log.FilterMessage(works).Len())
	require.NoError(t, os.MkdirAll(filepath.Join(blocked, "x"), 0o700))
	k.write()
	require.Equal(t, 2, log.FilterMessage(failed).Len(), "another spell")
}

func TestASnapshotThatIsRefusedIsNotUsedAndSharesThatAreGoAway(t *testing.T) {
	t.Parallel()
	d := disk{t.TempDir(), credential.NewMasterKey()}
	k, _ := d.keeper(t)
	k.learn(t, 10)
	k.write()
	require.NoError(t, k.saveShares(budget.Saved{Answered: time.Now().Add(time.Hour), Lease: time.Minute, Shares: map[string]budget.Share{"main": {Share: 6}}}))
	require.NoError(t, k.close())
	path := filepath.Join(d.dir, "routes")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text[:len(text)-1], 0o600))
	again, log := d.keeper(t)
	again.restore()
	require.Equal(t, 1, log.FilterMessage("the route snapshot is not used").Len())
	require.False(t, again.routes.Restored())
	again.routes.Each(func(*routes.Route) bool { require.Fail(t, "half of it is used"); return false })
	shares, err := again.shares()
	require.NoError(t, err)
	require.Nil(t, shares, "the clock went back")
	require.NoFileExists(t, filepath.Join(d.dir, "routes.lease"), "it would be good again an hour later")
}

func TestAKeeperDoesNotWriteWhatTheRegistryHasNotTold(t *testing.T) {
	t.Parallel()
	k, _ := disk{t.TempDir(), credential.NewMasterKey()}.keeper(t)
	require.False(t, k.due())
	k.learn(t, 1)
	k.routes.Settle()
	require.False(t, k.due(), "what is known is what is on the disk")
}

func TestASnapshotIsWrittenTheSoonerTheMoreItMatters(t *testing.T) {
	t.Parallel()
	at := time.Now()
	keys, others := &registryv1.GetJwksResponse{}, &registryv1.GetJwksResponse{Keys: []*registryv1.JsonWebKey{{Kid: "new"}}}
	last := written{sequence: 7, fresh: at, keys: keys}
	for _, c := range []struct {
		what    string
		now     written
		closing int64
		want    time.Duration
	}{
		{"nothing is new, nor was anything heard", written{7, at, keys}, 7, math.MaxInt64},
		{"the registry said that nothing is new", written{7, at.Add(1), keys}, 7, 2 * time.Minute},
		{"a company moved", written{8, at.Add(1), keys}, 7, 5 * time.Second},
		{"there is another key", written{7, at, others}, 7, 5 * time.Second},
		{"another registry counts from the start", written{3, at.Add(1), keys}, 2, 5 * time.Second},
		{"a session was revoked", written{9, at.Add(1), keys}, 8, time.Second},
	} {
		require.Equal(t, c.want, last.pause(c.now, c.closing), c.what)
	}
}

// BenchmarkAMillionRoutes writes, and reads, a million routes.
func BenchmarkAMillionRoutes(b *testing.B) {
	d := disk{b.TempDir(), credential.NewMasterKey()}
	k, _ := d.keeper(b)
	k.learn(b, 1_000_000)
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.write()
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.restore()
		}
	})
	info, err := os.Stat(filepath.Join(d.dir, "routes"))
	require.NoError(b, err)
	b.ReportMetric(float64(info.Size())/1e6, "MB")
}
