// Package lease is how one copy of the provisioner holds on to a piece of work that others would take over if it died.
// Where leases are kept is their owners' business: a row with a holder and a time.
package lease

import (
	"context"
	"time"
)

const (
	// Life is how long work belongs to the copy that works on it, and so how long it rests when that copy dies.
	Life = 6 * time.Second
	// renewEvery leaves time for a few tries before the end.
	renewEvery = 2 * time.Second
)

// Keep renews a lease until the context ends. It calls lose, which has to stop the work, as soon as renew says that the
// lease is another's, or when renewing failed for so long that it may be.
func Keep(ctx context.Context, lose func(), renew func(ctx context.Context) (held bool, err error)) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		held, err := renew(ctx)
		switch {
		case err == nil && held:
			last = time.Now()
		case err == nil, time.Since(last) > Life-renewEvery:
			lose()
			return
		}
	}
}
