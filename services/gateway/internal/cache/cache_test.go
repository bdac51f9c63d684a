package cache_test

import (
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantry/tenantry/services/gateway/internal/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a cache that is closed when the test ends.
func open(t *testing.T, o cache.Options[int]) cache.Cache[string, int] {
	t.Helper()
	c := cache.New[string](o)
	t.Cleanup(c.Close)
	return c
}

func value(t *testing.T, want int, c cache.Cache[string, int], key string) {
	t.Helper()
	got, ok := c.Get(key)
	require.True(t, ok, key)
	require.Equal(t, want, got)
}

func none(t *testing.T, c cache.Cache[string, int], key string) {
	t.Helper()
	_, ok := c.Get(key)
	require.False(t, ok, key)
}

func TestAValueIsThereUntilItIsReplacedOrAllIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, cache.Options[int]{Most: 10})
		none(t, c, "a")
		c.Set("a", 1)
		value(t, 1, c, "a")
		c.Set("a", 2)
		value(t, 2, c, "a")
		require.Equal(t, 2, c.GetOrSet("a", 3))
		require.Equal(t, 4, c.GetOrSet("b", 4))
		time.Sleep(1000 * time.Hour)
		value(t, 4, c, "b")
		require.Equal(t, 2, c.Len())
		c.Clear()
		none(t, c, "a")
		require.Zero(t, c.Len())
	})
}

func TestAValueStaysForAsLongAsItsLife(t *testing.T) {
	t.Parallel()
	life := func(seconds int) time.Duration { return time.Duration(seconds) * time.Second }
	synctest.Test(t, func(t *testing.T) {
		c := open(t, cache.Options[int]{Most: 10, Life: life})
		c.Set("ten", 10)
		c.Set("never", -1)
		c.SetFor("five", 20, 5*time.Second)
		c.SetFor("nor this", 1, 0)
		time.Sleep(time.Millisecond)
		none(t, c, "never")
		none(t, c, "nor this")
		for range 4 {
			time.Sleep(time.Second)
			value(t, 20, c, "five")
		}
		time.Sleep(2 * time.Second)
		none(t, c, "five")
		value(t, 10, c, "ten")
		c.Set("ten", 8)
		time.Sleep(7 * time.Second)
		value(t, 8, c, "ten")
		time.Sleep(2 * time.Second)
		none(t, c, "ten")
	})
}

func TestAValueStaysForAsLongAsItIsUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, cache.Options[int]{Most: 10, Idle: time.Minute})
		c.Set("used", 1)
		c.Set("idle", 2)
		for range 4 {
			time.Sleep(40 * time.Second)
			value(t, 1, c, "used")
		}
		require.Equal(t, 1, c.Len())
		none(t, c, "idle")
	})
}

func TestAllAreTheValuesAndWhenTheyEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, cache.Options[int]{Most: 10, Life: func(int) time.Duration { return time.Minute }})
		now := time.Now()
		c.Set("a", 1)
		c.SetFor("b", 2, time.Hour)
		want := map[string]cache.Entry[int]{"a": {Value: 1, Until: now.Add(time.Minute)}, "b": {Value: 2, Until: now.Add(time.Hour)}}
		got := maps.Collect(c.All())
		require.Len(t, got, len(want))
		for key, e := range want {
			require.Equal(t, e.Value, got[key].Value)
			require.WithinDuration(t, e.Until, got[key].Until, time.Second)
		}
		n := 0
		for range c.All() {
			n++
			break
		}
		require.Equal(t, 1, n)
		time.Sleep(2 * time.Minute)
		require.Len(t, maps.Collect(c.All()), 1)
	})
}

func TestThereAreNoMoreThanMost(t *testing.T) {
	t.Parallel()
	c := cache.New[int](cache.Options[int]{Most: 100})
	defer c.Close()
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := range 1000 {
				key := worker*1000 + i
				c.Set(key, key)
				if got, ok := c.Get(key); ok && got != key {
					t.Errorf("%d has %d", key, got)
				}
				c.GetOrSet(i, i)
			}
		})
	}
	group.Wait()
	require.LessOrEqual(t, c.Len(), 100)
	require.Positive(t, c.Len())
}
