package token

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// Issuers and audience of tokens.
const (
	// RegistryIssuer signs access tokens.
	RegistryIssuer = "tenantry-registry"
	// GatewayIssuer signs assertions.
	GatewayIssuer = "tenantry-gateway"
	// AccessAudience is the audience of every access token.
	AccessAudience = "tenantry"

	// accessType is RFC 9068's; assertionType is our own.
	accessType    = "at+jwt"
	assertionType = "tenantry-assertion+jwt"
)

// leeway is how far the clocks of two servers may differ.
const leeway = 5 * time.Second

// Claims are what a token says of its bearer.
type Claims struct {
	// CompanyID is the company it is good for.
	CompanyID uuid.UUID
	// UserID is the person; uuid.Nil when a program calls.
	UserID uuid.UUID
	// SessionID is the person's session; uuid.Nil when there is none.
	SessionID uuid.UUID
	// APIKeyID is the program's key; uuid.Nil when a person calls.
	APIKeyID uuid.UUID
	// Roles are sorted.
	Roles []string
	// ExpiresAt is when it ends, in whole seconds.
	ExpiresAt time.Time
}

// wire is the claims as JSON. Ours begin with no name that IANA has registered for something else.
type wire struct {
	jwt.RegisteredClaims

	Company string   `json:"company"`
	Session string   `json:"sid,omitempty"`
	APIKey  string   `json:"api_key,omitempty"`
	Roles   []string `json:"roles,omitempty"`
}

// SignAccess makes an access token.
func (s *Signer) SignAccess(c Claims) (string, error) {
	return s.sign(c, RegistryIssuer, AccessAudience, accessType)
}

// SignAssertion makes an assertion for one upstream, the audience: the name in its certificate, such as
// `upstream/readings`.
func (s *Signer) SignAssertion(c Claims, audience string) (string, error) {
	return s.sign(c, GatewayIssuer, audience, assertionType)
}

func (s *Signer) sign(c Claims, issuer, audience, kind string) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, wire{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Audience:  jwt.ClaimStrings{audience},
			Subject:   text(c.UserID),
			IssuedAt:  jwt.NewNumericDate(time.Now()),
			ExpiresAt: jwt.NewNumericDate(c.ExpiresAt),
		},
		Company: text(c.CompanyID),
		Session: text(c.SessionID),
		APIKey:  text(c.APIKeyID),
		Roles:   c.Roles,
	})
	t.Header["kid"] = s.keys[0].ID
	t.Header["typ"] = kind
	signed, err := t.SignedString(s.private)
	if err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	return signed, nil
}

// Verifier checks tokens with a set of public keys, offline. It does not know of revocation.
type Verifier struct{ keys map[string]ed25519.PublicKey }

// NewVerifier returns a verifier that knows these keys.
func NewVerifier(keys ...Key) *Verifier {
	v := &Verifier{keys: make(map[string]ed25519.PublicKey, len(keys))}
	for _, k := range keys {
		v.keys[k.ID] = k.Public
	}
	return v
}

// ErrUnknownKey says that a token names a key that the verifier does not have: it may be newer than the verifier.
var ErrUnknownKey = errors.New("token: signed with an unknown key")

// VerifyAccess checks an access token. Errors are faults: UNAUTHENTICATED `TOKEN_EXPIRED` or `CREDENTIALS_INVALID`; the
// latter wraps ErrUnknownKey where it applies.
func (v *Verifier) VerifyAccess(signed string) (Claims, error) {
	return v.verify(signed, RegistryIssuer, AccessAudience, accessType)
}

// VerifyAssertion checks an assertion made for the audience. Errors are as VerifyAccess's.
func (v *Verifier) VerifyAssertion(signed, audience string) (Claims, error) {
	return v.verify(signed, GatewayIssuer, audience, assertionType)
}

func (v *Verifier) verify(signed, issuer, audience, kind string) (Claims, error) {
	var w wire
	_, err := jwt.ParseWithClaims(signed, &w, func(t *jwt.Token) (any, error) {
		if typ, _ := t.Header["typ"].(string); typ != kind {
			return nil, fmt.Errorf("got type %q, want %s", typ, kind)
		}
		kid, _ := t.Header["kid"].(string)
		if key, ok := v.keys[kid]; ok {
			return key, nil
		}
		return nil, ErrUnknownKey
	},
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway))
	if err == nil {
		var c Claims
		if c, err = w.claims(); err == nil {
			return c, nil
		}
	}
	if errors.Is(err, jwt.ErrTokenExpired) {
		return Claims{}, fault.New(codes.Unauthenticated, fault.TokenExpired, "the token has ended; refresh it or log in again").Because(err)
	}
	return Claims{}, fault.New(codes.Unauthenticated, fault.CredentialsInvalid, "the credential is not valid").Because(err)
}

// claims reads the ids back; a token without a company is none of ours.
func (w wire) claims() (Claims, error) {
	c := Claims{Roles: w.Roles, ExpiresAt: w.ExpiresAt.Time}
	for _, id := range []struct {
		name string
		text string
		to   *uuid.UUID
	}{{"company", w.Company, &c.CompanyID}, {"sub", w.Subject, &c.UserID}, {"sid", w.Session, &c.SessionID}, {"api_key", w.APIKey, &c.APIKeyID}} {
		if id.text == "" && id.name != "company" {
			continue
		}
		parsed, err := uuid.Parse(id.text)
		if err != nil {
			return Claims{}, fmt.Errorf("claim %s: %w", id.name, err)
		}
		*id.to = parsed
	}
	return c, nil
}

func text(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}
