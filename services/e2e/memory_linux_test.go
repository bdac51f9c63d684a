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

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
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

func TestAMillionRowsTakeNoMoreMemoryThanAFew(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.everything(20)
	gateway := a.serve("TENANTRY_GATEWAY", "gateway", "gateway", "--master-key", a.keys+"/master.hex", "--signing-key", a.keys+"/assertion.pem")
	sun := a.customers(1)[0]
	client := gatewayv1.NewSqlServiceClient(a.dial("TENANTRY_GATEWAY", asNobody))
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
}
