package budget_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// counting is a registry that counts as the real one does: what a gateway said it has, and what it was told since, for the
// terms after it was heard. What is counted for one that ended is none; a lease of the same name takes another's place.
type counting struct {
	*world
	mu    sync.Mutex
	held  int
	heard time.Time
}

func (c *counting) Heartbeat(ctx context.Context, r *registryv1.HeartbeatRequest, o ...grpc.CallOption) (*registryv1.HeartbeatResponse, error) {
	out, err := c.world.Heartbeat(ctx, r, o...)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held, c.heard = 0, time.Now()
	if r.GetLeaving() {
		return out, nil
	}
	for _, u := range r.GetClusters() {
		c.held = max(c.held, int(u.GetShare()), int(u.GetOpen()))
	}
	for _, s := range out.GetClusters() {
		c.held = max(c.held, int(s.GetShare()))
	}
	return out, nil
}

// count is what is counted now.
func (c *counting) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch quiet := time.Since(c.heard); {
	case quiet < lease:
		return c.held
	case quiet < forget:
		return min(c.held, 2)
	default:
		return 0
	}
}

// look requires that nobody has or might have more than is counted, nor less than the disk is said to give.
func (c *counting) look(t *testing.T, d *disk) {
	t.Helper()
	counted := c.count()
	require.LessOrEqual(t, c.share("a"), counted, "this process")
	saved := d.read()
	left := saved.Shares["a"].Share
	switch age := time.Since(saved.Answered); {
	case age >= saved.Forget:
		left = 0
	case age >= saved.Lease:
		left = min(left, saved.Alone)
	}
	require.LessOrEqual(t, left, counted, "the next process")
}
