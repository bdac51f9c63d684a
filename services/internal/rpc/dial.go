package rpc

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// balanced spreads calls over all addresses that a name resolves to: each service runs in any number of copies.
const balanced = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// Dial returns a connection to a service at `host:port`, or at any target that grpc-go resolves. It connects when it is
// first used, and again whenever it was cut off.
func Dial(target string, files TLS, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds, err := files.Client()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(balanced),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("rpc: dial %s: %w", target, err)
	}
	return conn, nil
}
