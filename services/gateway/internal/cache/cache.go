// Package cache remembers what was found out, by its key, in bounded memory. What is used least is forgotten first.
//
// It is github.com/maypok86/otter behind an interface. A package that can see otter's types, be it in a field of a field of
// another's, has the whole of otter compiled into it for each pair of types; with them hidden here only those that make a
// cache have it. That was two thirds of the code of the gateway's package, and again of each that uses it.
package cache

import (
	"iter"
	"time"

	"github.com/maypok86/otter/v2"
)

// Cache is one. It may be used by many at once. Close it.
type Cache[K comparable, V any] interface {
	// Get returns the value of a key.
	Get(key K) (value V, ok bool)
	// GetOrSet returns the value of a key, which is this one if it had none.
	GetOrSet(key K, value V) V
	// Set gives a key a value, for as long as the options say.
	Set(key K, value V)
	// SetFor gives a key a value for so long.
	SetFor(key K, value V, life time.Duration)
	// All are the keys with their values, in no order. Those that come and go meanwhile may be among them or not.
	All() iter.Seq2[K, Entry[V]]
	// Len is how many keys have a value.
	Len() int
	// Clear forgets all.
	Clear()
	// Close ends what the cache does in the background.
	Close()
}

// Entry is a value of a cache.
type Entry[V any] struct {
	Value V
	// Until is when it is forgotten, unless it is used.
	Until time.Time
}

// Options describe a cache. Without Life and Idle what it has stays for as long as there is room.
type Options[V any] struct {
	// Most is how many values there are at once.
	Most int
	// Life says for how long a value stays after it was set; without a life, not at all.
	Life func(V) time.Duration
	// Idle is for how long a value stays after it was last used. Only one of Life and Idle counts, and Life comes first.
	Idle time.Duration
}

// New returns a cache. It panics when Most is negative.
func New[K comparable, V any](o Options[V]) Cache[K, V] {
	options := &otter.Options[K, V]{MaximumSize: o.Most}
	switch {
	case o.Life != nil:
		options.ExpiryCalculator = otter.ExpiryWritingFunc(func(e otter.Entry[K, V]) time.Duration { return atLeast(o.Life(e.Value)) })
	case o.Idle != 0:
		options.ExpiryCalculator = otter.ExpiryAccessing[K, V](o.Idle)
	}
	return kept[K, V]{otter.Must(options)}
}

// kept is a cache of otter's.
type kept[K comparable, V any] struct{ otter *otter.Cache[K, V] }

func (c kept[K, V]) Get(key K) (V, bool) { return c.otter.GetIfPresent(key) }

func (c kept[K, V]) GetOrSet(key K, value V) V {
	got, _ := c.otter.SetIfAbsent(key, value)
	return got
}

func (c kept[K, V]) Set(key K, value V) { c.otter.Set(key, value) }

func (c kept[K, V]) SetFor(key K, value V, life time.Duration) {
	c.otter.Set(key, value)
	c.otter.SetExpiresAfter(key, atLeast(life))
}

// atLeast is a life that otter takes as one: to it none is one without end.
func atLeast(life time.Duration) time.Duration { return max(life, time.Nanosecond) }

func (c kept[K, V]) All() iter.Seq2[K, Entry[V]] {
	return func(yield func(K, Entry[V]) bool) {
		for key := range c.otter.Keys() {
			if e, ok := c.otter.GetEntryQuietly(key); ok && !yield(key, Entry[V]{e.Value, e.ExpiresAt()}) {
				return
			}
		}
	}
}

func (c kept[K, V]) Len() int {
	c.otter.CleanUp() // What ended, or was too many, is counted until then.
	return c.otter.EstimatedSize()
}

func (c kept[K, V]) Clear() { c.otter.InvalidateAll() }

func (c kept[K, V]) Close() { c.otter.StopAllGoroutines() }
