// Readings is an example of a service behind Tenantry's gateway. See README.md beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	readingsv1 "github.com/tenantry/tenantry/examples/gen/go/readings/v1"
	"github.com/tenantry/tenantry/proto/upstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "readings:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("readings", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:7500", "address to serve at")
	gateway := flags.String("gateway", os.Getenv("TENANTRY_GATEWAY"), "the gateway's address")
	ca := flags.String("tls-ca", os.Getenv("TENANTRY_CA"), "certificate of the authority")
	cert := flags.String("tls-cert", "", "this service's certificate, which names it upstream/readings")
	key := flags.String("tls-key", "", "its key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server, client, err := transport(*ca, *cert, *key)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(*gateway, grpc.WithTransportCredentials(client))
	if err != nil {
		return err
	}
	defer conn.Close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}

	verifier := upstream.NewVerifier("upstream/readings", conn)
	s := grpc.NewServer(grpc.Creds(server), grpc.ChainUnaryInterceptor(verifier.Unary), grpc.ChainStreamInterceptor(verifier.Stream))
	readingsv1.RegisterReadingsServiceServer(s, &service{db: database{upstream.SQL(conn)}})
	reflection.Register(s)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(listener) }()
	fmt.Fprintln(os.Stderr, "readings: serving at", listener.Addr())
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		s.GracefulStop()
		return errors.Join(<-ended, conn.Close())
	}
}
