package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
)

// gatewayName is the name in the gateway's certificate. Nobody else may call: whoever could would bring an assertion of
// their own choice, stolen from another call.
const gatewayName = "spiffe://tenantry/service/gateway"

// transport returns what the server and what the client to the gateway need: the same certificate at both ends, and the
// gateway's at the other.
func transport(ca, cert, key string) (server, client credentials.TransportCredentials, err error) {
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, nil, fmt.Errorf("%s holds no certificate", ca)
	}
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, nil, err
	}
	config := &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{own},
		RootCAs:          roots,
		ClientCAs:        roots,
		ClientAuth:       tls.RequireAndVerifyClientCert,
		VerifyConnection: isGateway,
	}
	return credentials.NewTLS(config), credentials.NewTLS(config.Clone()), nil
}

func isGateway(state tls.ConnectionState) error {
	names := state.PeerCertificates[0].URIs
	if len(names) != 1 || names[0].String() != gatewayName {
		return fmt.Errorf("the other end is %v, want %s", names, gatewayName)
	}
	return nil
}
