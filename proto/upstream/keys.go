package upstream

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

const (
	// keysLife is after how long the keys are asked for again: a key that the gateway dropped is good for that long.
	keysLife = time.Minute
	// askEvery is how often they are asked for at most, whatever keys assertions name.
	askEvery = 2 * time.Second
	// patience is how long the gateway has to tell them.
	patience = 5 * time.Second
)

// Errors of keys.of.
var (
	errUnknown = errors.New("upstream: signed with a key that the gateway does not have")
	errNoKeys  = errors.New("upstream: the gateway does not tell its keys")
)

// keys are the gateway's, as it told them last. What cannot be had anew stays as it is.
type keys struct {
	gateway registryv1.SessionServiceClient
	// turn is held by the one who asks.
	turn  chan struct{}
	known atomic.Pointer[keySet]
}

// keySet is what one answer said. It does not change.
type keySet struct {
	byID map[string]ed25519.PublicKey
	// told is when the gateway told them; asked when it was asked last, and failed whether in vain.
	told, asked time.Time
	failed      bool
}

func newKeys(conn grpc.ClientConnInterface) *keys {
	k := &keys{gateway: registryv1.NewSessionServiceClient(conn), turn: make(chan struct{}, 1)}
	k.known.Store(&keySet{failed: true})
	return k
}

// of returns the key of an id. Whoever finds the keys old asks for them, and the others go on with what is known; for one
// that is not known all wait.
func (k *keys) of(ctx context.Context, id string) (ed25519.PublicKey, error) {
	set := k.known.Load()
	key, ok := set.byID[id]
	switch {
	case ok && time.Since(set.told) < keysLife:
		return key, nil
	case ok:
		select {
		case k.turn <- struct{}{}:
		default:
			return key, nil
		}
	default:
		select {
		case k.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-k.turn }()
	set = k.known.Load()
	if _, ok := set.byID[id]; time.Since(set.asked) >= askEvery && (!ok || time.Since(set.told) >= keysLife) {
		set = k.ask(ctx, set)
	}
	key, ok = set.byID[id]
	switch {
	case ok:
		return key, nil
	case set.failed:
		return nil, errNoKeys
	default:
		return nil, errUnknown
	}
}

// ask asks the gateway, for all who wait: that the one who asks goes away does not end it.
func (k *keys) ask(ctx context.Context, before *keySet) *keySet {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	out, err := k.gateway.GetJwks(ctx, &registryv1.GetJwksRequest{})
	now := time.Now()
	set := &keySet{byID: before.byID, told: before.told, asked: now, failed: true}
	if err == nil {
		set = &keySet{byID: keysOf(out), told: now, asked: now}
	}
	k.known.Store(set)
	return set
}

// keysOf reads the gateway's keys of a set that has the registry's, too.
func keysOf(set *registryv1.GetJwksResponse) map[string]ed25519.PublicKey {
	byID := map[string]ed25519.PublicKey{}
	for _, k := range set.GetKeys() {
		public, err := base64.RawURLEncoding.DecodeString(k.GetX())
		if err == nil && len(public) == ed25519.PublicKeySize && k.GetKty() == "OKP" && k.GetCrv() == "Ed25519" && k.GetIssuer() == issuer {
			byID[k.GetKid()] = public
		}
	}
	return byID
}
