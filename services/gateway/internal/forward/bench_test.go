package forward_test

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/tenantry/tenantry/services/internal/rpc"
)

// benchConns is over how many connections the callers of a benchmark spread.
const benchConns = 8

// BenchmarkUnary is a small unary call on TLS both ways, by callers that share connections. Client, gateway and upstream
// are one process, so it tells what all of a call costs, not the gateway's part alone.
func BenchmarkUnary(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			f := startWith(b, zap.NewNop())
			clients := make([]testpb.TestServiceClient, benchConns)
			for i := range clients {
				conn, err := rpc.Dial(f.address, rpc.TLS{CA: f.ca})
				require.NoError(b, err)
				b.Cleanup(func() { require.NoError(b, conn.Close()) })
				clients[i] = testpb.NewTestServiceClient(conn)
			}
			ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer a-token-of-some-length")
			var turn, failed atomic.Int64
			work := make(chan struct{}, callers)
			done := make(chan struct{})
			for range callers {
				go func() {
					client := clients[int(turn.Add(1))%benchConns]
					for range work {
						if _, err := client.EmptyCall(ctx, &testpb.Empty{}, grpc.WaitForReady(true)); err != nil {
							failed.Add(1)
						}
					}
					done <- struct{}{}
				}()
			}
			b.ReportAllocs()
			before := processorTime(b)
			b.ResetTimer()
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			for range callers {
				<-done
			}
			b.StopTimer()
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
			require.Zero(b, failed.Load())
		})
	}
}

// processorTime is what the process has used, which others on the machine change less than the time that passed.
func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
