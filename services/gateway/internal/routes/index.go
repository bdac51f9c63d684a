package routes

import (
	"hash/maphash"
	"sync/atomic"
)

const (
	// shards is how many parts an index has. One part at a time is copied when it grows, so the writer's longest step is a
	// 256th of the whole.
	shards = 1 << shardBits
	// shardBits are the hash's highest bits, which choose the shard; its lowest choose the slot.
	shardBits = 8
	// fewest is how many slots a shard begins with.
	fewest = 8
)

// index finds routes by one of their keys. Any number of goroutines may read beside one that writes: a reader loads a
// pointer to a shard's slots, and then slots until it finds the key or an empty one. Slots are only ever filled or given a
// newer route of the same key; what else a shard has to become is made as a copy and put in its place.
type index[K comparable] struct {
	seed   maphash.Seed
	key    func(*Route) K
	shards [shards]atomic.Pointer[slots]
}

// slots is a shard: at most half of it is filled, so that a look-up touches one or two routes.
type slots struct {
	at     []atomic.Pointer[Route] // a power of two
	filled int                     // the writer's alone
}

func newIndex[K comparable](key func(*Route) K) *index[K] {
	return &index[K]{seed: maphash.MakeSeed(), key: key}
}

// place is a key's shard and hash.
func (x *index[K]) place(k K) (*atomic.Pointer[slots], uint64) {
	h := maphash.Comparable(x.seed, k)
	return &x.shards[h>>(64-shardBits)], h
}

// get returns the route with a key, or nil.
func (x *index[K]) get(k K) *Route {
	shard, h := x.place(k)
	s := shard.Load()
	if s == nil {
		return nil
	}
	r, _ := x.find(s, k, h)
	return r
}

// find returns the route with a key, or nil, and its slot or the one that it would have.
func (x *index[K]) find(s *slots, k K, h uint64) (*Route, *atomic.Pointer[Route]) {
	mask := uint64(len(s.at) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		r := s.at[i].Load()
		if r == nil || x.key(r) == k {
			return r, &s.at[i]
		}
	}
}

// put makes a route its key's.
func (x *index[K]) put(r *Route) {
	k := x.key(r)
	shard, h := x.place(k)
	s := shard.Load()
	if s == nil {
		s = &slots{at: make([]atomic.Pointer[Route], fewest)}
		shard.Store(s)
	}
	old, slot := x.find(s, k, h)
	if old == nil {
		if 2*(s.filled+1) > len(s.at) {
			s = x.copied(s, 2*len(s.at), nil)
			_, slot = x.find(s, k, h)
			slot.Store(r)
			s.filled++
			shard.Store(s)
			return
		}
		s.filled++
	}
	slot.Store(r)
}

// remove takes a route away, unless its key is another's by now. The slots behind it may belong to keys that had to make
// way for it, so the shard is copied.
func (x *index[K]) remove(r *Route) {
	k := x.key(r)
	shard, h := x.place(k)
	s := shard.Load()
	if s == nil {
		return
	}
	if found, _ := x.find(s, k, h); found == r {
		shard.Store(x.copied(s, len(s.at), r))
	}
}

// copied is a shard with another number of slots, and without one route.
func (x *index[K]) copied(s *slots, size int, without *Route) *slots {
	out := &slots{at: make([]atomic.Pointer[Route], size)}
	for i := range s.at {
		r := s.at[i].Load()
		if r == nil || r == without {
			continue
		}
		k := x.key(r)
		_, slot := x.find(out, k, maphash.Comparable(x.seed, k))
		slot.Store(r)
		out.filled++
	}
	return out
}

// each calls f with every route, in no order, until f returns false.
func (x *index[K]) each(f func(*Route) bool) {
	for i := range x.shards {
		s := x.shards[i].Load()
		if s == nil {
			continue
		}
		for j := range s.at {
			if r := s.at[j].Load(); r != nil && !f(r) {
				return
			}
		}
	}
}
