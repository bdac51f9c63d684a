package upstream_test

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	"github.com/tenantry/tenantry/proto/upstream"
)

// readings is a service behind the gateway.
type readings struct {
	testpb.UnimplementedTestServiceServer
	sql gatewayv1.SqlServiceClient
}

func (r *readings) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	caller, _ := upstream.FromContext(ctx)
	fmt.Fprintln(os.Stdout, "a call for", caller.CompanyID, "by", caller.UserID)
	// It reaches that company's database, and no other.
	_, err := r.sql.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "INSERT INTO meters DEFAULT VALUES"})
	return &testpb.Empty{}, err
}

func Example() {
	// A gateway, and a call that it forwards.
	signs := newKey("k")
	gateway, err := startGateway(signs.published("tenantry-gateway"))
	if err != nil {
		panic(err)
	}
	defer gateway.stop()

	// The service.
	verifier := upstream.NewVerifier("upstream/readings", gateway.conn)
	conn, stop, err := serve(func(s *grpc.Server) {
		testpb.RegisterTestServiceServer(s, &readings{sql: upstream.SQL(gateway.conn)})
	}, grpc.ChainUnaryInterceptor(verifier.Unary), grpc.ChainStreamInterceptor(verifier.Stream))
	if err != nil {
		panic(err)
	}
	defer stop()

	forwarded := metadata.AppendToOutgoingContext(context.Background(), upstream.Metadata, signs.assertion(nil))
	_, err = testpb.NewTestServiceClient(conn).EmptyCall(forwarded, &testpb.Empty{})
	fmt.Fprintln(os.Stdout, "answered:", err)
	// Output:
	// a call for company-1 by user-1
	// answered: <nil>
}
