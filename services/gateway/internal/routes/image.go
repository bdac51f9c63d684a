package routes

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// Image is what a table knows at a time, to be written down, or as it was. Of a table that lives it is no copy: routes that
// change meanwhile are met as they were or as they are. So it has everything up to its sequence, and maybe more; to be told
// that again does no harm.
type Image struct {
	// Sequence is that of the stream up to which everything is in it.
	Sequence int64
	// Fresh is when the registry last said something.
	Fresh time.Time

	replica  *replica
	clusters map[string]*registryv1.Cluster
}

// Image is what the table knows now.
func (t *Table) Image() *Image {
	// The sequence is read before the routes, and with a whole snapshot both are put in place under this lock.
	t.writing.Lock()
	defer t.writing.Unlock()
	return &Image{Sequence: t.sequence.Load(), Fresh: time.Unix(0, t.fresh.Load()), replica: t.known.Load(), clusters: *t.clusters.Load()}
}

// Clusters are the clusters, not to be changed.
func (i *Image) Clusters() map[string]*registryv1.Cluster { return i.clusters }

// Each calls f with every route, in no order, until f returns false.
func (i *Image) Each(f func(*Route) bool) { i.replica.byID.each(f) }

// NewImage is an image to fill, of routes as they were.
func NewImage() *Image {
	return &Image{replica: newReplica(), clusters: map[string]*registryv1.Cluster{}}
}

// PutCluster adds a cluster.
func (i *Image) PutCluster(c *registryv1.Cluster) { i.clusters[c.GetName()] = c }

// PutRoutes adds routes. Its error is that one has ids that are none.
func (i *Image) PutRoutes(some []*registryv1.Route) error {
	for _, r := range some {
		if len(r.GetCompanyId()) != 16 || len(r.GetDatabaseId()) != 16 {
			return fmt.Errorf("route of %q: got ids of %d and %d bytes, want 16", r.GetSlug(), len(r.GetCompanyId()), len(r.GetDatabaseId()))
		}
		i.replica.put(routeOf(r))
	}
	return nil
}

// Restore makes an image what is known, as if the registry had told it when it was fresh, and has Run go on from there. The
// table is not ready by that, so that a registry which is there has its say first. Call it before Run.
func (t *Table) Restore(i *Image) {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.clusters.Store(&i.clusters)
	t.known.Store(i.replica)
	t.sequence.Store(i.Sequence)
	t.fresh.Store(i.Fresh.UnixNano())
	t.old.Store(true)
	t.announce()
}

// Settle makes a table ready that was restored, and that the registry does not bring up to date.
func (t *Table) Settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.isReady() {
		t.log.Warn("the registry is away: serving with the routes of a snapshot", zap.Duration("age", t.Age()))
	}
	t.makeReady()
}

// Restored tells whether what is known is still what Restore put there: the registry has not brought it up to date.
func (t *Table) Restored() bool { return t.old.Load() }

// Lag is how many changes the registry had told of when it last said so that are not known here; negative where it did not
// say. While the registry is silent it stays as it was, and Age grows.
func (t *Table) Lag() int64 {
	newest := t.newest.Load()
	if newest == 0 {
		return -1
	}
	return max(0, newest-t.sequence.Load())
}

// Sequence is that of the newest change that is known here, and of the newest that closed something: a company, or a
// credential.
func (t *Table) Sequence() (newest, closing int64) { return t.sequence.Load(), t.closing.Load() }

// isReady tells whether the table is ready; t.mu is held.
func (t *Table) isReady() bool {
	select {
	case <-t.ready:
		return true
	default:
		return false
	}
}

// makeReady makes it so; t.mu is held.
func (t *Table) makeReady() {
	if !t.isReady() {
		close(t.ready)
	}
}

// current notes that the registry told all it knows.
func (t *Table) current() {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The log has it before anybody is told that the gateway is well.
	if t.old.Swap(false) {
		t.log.Info("the registry brought the routes of the snapshot up to date")
	} else if !t.isReady() {
		t.log.Info("the routes are known")
	}
	t.makeReady()
}
