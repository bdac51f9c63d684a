package devserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Ports are TCP ports on 127.0.0.1; 0 means a free one.
type Ports struct {
	// Gateway is what clients call.
	Gateway int
	// Registry is what operators and the other services call.
	Registry int
	// Provisioner is what the signup flow and operators call.
	Provisioner int
	// Postgres is the private PostgreSQL server's.
	Postgres int
}

// DefaultPorts are those of `tenantry dev`, the same at every start so that they can be learnt by heart.
func DefaultPorts() Ports {
	return Ports{Gateway: 7400, Registry: 7401, Provisioner: 7402, Postgres: 7432}
}

// listeners are taken before anything else is started, so that a taken port is known at once.
type listeners struct {
	gateway, registry, provisioner net.Listener
	// postgres is a port only: PostgreSQL opens it itself.
	postgres int
}

func listen(ctx context.Context, ports Ports) (*listeners, error) {
	l := &listeners{postgres: ports.Postgres}
	for _, want := range []struct {
		what string
		port int
		to   *net.Listener
	}{
		{"the gateway", ports.Gateway, &l.gateway},
		{"the registry", ports.Registry, &l.registry},
		{"the provisioner", ports.Provisioner, &l.provisioner},
	} {
		got, err := listenOn(ctx, want.what, want.port)
		if err != nil {
			l.closeUnserved()
			return nil, err
		}
		*want.to = got
	}
	if ports.Postgres != 0 {
		probe, err := listenOn(ctx, "PostgreSQL", ports.Postgres)
		if err == nil {
			err = probe.Close()
		}
		if err != nil {
			l.closeUnserved()
			return nil, err
		}
	}
	return l, nil
}

func listenOn(ctx context.Context, what string, port int) (net.Listener, error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp4", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s's address %s is taken by another process: stop that, or let free ports be chosen (--ephemeral-ports)", what, address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	return l, nil
}

// take hands a listener over to its service, which closes it.
func take(l *net.Listener) net.Listener {
	taken := *l
	*l = nil
	return taken
}

func (l *listeners) closeUnserved() {
	for _, unserved := range []net.Listener{l.gateway, l.registry, l.provisioner} {
		if unserved != nil {
			_ = unserved.Close() // Nobody ever spoke on it.
		}
	}
}
