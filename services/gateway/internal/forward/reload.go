package forward

import (
	"context"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"
)

// lookEvery is how often the file of upstreams is looked at.
const lookEvery = 2 * time.Second

// Changes are the names of upstreams that are new, other than before, and gone.
type Changes struct{ Added, Changed, Removed []string }

// Use puts these upstreams in the place of those before. Those that are as they were keep their connections; calls that
// are under way at the others end where they are, whatever becomes of the configuration. When it fails, nothing changes.
func (f *Forwarder) Use(upstreams []Upstream) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.distinct()
	services := map[string]*upstream{}
	var now []*upstream
	var dialled []*upstream
	fail := func(err error) (Changes, error) {
		for _, u := range dialled {
			_ = u.close() // Nothing has used it.
		}
		return Changes{}, err
	}
	for _, u := range upstreams {
		if err := u.check(); err != nil {
			return fail(fmt.Errorf("forward: the upstream %s: %w", u.Name, err))
		}
		up := same(before, u)
		if up == nil || slices.Contains(now, up) {
			var err error
			if up, err = dial(u, f.files); err != nil {
				return fail(err)
			}
			dialled = append(dialled, up)
		}
		now = append(now, up)
		for _, s := range u.Services {
			if other, twice := services[s]; twice {
				return fail(fmt.Errorf("forward: the service %s has two upstreams, %s and %s", s, other.Name, u.Name))
			}
			services[s] = up
		}
	}
	f.services.Store(&services)
	for _, u := range before {
		if !slices.Contains(now, u) {
			f.retire(u)
		}
	}
	for _, u := range dialled {
		f.log.Info("forwarding", zap.Strings("services", u.Services), zap.Strings("to", u.Addresses), zap.String("as", u.Name))
	}
	return compare(before, now), nil
}

// distinct are the upstreams in force.
func (f *Forwarder) distinct() []*upstream {
	seen := map[*upstream]bool{}
	for _, u := range *f.services.Load() {
		seen[u] = true
	}
	return slices.Collect(maps.Keys(seen))
}

// same is the one of several upstreams that is configured like this.
func same(several []*upstream, as Upstream) *upstream {
	as = as.withDefaults()
	i := slices.IndexFunc(several, func(u *upstream) bool { return reflect.DeepEqual(u.Upstream, as) })
	if i < 0 {
		return nil
	}
	return several[i]
}

// compare tells by name what became of upstreams.
func compare(before, now []*upstream) Changes {
	var c Changes
	named := func(in []*upstream, name string) bool {
		return slices.ContainsFunc(in, func(u *upstream) bool { return u.Name == name })
	}
	for _, u := range now {
		switch {
		case slices.Contains(before, u):
		case named(before, u.Name):
			c.Changed = append(c.Changed, u.Name)
		default:
			c.Added = append(c.Added, u.Name)
		}
	}
	for _, u := range before {
		if !named(now, u.Name) {
			c.Removed = append(c.Removed, u.Name)
		}
	}
	slices.Sort(c.Removed)
	c.Removed = slices.Compact(c.Removed)
	return c
}

// retire closes an upstream after its last call, or when the forwarder is closed.
func (f *Forwarder) retire(u *upstream) {
	u.retire()
	f.retiring.Go(func() {
		select {
		case <-u.idle:
		case <-f.closed:
		}
		if err := u.close(); err != nil {
			f.log.Warn("close an upstream", zap.String("upstream", u.Name), zap.Error(err))
		}
	})
}

// Watch keeps to a file of upstreams, with these besides, until the context ends: it reads it again when it has changed,
// which it sees within 2 seconds, and when asked to. Whoever changes the file writes another and renames it, since half a
// file may be good, too. A file that is not good is logged, and what was before stays in force.
func (f *Forwarder) Watch(ctx context.Context, path string, besides []Upstream, asked <-chan os.Signal) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := ""
	for {
		now := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-asked:
			now = true
		}
		text, err := os.ReadFile(path)
		seen := "read: " + string(text)
		if err != nil {
			seen = "not read: " + err.Error()
		}
		if seen == last && !now {
			continue
		}
		last = seen
		f.reload(path, text, err, besides, now)
	}
}

// reload puts what was read of a file in force.
func (f *Forwarder) reload(path string, text []byte, err error, besides []Upstream, asked bool) {
	var upstreams []Upstream
	if err == nil {
		upstreams, err = decode(text)
	}
	var changes Changes
	if err == nil {
		changes, err = f.Use(slices.Concat(besides, upstreams))
	}
	switch {
	case err != nil:
		f.log.Error("the upstreams are as before: their file is not good", zap.String("file", path), zap.Error(err))
	case asked || !reflect.DeepEqual(changes, Changes{}):
		f.log.Info("the upstreams are those of their file", zap.String("file", path),
			zap.Strings("added", changes.Added), zap.Strings("changed", changes.Changed), zap.Strings("removed", changes.Removed))
	}
}
