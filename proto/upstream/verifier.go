package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// issuer is who signs assertions, kind the type that tells them from other tokens.
	issuer = "tenantry-gateway"
	kind   = "tenantry-assertion+jwt"
	// group begins the name of every upstream.
	group = "upstream/"
	// leeway is how far the clocks of the gateway and this service may differ.
	leeway = 5 * time.Second
)

// open begins the names of methods that tell nothing worth guarding: they may be called without an assertion.
var open = []string{"/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"}

// Verifier lets calls in that the gateway forwarded to one service.
type Verifier struct {
	name string
	keys *keys
}

// NewVerifier returns a verifier for the service whose certificate bears a name, such as `upstream/readings`, or
// `readings` for short. The gateway behind conn tells the keys when the first call comes, and again when they are old or an
// assertion names one that is not known: rotation needs no restart.
func NewVerifier(name string, conn grpc.ClientConnInterface) *Verifier {
	return &Verifier{name: group + strings.TrimPrefix(name, group), keys: newKeys(conn)}
}

// Unary is a grpc.UnaryServerInterceptor. Its errors are UNAUTHENTICATED `ASSERTION_MISSING`, `ASSERTION_INVALID` or
// `ASSERTION_EXPIRED`, and UNAVAILABLE `KEYS_UNAVAILABLE`. Health checks and reflection need no assertion.
func (v *Verifier) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := v.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// Stream is a grpc.StreamServerInterceptor, and as Unary.
func (v *Verifier) Stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := v.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(server, verifiedStream{stream, ctx})
}

type verifiedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s verifiedStream) Context() context.Context { return s.ctx }

// admit returns the context of a call with its caller.
func (v *Verifier) admit(ctx context.Context, method string) (context.Context, error) {
	if slices.ContainsFunc(open, func(prefix string) bool { return strings.HasPrefix(method, prefix) }) {
		return ctx, nil
	}
	values := metadata.ValueFromIncomingContext(ctx, Metadata)
	if len(values) != 1 || values[0] == "" {
		return nil, fault(codes.Unauthenticated, AssertionMissing, fmt.Sprintf("the call carries %d `%s`, want one: it has to come through the gateway", len(values), Metadata), 0)
	}
	caller, err := v.Verify(ctx, values[0])
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, contextKey{}, incoming{caller, values[0]}), nil
}

// claims are what an assertion says.
type claims struct {
	jwt.RegisteredClaims

	Company string   `json:"company"`
	Session string   `json:"sid"`
	APIKey  string   `json:"api_key"`
	Roles   []string `json:"roles"`
}

// Verify checks one assertion: its signature, issuer, audience and end. Errors are Unary's.
func (v *Verifier) Verify(ctx context.Context, assertion string) (Caller, error) {
	var c claims
	_, err := jwt.ParseWithClaims(assertion, &c, func(t *jwt.Token) (any, error) {
		if typ, _ := t.Header["typ"].(string); typ != kind {
			return nil, fmt.Errorf("got type %q, want %s", typ, kind)
		}
		id, _ := t.Header["kid"].(string)
		return v.keys.of(ctx, id)
	},
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithAudience(v.name), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway))
	switch {
	case err == nil && c.Company != "":
		return Caller{CompanyID: c.Company, UserID: c.Subject, SessionID: c.Session, APIKeyID: c.APIKey, Roles: c.Roles, ExpiresAt: c.ExpiresAt.Time}, nil
	case errors.Is(err, errNoKeys):
		return Caller{}, fault(codes.Unavailable, KeysUnavailable, "the assertion cannot be verified now", askEvery)
	case ctx.Err() != nil:
		return Caller{}, status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, jwt.ErrTokenExpired):
		return Caller{}, fault(codes.Unauthenticated, AssertionExpired, "the assertion has ended", 0)
	default:
		return Caller{}, fault(codes.Unauthenticated, AssertionInvalid, "the assertion is not one of the gateway's for "+v.name, 0)
	}
}
