package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// roles are what this program is besides the measuring: processes of their own, as they would be elsewhere.
func roles() map[string]func(context.Context, []string, io.Writer) error {
	return map[string]func(context.Context, []string, io.Writer) error{"upstream": serveUpstream, "token-check": serveTokenCheck, "flooder": flood}
}

// The upstream's one method. Its message is a well-known type, so that it needs no generated code.
const (
	echoService = "tenantry.bench.v1.EchoService"
	echoMethod  = "/" + echoService + "/Echo"
)

type echoServer interface {
	echo(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error)
}

type echo struct{}

func (echo) echo(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	return in, nil
}

func echoHandler(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc's own order
	in := new(wrapperspb.StringValue)
	if err := decode(in); err != nil {
		return nil, err
	}
	return server.(echoServer).echo(ctx, in)
}

// serveUpstream is a tiny gRPC service on TLS: ADDRESS CERT KEY.
func serveUpstream(ctx context.Context, args []string, _ io.Writer) error {
	if len(args) != 3 {
		return errors.New("upstream: want ADDRESS CERT KEY")
	}
	pair, err := tls.LoadX509KeyPair(args[1], args[2])
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: echoService, HandlerType: (*echoServer)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: echoHandler}}}, echo{})
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

// publicKeys are the registry's, by their ids, as `id=x,id=x` with the base64 of a JSON Web Key.
func publicKeys(text string) (map[string]ed25519.PublicKey, error) {
	keys := map[string]ed25519.PublicKey{}
	for pair := range strings.SplitSeq(text, ",") {
		id, x, _ := strings.Cut(pair, "=")
		raw, err := base64.RawURLEncoding.DecodeString(x)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("token-check: got the key %q, want ID=X of an Ed25519 key", pair)
		}
		keys[id] = raw
	}
	return keys, nil
}

// serveTokenCheck answers nginx's auth_request: 204 with the company for a good access token, 401 for any other:
// ADDRESS KEYS.
func serveTokenCheck(ctx context.Context, args []string, _ io.Writer) error {
	if len(args) != 2 {
		return errors.New("token-check: want ADDRESS KEYS")
	}
	keys, err := publicKeys(args[1])
	if err != nil {
		return err
	}
	s := &http.Server{Addr: args[0], ReadHeaderTimeout: callWithin, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		company, err := verify(bearer, keys)
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Company", company)
		w.WriteHeader(http.StatusNoContent)
	})}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })() // Nobody waits for an answer any more.
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// flooding says what to flood, as JSON in one argument.
type flooding struct {
	Gateway string
	CA      string
	Token   string
	Callers int
}

// flood calls without a pause until it is told to end, and writes what it got.
func flood(ctx context.Context, args []string, out io.Writer) error {
	var f flooding
	if len(args) != 1 {
		return errors.New("flooder: want JSON")
	}
	if err := json.Unmarshal([]byte(args[0]), &f); err != nil {
		return err
	}
	clients, err := dialMany(f.Gateway, f.CA, clientConns)
	if err != nil {
		return err
	}
	defer func() { _ = clients.close() }() // The calls on them have ended.
	got := load(ctx, f.Callers, time.Hour, func(ctx context.Context, i int) error {
		err := queryByKey(withToken(ctx, f.Token), clients.sql(i), int64(i%rowsEach)+1)
		if err != nil {
			time.Sleep(refusedPause)
		}
		return err
	})
	_, err = fmt.Fprintf(out, "%.0f calls a second answered, %d refused in all (%v)\n", got.perSecond(), got.failed, got.err)
	return err
}
