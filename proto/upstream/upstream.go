// Package upstream is for services behind Tenantry's gateway. It finds out for which company a call is made, from the
// signed assertion that the gateway sends with it, and makes calls of SqlService with that assertion, which reach that
// company's database and no other. It needs the contract, gRPC and a JWT library, and nothing of Tenantry's services.
//
//	func serve(listener net.Listener, server, client credentials.TransportCredentials, gateway string) error {
//		conn, err := grpc.NewClient(gateway, grpc.WithTransportCredentials(client))
//		if err != nil {
//			return err
//		}
//		defer conn.Close()
//		verifier := upstream.NewVerifier("upstream/readings", conn)
//		s := grpc.NewServer(grpc.Creds(server), grpc.ChainUnaryInterceptor(verifier.Unary), grpc.ChainStreamInterceptor(verifier.Stream))
//		readingsv1.RegisterReadingsServiceServer(s, &service{sql: upstream.SQL(conn)})
//		return s.Serve(listener)
//	}
//
//	func (s *service) AddMeter(ctx context.Context, r *readingsv1.AddMeterRequest) (*readingsv1.AddMeterResponse, error) {
//		caller, _ := upstream.FromContext(ctx)
//		log.Print("a meter for ", caller.CompanyID)
//		_, err := s.sql.Execute(ctx, &gatewayv1.ExecuteRequest{Sql: "INSERT INTO meters …"})
//		return &readingsv1.AddMeterResponse{}, err
//	}
//
// An assertion can be shown by whoever has it, for the two minutes that it is good: let nobody call the service but the
// gateway, by the certificate `spiffe://tenantry/service/gateway`.
package upstream

import (
	"context"
	"time"
)

// Metadata is the name of the metadata in which the assertion comes, and goes to SqlService.
const Metadata = "tenantry-assertion"

// Caller is whom a call is made for, as the gateway found out.
type Caller struct {
	// CompanyID is the company.
	CompanyID string
	// UserID is the person; empty when a program calls.
	UserID string
	// SessionID is the person's session; empty when there is none.
	SessionID string
	// APIKeyID is the program's key; empty when a person calls.
	APIKeyID string
	// Roles are those of the credential, sorted.
	Roles []string
	// ExpiresAt is when the assertion ends: calls that are made with it have to begin before.
	ExpiresAt time.Time
}

type contextKey struct{}

// incoming is a call that was verified.
type incoming struct {
	caller    Caller
	assertion string
}

// FromContext returns whom the call of this context is made for; false outside of calls that a Verifier let in.
func FromContext(ctx context.Context) (Caller, bool) {
	in, ok := ctx.Value(contextKey{}).(incoming)
	return in.caller, ok
}
