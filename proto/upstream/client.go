package upstream

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
)

// SQL returns a client of the gateway's SqlService. A call with the context of a call that a Verifier let in reaches the
// database of the company that one is for.
func SQL(conn grpc.ClientConnInterface) gatewayv1.SqlServiceClient {
	return gatewayv1.NewSqlServiceClient(OnBehalf(conn))
}

// OnBehalf returns a connection to the gateway for clients of any service, with whose calls the assertion of the call in
// their context goes. Without one they are UNAUTHENTICATED `ASSERTION_MISSING`, and nothing is sent.
func OnBehalf(conn grpc.ClientConnInterface) grpc.ClientConnInterface { return onBehalf{conn} }

type onBehalf struct{ conn grpc.ClientConnInterface }

// Invoke implements grpc.ClientConnInterface.
func (o onBehalf) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	ctx, err := outgoing(ctx)
	if err != nil {
		return err
	}
	return o.conn.Invoke(ctx, method, args, reply, options...)
}

// NewStream implements grpc.ClientConnInterface.
func (o onBehalf) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, err := outgoing(ctx)
	if err != nil {
		return nil, err
	}
	return o.conn.NewStream(ctx, desc, method, options...)
}

// outgoing hands the assertion of the call that is being answered on.
func outgoing(ctx context.Context) (context.Context, error) {
	in, ok := ctx.Value(contextKey{}).(incoming)
	if !ok {
		return nil, fault(codes.Unauthenticated, AssertionMissing, "the context is not that of a call that was verified", 0)
	}
	md, ok := metadata.FromOutgoingContext(ctx) // a copy of our own
	if !ok {
		md = metadata.MD{}
	}
	md.Set(Metadata, in.assertion)
	return metadata.NewOutgoingContext(ctx, md), nil
}
