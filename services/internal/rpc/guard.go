package rpc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
	"github.com/tenantry/tenantry/services/internal/pg"
)

// guard is what stands before every handler: it finds out who calls, asks the access table, checks requests, catches
// panics, logs, and makes a fault of every error.
type guard struct {
	cfg       Config
	validator protovalidate.Validator
	log       *zap.Logger
	// served are the methods of the services that are registered; set before the first call.
	served map[string]bool
}

// serves says what is served, so that nobody can make up names to be counted under.
func (g *guard) serves(services map[string]grpc.ServiceInfo) {
	g.served = map[string]bool{}
	for service, info := range services {
		for _, m := range info.Methods {
			g.served["/"+service+"/"+m.Name] = true
		}
	}
}

// observe counts a call.
func (c *call) observe(code codes.Code) {
	if c.cfg.Observe == nil {
		return
	}
	method := c.method
	if !c.served[method] {
		method = "forwarded"
	}
	c.cfg.Observe(method, code, time.Since(c.start))
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	call := g.begin(ctx, info.FullMethod)
	defer func() { err = call.end(err, recover()) }()
	if err := call.admit(); err != nil {
		return nil, err
	}
	if err := g.validate(req); err != nil {
		return nil, err
	}
	return handler(call.ctx, req)
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	call := g.begin(ss.Context(), info.FullMethod)
	defer func() { err = call.end(err, recover()) }()
	if err := call.admit(); err != nil {
		return err
	}
	return handler(srv, &checkedStream{ServerStream: ss, ctx: call.ctx, guard: g})
}

// checkedStream carries the caller in its context and checks each request as it comes.
type checkedStream struct {
	grpc.ServerStream
	ctx   context.Context
	guard *guard
}

func (s *checkedStream) Context() context.Context { return s.ctx }

func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.guard.validate(m)
}

// call is one call on its way.
type call struct {
	*guard
	ctx    context.Context
	method string
	start  time.Time
	caller identity.Caller
	// counted says that the limits were told of its begin and have to be told of its end.
	counted bool
}

func (g *guard) begin(ctx context.Context, method string) *call {
	return &call{guard: g, ctx: ctx, method: method, start: time.Now()}
}

// admit finds out who calls, whether it may, and whether that is not too much.
func (c *call) admit() error {
	p, _ := peer.FromContext(c.ctx)
	caller, err := certified(p)
	if err != nil {
		return err
	}
	kinds, limits := c.cfg.Access.allowed(c.method), c.limits(p)
	if limits != nil {
		if err := limits.Arrive(caller, p.Addr, slices.Contains(kinds, identity.Anonymous)); err != nil {
			return err
		}
	}
	if err := c.authenticate(caller, kinds); err != nil {
		if limits != nil && isGuess(err) {
			limits.Guessed(caller, p.Addr)
		}
		return err
	}
	if limits != nil {
		if err := limits.Begin(c.ctx, &c.caller); err != nil {
			return err
		}
		c.counted = true
	}
	c.ctx = identity.NewContext(c.ctx, c.caller)
	return nil
}

// authenticate finds out who calls, beyond what the certificate proves, and asks the access table.
func (c *call) authenticate(certified identity.Caller, kinds []identity.Kind) error {
	c.caller = certified
	if c.cfg.Authenticate != nil {
		md, _ := metadata.FromIncomingContext(c.ctx)
		authenticated, err := c.cfg.Authenticate(c.ctx, certified, md)
		switch {
		case err == nil:
			c.caller = authenticated
		case !slices.Contains(kinds, identity.Anonymous):
			return err
		}
	}
	return c.cfg.Access.check(kinds, c.method, c.caller)
}

// certified is the caller that the connection's certificate proves.
func certified(p *peer.Peer) (identity.Caller, error) {
	if p == nil {
		return identity.Caller{}, nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return identity.Caller{}, nil
	}
	caller, err := identity.FromCertificate(info.State.PeerCertificates[0])
	if err != nil {
		return identity.Caller{}, fault.New(codes.Unauthenticated, fault.CredentialsInvalid,
			"the client certificate names no caller that is known here").Because(err)
	}
	return caller, nil
}

// end makes of a handler's error, or its panic, the fault that is sent, and logs the call.
func (c *call) end(err error, panicked any) error {
	if c.counted {
		c.cfg.Limits.End(&c.caller)
	}
	if panicked != nil {
		c.log.Error("panic", zap.String("method", c.method), zap.Any("panic", panicked), zap.ByteString("stack", debug.Stack()))
		err = fault.New(codes.Internal, fault.Internal, "something went wrong inside; the server's log tells what").
			Because(fmt.Errorf("panic: %v", panicked))
	}
	if err == nil {
		c.observe(codes.OK)
		if c.log.Core().Enabled(zap.DebugLevel) { // Most calls end here, and their fields cost more than asking.
			c.log.Debug("call", append(c.fields(), zap.Stringer("code", codes.OK))...)
		}
		return nil
	}
	// A service's own database that is away for a moment is no fault inside: who asks again will have its answer.
	err = pg.Unavailable(err)
	f := fault.From(err)
	c.observe(f.Code)
	fields := append(c.fields(), zap.Stringer("code", f.Code), zap.String("reason", f.Reason), zap.Error(err))
	switch f.Code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		c.log.Error("call", fields...)
	default:
		c.log.Info("call", fields...)
	}
	if _, bare := err.(interface{ GRPCStatus() *status.Status }); bare {
		return err // Another service's answer passes as it is, with details of which we know nothing.
	}
	return f.GRPCStatus().Err()
}

// fields are what the log says of every call.
func (c *call) fields() []zap.Field {
	fields := []zap.Field{zap.String("method", c.method), zap.Duration("took", time.Since(c.start)), zap.String("caller", c.caller.Actor())}
	if c.caller.IsTenant() {
		fields = append(fields, zap.Stringer("company", c.caller.CompanyID))
	}
	return fields
}

// validate checks a message against the rules in the contract.
func (g *guard) validate(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	err := g.validator.Validate(message)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return fault.New(codes.Internal, fault.Internal, "the request could not be checked").Because(err)
	}
	var first *fault.Error
	for _, v := range invalid.Violations {
		f := fault.Invalid(protovalidate.FieldPathString(v.Proto.GetField()), "%s", describe(v))
		if first == nil {
			first = f
			continue
		}
		first.Fields = append(first.Fields, f.Fields...)
	}
	return first
}

// Bearer returns the credential of `authorization: Bearer CREDENTIAL`, empty without that metadata. Anything else in
// its place is UNAUTHENTICATED `CREDENTIALS_INVALID`.
func Bearer(md metadata.MD) (string, error) {
	values := md.Get("authorization")
	if len(values) == 0 {
		return "", nil
	}
	scheme, credential, ok := strings.Cut(values[0], " ")
	if len(values) > 1 || !ok || !strings.EqualFold(scheme, "bearer") || credential == "" {
		return "", fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "want one `authorization: Bearer CREDENTIAL`")
	}
	return credential, nil
}
