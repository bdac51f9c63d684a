package limits

import (
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/gateway/internal/cache"
	"github.com/tenantry/tenantry/services/internal/fault"
)

const (
	// bucketsKept bounds the memory of one limit, some 250 bytes a bucket. Those that are used least are forgotten first; one
	// that comes back is full.
	bucketsKept = 65_536
	// idleLife is how long an idle bucket is kept at least. It is full by then, as a new one is.
	idleLife = time.Minute
)

// buckets are the token buckets of one limit, by whom they are for. Nil limits nothing.
type buckets[K comparable] struct {
	name    string // of the limit, in errors' metadata
	rate    rate.Limit
	burst   int
	known   cache.Cache[K, *rate.Limiter]
	refused atomic.Uint64
}

// newBuckets returns at most so many buckets that fill at a rate and hold what some seconds of it give; nil for a rate of 0.
func newBuckets[K comparable](name string, perSecond float64, seconds, kept int) *buckets[K] {
	if perSecond == 0 {
		return nil
	}
	b := &buckets[K]{name: name, rate: rate.Limit(perSecond), burst: int(max(1, perSecond*float64(seconds)))}
	filled := time.Duration(math.Min(float64(b.burst)/perSecond*float64(time.Second), math.MaxInt64/2))
	b.known = cache.New[K](cache.Options[*rate.Limiter]{Most: kept, Idle: max(filled, idleLife)})
	return b
}

func (b *buckets[K]) of(key K) *rate.Limiter {
	if l, ok := b.known.Get(key); ok {
		return l
	}
	return b.known.GetOrSet(key, rate.NewLimiter(b.rate, b.burst))
}

// take takes a token, if there is one now. Without one it returns RESOURCE_EXHAUSTED `RATE_LIMITED`, with the time until there is one.
func (b *buckets[K]) take(key K, now time.Time) error {
	if b == nil {
		return nil
	}
	l := b.of(key)
	if l.AllowN(now, 1) {
		return nil
	}
	return b.refuse(l, now)
}

// spend takes a token if there is one.
func (b *buckets[K]) spend(key K) {
	if b != nil {
		b.of(key).Allow()
	}
}

// check returns take's error without taking a token. Whoever spent none has no bucket, and needs none.
func (b *buckets[K]) check(key K) error {
	if b == nil {
		return nil
	}
	l, ok := b.known.Get(key)
	if !ok {
		return nil
	}
	if now := time.Now(); l.TokensAt(now) < 1 {
		return b.refuse(l, now)
	}
	return nil
}

// refuse is the error of a call that found no token.
func (b *buckets[K]) refuse(l *rate.Limiter, now time.Time) error {
	b.refused.Add(1)
	// Rounded up, so that the token is there by then.
	wait := time.Duration(math.Ceil((1-l.TokensAt(now))/float64(b.rate)*1e6)) * time.Microsecond
	return fault.New(codes.ResourceExhausted, fault.RateLimited, "too many calls of one %s: no more than %g a second are served", b.name, float64(b.rate)).
		With("limit", b.name).RetryIn(max(wait, time.Microsecond))
}

func (b *buckets[K]) refusals() uint64 {
	if b == nil {
		return 0
	}
	return b.refused.Load()
}

func (b *buckets[K]) close() {
	if b != nil {
		b.known.Close()
	}
}
