package registry_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// longestCall is how long the copies' calls may run.
const longestCall = 30 * time.Second

// copyOf is a gateway copy that has connections to the one cluster.
type copyOf struct {
	s                    *system
	client               registryv1.RouteServiceClient
	instance, lease      string
	number               int64
	share, open, waiting int32
	warm                 int32
}

func (s *system) gateway(instance string) *copyOf {
	s.t.Helper()
	return &copyOf{s: s, client: registryv1.NewRouteServiceClient(s.as("service/gateway")), instance: instance, lease: uuid.NewString()}
}

func (c *copyOf) request() *registryv1.HeartbeatRequest {
	return &registryv1.HeartbeatRequest{Instance: c.instance, LeaseId: c.lease, Beat: c.number, LongestCall: durationpb.New(longestCall),
		Clusters: []*registryv1.ClusterUse{{Cluster: "local", Share: c.share, Open: c.open, Used: c.open, Waiting: c.waiting, Warm: c.warm}}}
}

// beat makes a heartbeat and returns the share, which the copy keeps to.
func (c *copyOf) beat() int32 {
	c.s.t.Helper()
	c.number++
	out, err := c.client.Heartbeat(c.s.t.Context(), c.request())
	require.NoError(c.s.t, err)
	require.Len(c.s.t, out.GetClusters(), 1)
	c.share = out.GetClusters()[0].GetShare()
	return c.share
}

// uses has as many connections as it may.
func (c *copyOf) uses() { c.open = c.share }

// budget changes the cluster's.
func (s *system) budget(n int32) {
	s.t.Helper()
	_, err := registryv1.NewClusterServiceClient(s.as("operator/ops")).RegisterCluster(s.t.Context(), &registryv1.RegisterClusterRequest{
		Name: "local", Host: "127.0.0.1", Port: 5432, Tls: registryv1.ClusterTls_CLUSTER_TLS_DISABLE, ConnectionBudget: n})
	require.NoError(s.t, err)
}

// silence lets a copy be unheard of for longer by some time.
func (c *copyOf) silence(d time.Duration) {
	c.s.t.Helper()
	require.Len(c.s.t, c.s.query("UPDATE gateway_leases SET renewed_at = renewed_at - $2::interval, created_at = created_at - $2::interval WHERE id = $1 RETURNING instance", c.lease, d), 1)
}

func TestGatewaysShareABudgetAndGetOnlyWhatAnotherHasClosed(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	a, b := s.gateway("a"), s.gateway("b")
	out, err := a.client.Heartbeat(t.Context(), &registryv1.HeartbeatRequest{Instance: "a", LeaseId: a.lease, Beat: 1, LongestCall: durationpb.New(longestCall)})
	require.NoError(t, err)
	require.EqualValues(t, 12, out.GetClusters()[0].GetBudget())
	require.Equal(t, 90*time.Second, out.GetLeaseDuration().AsDuration())
	require.Equal(t, time.Hour, out.GetForgetDuration().AsDuration())
	require.EqualValues(t, 2, out.GetAloneShare())
	a.number, a.share = 1, out.GetClusters()[0].GetShare()
	require.EqualValues(t, 11, a.share, "one is kept for who comes")
	a.uses()
	b.waiting = 5
	require.EqualValues(t, 1, b.beat())

	shrunk := a.beat()
	require.Less(t, shrunk, int32(11))
	require.GreaterOrEqual(t, shrunk, int32(1))
	require.EqualValues(t, 1, b.beat(), "the other has not said that it closed any")
	a.open--
	a.beat()
	require.EqualValues(t, 1, b.beat(), "what was closed is the reserve")
	a.open = 5
	a.beat()
	b.beat()
	require.LessOrEqual(t, a.open+b.share, int32(12))
	require.Greater(t, b.share, int32(1))
	b.uses()
	for range 5 {
		a.open, b.open = min(a.open, a.share), min(b.open, b.share)
		a.beat()
		b.beat()
		require.LessOrEqual(t, a.share+b.share, int32(11))
	}
	require.EqualValues(t, 11, a.share+b.share)
}

func TestAnIdleGatewayLeavesTheConnectionsThatAnothersTenantsComeBackTo(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(100)
	busy, idle := s.gateway("busy"), s.gateway("idle")
	busy.warm = 60
	for range 5 {
		busy.beat()
		idle.beat()
	}
	require.Greater(t, busy.share, int32(60))
	require.GreaterOrEqual(t, idle.share, int32(10), "what nobody needs is for both")
	require.Equal(t, []string{"60"}, s.query("SELECT warm FROM gateway_shares WHERE lease_id = $1", busy.lease))
}

func TestAGatewayThatDiedGivesItsShareBackInTwoSteps(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	a, b := s.gateway("a"), s.gateway("b")
	a.beat()
	a.uses()
	b.waiting = 20
	require.EqualValues(t, 1, b.beat())
	for range 3 {
		require.EqualValues(t, 1, b.beat())
	}
	a.silence(90*time.Second + longestCall - 20*time.Second)
	require.EqualValues(t, 1, b.beat(), "its calls may still run")
	a.silence(20 * time.Second)
	require.EqualValues(t, 9, b.beat(), "all but what a gateway has that nobody hears, and the reserve")
	a.silence(time.Hour - 100*time.Second)
	require.EqualValues(t, 9, b.beat())
	a.silence(100 * time.Second)
	require.EqualValues(t, 11, b.beat())
	require.Equal(t, []string{"b"}, s.query("SELECT instance FROM gateway_leases"))

	// It was not dead at all. It kept to the same rules, and has its part again.
	a.share, a.open = 0, 0
	require.EqualValues(t, 1, a.beat())
}

func TestAGatewayThatIsHeardOfAgainHasItsShareBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	a, b := s.gateway("a"), s.gateway("b")
	for range 4 {
		a.beat()
		b.beat()
	}
	before := a.share
	for _, c := range []*copyOf{a, b} {
		c.silence(time.Minute) // The registry was away.
	}
	require.Equal(t, before, a.beat())
	require.Equal(t, 11-before, b.beat())
}

func TestAGatewayThatIsStartedAgainHasWhatItHadBeforeItDied(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	dead, other := s.gateway("a"), s.gateway("b")
	dead.beat()
	dead.uses()
	other.beat()
	again := s.gateway("a")
	require.EqualValues(t, 0, again.beat())
	require.EqualValues(t, 0, again.beat(), "it may still be there")
	dead.silence(3 * time.Second)
	require.EqualValues(t, 5, again.beat(), "nobody else has that name")

	// Two that live by one name are a mistake, and count both.
	twin := s.gateway("a")
	twin.beat()
	again.beat()
	again.silence(time.Minute)
	twin.silence(time.Minute)
	other.beat()
	require.Len(t, s.query("SELECT instance FROM gateway_leases WHERE instance = 'a'"), 2)
}

func TestAGatewayThatLeavesGivesItsShareBackAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	a, b := s.gateway("a"), s.gateway("b")
	a.beat()
	late := a.request()
	a.uses()
	require.EqualValues(t, 1, b.beat())
	a.number = 7
	leaving := a.request()
	leaving.Leaving = true
	for range 2 {
		out, err := a.client.Heartbeat(t.Context(), leaving)
		require.NoError(t, err)
		require.Zero(t, out.GetClusters()[0].GetShare())
	}
	late.Beat = 6
	out, err := a.client.Heartbeat(t.Context(), late)
	require.NoError(t, err)
	require.Zero(t, out.GetClusters()[0].GetShare(), "one that was on its way gets nothing")
	require.EqualValues(t, 11, b.beat())
}

func TestAHeartbeatThatComesTwiceCountsOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	a, b := s.gateway("a"), s.gateway("b")
	a.beat()
	a.uses()
	b.waiting = 20
	b.beat()
	a.number++
	first, err := a.client.Heartbeat(t.Context(), a.request())
	require.NoError(t, err)
	shrunk := first.GetClusters()[0].GetShare()
	require.Less(t, shrunk, int32(8))
	// As if the copy had that share and had closed what is too many: it must not count.
	repeated := a.request()
	repeated.Clusters[0].Share, repeated.Clusters[0].Open = shrunk, shrunk
	second, err := a.client.Heartbeat(t.Context(), repeated)
	require.NoError(t, err)
	require.Equal(t, shrunk, second.GetClusters()[0].GetShare())
	require.EqualValues(t, 1, b.beat())
}

func TestABudgetThatChangesIsSharedAnew(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	a, b := s.gateway("a"), s.gateway("b")
	settle := func(budget int32) {
		t.Helper()
		for range 5 {
			a.beat()
			b.beat()
		}
		require.Equal(t, budget, a.share+b.share)
	}
	settle(11)
	s.budget(6)
	require.EqualValues(t, 3, a.beat())
	settle(6)
	s.budget(40)
	settle(38)

	_, err := registryv1.NewClusterServiceClient(s.as("operator/ops")).RemoveCluster(t.Context(), &registryv1.RemoveClusterRequest{Name: "local"})
	require.NoError(t, err)
	a.number++
	out, err := a.client.Heartbeat(t.Context(), a.request())
	require.NoError(t, err)
	require.Empty(t, out.GetClusters())
	s.budget(40)
	a.share = 0
	require.EqualValues(t, 19, a.beat(), "the other may still have connections to it")
}

func TestHeartbeatsAtOnceNeverGiveMoreThanThereIs(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.budget(12)
	var copies []*copyOf
	for i := range 8 {
		if i == 4 {
			s.run() // Half of them ask another copy of the registry.
		}
		c := s.gateway(uuid.NewString())
		c.waiting = 3
		copies = append(copies, c)
	}
	for range 10 {
		var group sync.WaitGroup
		for _, c := range copies {
			group.Go(func() {
				c.uses()
				c.number++
				out, err := c.client.Heartbeat(t.Context(), c.request())
				if err != nil {
					t.Errorf("a heartbeat: %v", err)
					return
				}
				c.share = out.GetClusters()[0].GetShare()
			})
		}
		group.Wait()
		require.Equal(t, []string{"true"}, s.query("SELECT (sum(held) <= 12)::text FROM gateway_shares"))
	}
	for _, c := range copies {
		require.GreaterOrEqual(t, c.share, int32(1))
	}
}

func TestAHeartbeatIsChecked(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, spoil := range map[string]func(r *registryv1.HeartbeatRequest){
		"instance":          func(r *registryv1.HeartbeatRequest) { r.Instance = "" },
		"lease_id":          func(r *registryv1.HeartbeatRequest) { r.LeaseId = "a" },
		"beat":              func(r *registryv1.HeartbeatRequest) { r.Beat = 0 },
		"longest_call":      func(r *registryv1.HeartbeatRequest) { r.LongestCall = nil },
		"clusters":          func(r *registryv1.HeartbeatRequest) { r.Clusters = append(r.Clusters, r.GetClusters()[0]) },
		"clusters[0].share": func(r *registryv1.HeartbeatRequest) { r.Clusters[0].Share = -1 },
	} {
		c := s.gateway("a")
		c.number = 1
		r := c.request()
		spoil(r)
		_, err := c.client.Heartbeat(t.Context(), r)
		f := requireFault(t, err, codes.InvalidArgument, fault.FieldInvalid)
		require.Contains(t, f.Error(), name)
	}
	_, err := registryv1.NewRouteServiceClient(s.as("operator/ops")).Heartbeat(t.Context(), s.gateway("a").request())
	requireFault(t, err, codes.PermissionDenied, fault.MethodNotAllowed)
}
