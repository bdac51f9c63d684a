package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestAFileOfUpstreamsIsReloadedUnderLoadWithoutAFailedCall(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	path := filepath.Join(t.TempDir(), "upstreams.yaml")
	put := func(concurrent int) {
		text := fmt.Sprintf("upstreams:\n  - name: readings\n    services: [readings.v1.ReadingsService]\n    addresses: [%q]\n    max_concurrent: %d\n", address, concurrent)
		require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	put(1000)
	s := newSystem(t, "--upstreams", path)
	sun := s.signUp("sun")
	s.upstream(address)
	authorized := s.logIn(sun)
	conn := s.dial("TENANTRY_GATEWAY", asNobody)
	ctx, stop := context.WithCancel(authorized)
	calls := &traffic{stop: stop}
	t.Cleanup(calls.end)
	for range 3 {
		calls.group.Go(func() {
			for ctx.Err() == nil {
				calls.note(ctx, func() error { // A stream of no readings, whose answer tells that none was stored.
					stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/readings.v1.ReadingsService/ImportReadings")
					if err != nil {
						return err
					}
					return drain(stream)
				})
			}
		})
	}
	calls.answers(t, 20)
	reloads := func() int { return strings.Count(s.dev.output(), "the upstreams are those of their file") }
	for n := range 4 {
		was := reloads()
		put(2000 + n)
		if n%2 == 0 {
			require.NoError(t, s.dev.cmd.Process.Signal(syscall.SIGHUP))
		}
		require.Eventually(t, func() bool { return reloads() > was }, patience, 10*time.Millisecond)
		calls.answers(t, 20)
	}
	require.NoError(t, os.WriteFile(path, []byte("upstreams: wrong"), 0o600))
	require.NoError(t, s.dev.cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return strings.Contains(s.dev.output(), "the upstreams are as before") }, patience, 10*time.Millisecond)
	calls.answers(t, 20)
	calls.end()
	calls.requireNone(t, "the upstreams were reloaded")
	t.Logf("%d calls; none failed", calls.answered.Load())
}

// drain sends nothing and reads a stream to its end.
func drain(stream grpc.ClientStream) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(&emptypb.Empty{}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
