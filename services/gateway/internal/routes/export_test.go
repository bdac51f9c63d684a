package routes

import (
	"github.com/google/uuid"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

// Remove is what a RouteRemoved does.
func (t *Table) Remove(company uuid.UUID) { t.remove(company) }

// Swap is what a whole snapshot does.
func (t *Table) Swap(some []*Route) {
	s := &snapshot{replica: newReplica(), clusters: map[string]*registryv1.Cluster{}}
	for _, r := range some {
		s.replica.put(r)
	}
	t.swap(s)
}
