package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantry/tenantry/bench/harness"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

const (
	forwardCallers = 32
	forwardRounds  = 5
	forwardLasts   = 1500 * time.Millisecond
)

// contender is a way to the upstream.
type contender struct {
	name  string
	conns clients
	// rounds are what many callers got, and alone what one did.
	rounds, alone []outcome
}

// measureForward calls a tiny upstream through the gateway, through nginx with and without a check of the token, and
// without anything between. All are called on TLS and call the upstream on TLS.
func measureForward(ctx context.Context, r *rig) (err error) {
	tenants, err := r.need(ctx, 1)
	if err != nil {
		return err
	}
	var children []*child
	defer func() {
		for _, c := range slices.Backward(children) {
			err = errors.Join(err, c.stop())
		}
	}()
	way, children, err := forwardWays(ctx, r)
	if err != nil {
		return err
	}
	defer func() {
		for _, w := range way {
			err = errors.Join(err, w.conns.close())
		}
	}()
	// A token each, as callers are people.
	tokens := make([]string, forwardCallers)
	for i := range tokens {
		if tokens[i], err = r.signer.access(tenants[0].company); err != nil {
			return err
		}
	}
	if err := wrongTokensAreRefused(ctx, way, tokens[0]); err != nil {
		return err
	}
	for round := range forwardRounds + 1 {
		for i := range way {
			w := way[(i+round)%len(way)]
			call := func(ctx context.Context, i int) error { return callEcho(withToken(ctx, tokens[i]), w.conns.of(i)) }
			lasts := forwardLasts
			if round == 0 {
				lasts /= 3 // Connections, caches and the processor's clock are made warm.
			}
			many, one := load(ctx, forwardCallers, lasts, call), load(ctx, 1, lasts, call)
			for _, o := range []outcome{many, one} {
				if o.failed > 0 {
					return fmt.Errorf("%s: %d calls failed: %w", w.name, o.failed, o.err)
				}
			}
			if round > 0 {
				w.rounds, w.alone = append(w.rounds, many), append(w.alone, one)
			}
		}
	}
	return reportForward(r, way)
}

func reportForward(r *rig, way []*contender) error {
	figures := func(w *contender, of func(*contender) []outcome, f func(outcome) float64) []float64 {
		var out []float64
		for _, o := range of(w) {
			out = append(out, f(o))
		}
		return out
	}
	many := func(w *contender) []outcome { return w.rounds }
	alone := func(w *contender) []outcome { return w.alone }
	quantile := func(q float64) func(outcome) float64 { return func(o outcome) float64 { return o.quantile(q) } }
	for _, w := range way {
		if err := r.report.Printf("  %-12s %d callers: %8.0f/s  p50 %6.3f ms  p99 %6.3f ms    1 caller: %7.0f/s  p50 %6.3f ms  p99 %6.3f ms\n", w.name, forwardCallers,
			harness.Median(figures(w, many, outcome.perSecond)), harness.Median(figures(w, many, quantile(0.5))), harness.Median(figures(w, many, quantile(0.99))),
			harness.Median(figures(w, alone, outcome.perSecond)), harness.Median(figures(w, alone, quantile(0.5))), harness.Median(figures(w, alone, quantile(0.99)))); err != nil {
			return err
		}
	}
	here, auth, plain, direct := way[0], way[1], way[2], way[3]
	for _, c := range []harness.Comparison{
		compared("forward-vs-nginx-auth", "calls/s", 1.5, false, figures(here, many, outcome.perSecond), figures(auth, many, outcome.perSecond)),
		compared("forward-vs-nginx-plain", "calls/s", 1, false, figures(here, many, outcome.perSecond), figures(plain, many, outcome.perSecond)),
		compared("forward-1-vs-nginx-auth", "ms p50", 1, true, figures(here, alone, quantile(0.5)), figures(auth, alone, quantile(0.5))),
		compared("forward-1-vs-nginx-plain", "ms p50", 1, true, figures(here, alone, quantile(0.5)), figures(plain, alone, quantile(0.5))),
		// What a hop more costs: it can be no better than half of a call without one, as all share the processors.
		compared("forward-vs-direct", "calls/s", 0.25, false, figures(here, many, outcome.perSecond), figures(direct, many, outcome.perSecond)),
		compared("forward-1-vs-direct", "ms p50", 4, true, figures(here, alone, quantile(0.5)), figures(direct, alone, quantile(0.5))),
	} {
		if err := r.report.Add(c); err != nil {
			return err
		}
	}
	return nil
}

func callEcho(ctx context.Context, conn *grpc.ClientConn) error {
	const text = "eighteen kilowatts"
	out := new(wrapperspb.StringValue)
	if err := conn.Invoke(ctx, echoMethod, wrapperspb.String(text), out); err != nil {
		return err
	}
	if out.GetValue() != text {
		return fmt.Errorf("got %q back", out.GetValue())
	}
	return nil
}

// wrongTokensAreRefused makes sure that those who are to check do: a fast answer to anyone would be no answer.
func wrongTokensAreRefused(ctx context.Context, way []*contender, token string) error {
	forged := token[:len(token)-8] + "AAAAAAAA"
	for _, w := range way[:2] {
		if err := callEcho(withToken(ctx, token), w.conns.of(0)); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if err := callEcho(withToken(ctx, forged), w.conns.of(0)); err == nil {
			return fmt.Errorf("%s takes a forged token", w.name)
		}
	}
	return nil
}

// forwardWays starts the upstream and all that can stand before it: the gateway, nginx that asks whether the token is
// good, nginx that does not, and nothing.
func forwardWays(ctx context.Context, r *rig) (way []*contender, children []*child, err error) {
	defer func() {
		if err != nil {
			for _, c := range slices.Backward(children) {
				err = errors.Join(err, c.stop())
			}
			children = nil
		}
	}()
	cert, key, err := r.issue(ctx, "upstream/bench")
	if err != nil {
		return nil, nil, err
	}
	n := nginx{cert: cert, key: key, ca: r.system.Env["TENANTRY_CA"]}
	if err := freeAddresses(ctx, &n.upstream, &n.check, &n.authenticated, &n.plain); err != nil {
		return nil, nil, err
	}
	keys, err := r.publicKeys(ctx)
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	for _, role := range [][]string{{"upstream", n.upstream, cert, key}, {"token-check", n.check, keys}} {
		c, err := spawn(r.log(role[0]), self, nil, role...)
		if err != nil {
			return nil, children, err
		}
		children = append(children, c)
		if err := c.await(ctx, listens(role[1])); err != nil {
			return nil, children, err
		}
	}
	g, err := r.gateway(ctx, r.system.Env["TENANTRY_REGISTRY"], "--upstream", echoService+"=bench@"+n.upstream)
	if err != nil {
		return nil, children, err
	}
	children = append(children, g.child)
	proxy, err := n.start(ctx, r)
	if err != nil {
		return nil, children, err
	}
	children = append(children, proxy)
	for _, w := range []struct{ name, address string }{{"gateway", g.address}, {"nginx-auth", n.authenticated}, {"nginx-plain", n.plain}, {"direct", n.upstream}} {
		conns, err := dialMany(w.address, n.ca, clientConns)
		if err != nil {
			return nil, children, err
		}
		way = append(way, &contender{name: w.name, conns: conns})
	}
	return way, children, nil
}

// publicKeys are the registry's, from GetJwks, as the token check takes them.
func (r *rig) publicKeys(ctx context.Context) (string, error) {
	conn, err := r.system.Dial("TENANTRY_REGISTRY")
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	got, err := registryv1.NewSessionServiceClient(conn).GetJwks(ctx, &registryv1.GetJwksRequest{})
	if err != nil {
		return "", err
	}
	var keys []string
	for _, k := range got.GetKeys() {
		if raw, err := base64.RawURLEncoding.DecodeString(k.GetX()); err == nil && len(raw) == 32 {
			keys = append(keys, k.GetKid()+"="+k.GetX())
		}
	}
	return strings.Join(keys, ","), nil
}
