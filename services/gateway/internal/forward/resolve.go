package forward

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
)

// scheme is that of targets that stand for the addresses of an upstream.
const scheme = "upstream"

// resolution is a resolver.Builder for a list of addresses: it has grpc-go's DNS resolver look after each, and puts
// together what those find. So a name among them stands for all copies behind it. It is resolved again when a connection
// breaks, as that resolver does it, and every half a minute: copies that come break nothing.
type resolution []string

// lookAgain is how often names are resolved again.
const lookAgain = 30 * time.Second

// Scheme implements resolver.Builder.
func (resolution) Scheme() string { return scheme }

// Build implements resolver.Builder.
func (addresses resolution) Build(_ resolver.Target, cc resolver.ClientConn, options resolver.BuildOptions) (resolver.Resolver, error) {
	dns := resolver.Get("dns")
	if dns == nil {
		return nil, errors.New("forward: no resolver of names is linked in")
	}
	options.DisableServiceConfig = true
	r := &resolving{cc: cc, found: make([][]resolver.Endpoint, len(addresses))}
	for i, a := range addresses {
		part, err := dns.Build(resolver.Target{URL: url.URL{Scheme: "dns", Path: "/" + a}}, &resolvingOne{ClientConn: cc, all: r, index: i, address: a}, options)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.parts = append(r.parts, part)
	}
	r.start()
	return r, nil
}

// resolving is the resolver.Resolver of one connection.
type resolving struct {
	cc    resolver.ClientConn
	parts []resolver.Resolver
	stop  context.CancelFunc // of looking again; nil before it began
	looks sync.WaitGroup

	mu    sync.Mutex
	found [][]resolver.Endpoint // by address
}

// start has names resolved again now and then, until Close.
func (r *resolving) start() {
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.looks.Go(func() {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				r.ResolveNow(resolver.ResolveNowOptions{})
			}
		}
	})
}

// ResolveNow implements resolver.Resolver.
func (r *resolving) ResolveNow(o resolver.ResolveNowOptions) {
	for _, p := range r.parts {
		p.ResolveNow(o)
	}
}

// Close implements resolver.Resolver.
func (r *resolving) Close() {
	if r.stop != nil {
		r.stop()
		r.looks.Wait()
	}
	for _, p := range r.parts {
		p.Close()
	}
}

// resolvingOne is what the resolver of one address takes for its connection.
type resolvingOne struct {
	resolver.ClientConn
	all     *resolving
	index   int
	address string
}

// UpdateState implements resolver.ClientConn. What is found bears the address that it was found by, which certificates
// are checked against.
func (o *resolvingOne) UpdateState(s resolver.State) error {
	endpoints := make([]resolver.Endpoint, len(s.Endpoints))
	for i, e := range s.Endpoints {
		e.Addresses = slices.Clone(e.Addresses)
		for j := range e.Addresses {
			e.Addresses[j].ServerName = o.address
		}
		endpoints[i] = e
	}
	o.all.mu.Lock()
	defer o.all.mu.Unlock()
	o.all.found[o.index] = endpoints
	return o.all.cc.UpdateState(resolver.State{Endpoints: slices.Concat(o.all.found...)})
}

// ReportError implements resolver.ClientConn. An address that cannot be resolved harms none of the others.
func (o *resolvingOne) ReportError(err error) {
	o.all.mu.Lock()
	defer o.all.mu.Unlock()
	if len(slices.Concat(o.all.found...)) == 0 {
		o.all.cc.ReportError(err)
	}
}
