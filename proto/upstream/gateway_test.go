package upstream_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/gateway/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/proto/upstream"
)

// key is one that signs assertions.
type key struct {
	id      string
	private ed25519.PrivateKey
}

func newKey(id string) key {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key{id, private}
}

func (k key) published(issuer string) *registryv1.JsonWebKey {
	return &registryv1.JsonWebKey{Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(k.private.Public().(ed25519.PublicKey)),
		Kid: k.id, Alg: "EdDSA", Use: "sig", Issuer: issuer}
}

// assertion is one as the gateway makes it, with some claims changed; nil takes one out. `typ` is the header's.
func (k key) assertion(changes map[string]any) string {
	claims := jwt.MapClaims{"iss": "tenantry-gateway", "aud": []string{"upstream/readings"}, "sub": "user-1", "company": "company-1", "sid": "session-1",
		"roles": []string{"admin", "user"}, "exp": time.Now().Add(2 * time.Minute).Unix(), "typ": "tenantry-assertion+jwt"}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	t.Header["kid"], t.Header["typ"] = k.id, claims["typ"]
	delete(claims, "typ")
	signed, err := t.SignedString(k.private)
	if err != nil {
		panic(err)
	}
	return signed
}

// gateway is a stand-in for what an upstream needs of one.
type gateway struct {
	registryv1.UnimplementedSessionServiceServer
	gatewayv1.UnimplementedSqlServiceServer
	conn *grpc.ClientConn
	stop func()

	mu    sync.Mutex
	keys  []*registryv1.JsonWebKey
	away  bool
	asked int
	shown metadata.MD // with the last call of SqlService
}

// startGateway serves until it is stopped.
func startGateway(keys ...*registryv1.JsonWebKey) (*gateway, error) {
	g := &gateway{keys: keys}
	conn, stop, err := serve(func(s *grpc.Server) {
		registryv1.RegisterSessionServiceServer(s, g)
		gatewayv1.RegisterSqlServiceServer(s, g)
	})
	g.conn, g.stop = conn, stop
	return g, err
}

// serve starts a server and returns a connection to it.
func serve(register func(*grpc.Server), options ...grpc.ServerOption) (*grpc.ClientConn, func(), error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	s := grpc.NewServer(options...)
	register(s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	return conn, func() {
		if conn != nil {
			_ = conn.Close()
		}
		s.Stop()
		serving.Wait()
	}, err
}

func (g *gateway) GetJwks(context.Context, *registryv1.GetJwksRequest) (*registryv1.GetJwksResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if g.away {
		return nil, status.Error(codes.Unavailable, "away")
	}
	return &registryv1.GetJwksResponse{Keys: g.keys}, nil
}

func (g *gateway) note(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shown, _ = metadata.FromIncomingContext(ctx)
}

func (g *gateway) Execute(ctx context.Context, _ *gatewayv1.ExecuteRequest) (*gatewayv1.ExecuteResponse, error) {
	g.note(ctx)
	return &gatewayv1.ExecuteResponse{}, nil
}

func (g *gateway) Query(_ *gatewayv1.QueryRequest, out grpc.ServerStreamingServer[gatewayv1.QueryResponse]) error {
	g.note(out.Context())
	return nil
}

// assertions are those that came with the last call of SqlService.
func (g *gateway) assertions() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shown.Get(upstream.Metadata)
}

// direct is a connection to the gateway without a network, for tests whose clock stands still meanwhile.
type direct struct {
	grpc.ClientConnInterface
	gateway *gateway
}

func (d direct) Invoke(ctx context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	out, err := d.gateway.GetJwks(ctx, nil)
	if err == nil {
		reply.(*registryv1.GetJwksResponse).Keys = out.GetKeys()
	}
	return err
}
