package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// memory is a figure of a process's status, such as VmRSS or VmHWM, in bytes.
func (p *process) memory(t testing.TB, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
			return kib << 10
		}
	}
	require.Fail(t, "the process's status tells no "+name)
	return 0
}

func TestAGatewayKeepsToItsLimits(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.everything(20)
	gateway := a.serve("TENANTRY_GATEWAY", "gateway", "gateway", "--master-key", a.keys+"/master.hex", "--signing-key", a.keys+"/assertion.pem",
		"--transaction-idle", "2s", "--transaction-timeout", "6s", "--statement-timeout", "10m")
	sun := a.customers(1)[0]
	client := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))
	t.Run("a million rows take no more memory than a few", func(t *testing.T) {
		read := func(rows int) {
			stream, err := client.Query(sun.ctx, &gatewayv1.QueryRequest{Sql: "SELECT g, repeat('x', 200) FROM generate_series(1, $1) g", Params: []*gatewayv1.Value{{Value: &gatewayv1.Value_Integer{Integer: int64(rows)}}}})
			require.NoError(t, err)
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err)
				rows -= len(m.GetRows())
			}
			require.Zero(t, rows)
		}
		read(1000)
		before := gateway.memory(t, "VmRSS")
		read(1_000_000) // 200 MB of values
		require.Less(t, gateway.memory(t, "VmHWM")-before, 64<<20)
	})
	t.Run("a transaction waits no longer than it was told", func(t *testing.T) {
		stream, err := client.Transact(sun.ctx)
		require.NoError(t, err)
		require.NoError(t, stream.Send(&gatewayv1.TransactRequest{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{}}}))
		_, err = stream.Recv()
		require.NoError(t, err)
		_, err = stream.Recv()
		requireReason(t, err, codes.DeadlineExceeded, fault.TransactionIdle)
	})
	t.Run("a transaction takes no longer than it was told", func(t *testing.T) {
		stream, err := client.Transact(sun.ctx)
		require.NoError(t, err)
		for _, step := range []*gatewayv1.TransactRequest{{Step: &gatewayv1.TransactRequest_Begin{Begin: &gatewayv1.Begin{}}},
			{Step: &gatewayv1.TransactRequest_Statement{Statement: &gatewayv1.Statement{Sql: "SELECT pg_sleep(20)"}}}} {
			require.NoError(t, stream.Send(step))
		}
		_, err = stream.Recv()
		require.NoError(t, err)
		_, err = stream.Recv()
		requireReason(t, err, codes.DeadlineExceeded, fault.TransactionTimeout)
	})
}
