package rpc

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// balanced spreads calls over all addresses that a name resolves to: each service runs in any number of copies.
const balanced = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// reconnecting is how a service that is away is looked for. gRPC's own way waits for up to two minutes between two attempts,
// and so would all who log in after the registry was away for as long; one attempt every two seconds costs nobody anything.
var reconnecting = grpc.ConnectParams{
	MinConnectTimeout: 10 * time.Second,
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
}

// Dial returns a connection to a service at `host:port`, or at any target that grpc-go resolves. It connects when it is
// first used, and again whenever it was cut off: a service that comes back is found within two seconds or so.
func Dial(target string, files TLS, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds, err := files.Client()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(reconnecting),
		grpc.WithDefaultServiceConfig(balanced),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("rpc: dial %s: %w", target, err)
	}
	return conn, nil
}
