package conns

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
)

// freeLink costs nothing: what is left is the pools' own.
type freeLink struct{}

func (freeLink) clean(context.Context) error { return nil }
func (freeLink) check() error                { return nil }
func (freeLink) dirty() bool                 { return false }
func (freeLink) renew()                      {}
func (freeLink) close()                      {}

// BenchmarkACallThatFindsItsConnection is what a call pays for its connection when there is one: alone, with others of
// its tenant, and with other tenants' beside it.
func BenchmarkACallThatFindsItsConnection(b *testing.B) {
	for _, tenants := range []int{1, 100} {
		b.Run(fmt.Sprintf("tenants=%d", tenants), func(b *testing.B) {
			p := New(Config{PerTenant: 64, dial: func(context.Context, Target) (link, error) { return freeLink{}, nil }})
			var callers atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				target := targetOf(byte(int(callers.Add(1))%tenants), 10_000)
				for pb.Next() {
					c, err := p.Acquire(context.Background(), target)
					if err != nil {
						b.Error(err)
						return
					}
					c.Release()
				}
			})
			if err := p.Close(context.Background()); err != nil {
				b.Error(err)
			}
		})
	}
}
