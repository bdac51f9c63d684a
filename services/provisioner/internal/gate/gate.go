// Package gate has each release judged once, before any tenant gets it: by package lint, in a scratch database on one of
// the clusters, as far as it differs from the release that was current then. What was found stays with the release.
package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/lint"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
)

const (
	// attempts is how often a release is judged before who asked is told that it cannot be now, pause the time between, and
	// later when to ask again.
	attempts = 3
	pause    = time.Second
	later    = 5 * time.Second
)

// Gate judges releases. Close it.
type Gate struct {
	db       *pgxpool.Pool
	releases *release.Store
	clusters *cluster.Set
	atlas    *atlascli.CLI
	log      *zap.Logger
	ctx      context.Context // of all judging; ends with Close
	stop     context.CancelFunc

	judging singleflight.Group
	work    sync.WaitGroup
}

// New returns a gate.
func New(db *pgxpool.Pool, releases *release.Store, clusters *cluster.Set, atlas *atlascli.CLI, log *zap.Logger) *Gate {
	g := &Gate{db: db, releases: releases, clusters: clusters, atlas: atlas, log: log}
	g.ctx, g.stop = context.WithCancel(context.Background())
	return g
}

// Close ends all judging and waits for it.
func (g *Gate) Close() {
	g.stop()
	g.work.Wait()
}

// Judge returns what is found in a release: what was, when it was judged before. However many ask at once, it is judged
// once, and to the end when they go away: who asks again finds it done, or further on.
func (g *Gate) Judge(ctx context.Context, r *release.Release) ([]*provisionerv1.Finding, error) {
	var stored []byte
	if err := g.db.QueryRow(ctx, "SELECT findings FROM releases WHERE hash = $1", r.Hash).Scan(&stored); err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	if stored != nil {
		var found []lint.Finding
		if err := json.Unmarshal(stored, &found); err != nil {
			return nil, fmt.Errorf("gate: %w", err)
		}
		return messages(found), nil
	}
	result := g.judging.DoChan(r.Hash, func() (any, error) {
		g.work.Add(1)
		defer g.work.Done()
		return g.judge(g.ctx, r)
	})
	select {
	case got := <-result:
		found, _ := got.Val.([]lint.Finding)
		return messages(found), got.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// judge judges a release, and stores what it finds.
func (g *Gate) judge(ctx context.Context, r *release.Release) (found []lint.Finding, err error) {
	current, err := g.releases.Current(ctx)
	if err != nil {
		return nil, err
	}
	clusters := g.clusters.Names()
	if current.Hash != r.Hash && len(clusters) > 0 {
		if found, err = g.lint(ctx, clusters[0], r, current); err != nil {
			return nil, fmt.Errorf("gate: %w", err)
		}
	}
	if found == nil {
		found = []lint.Finding{}
	}
	data, err := json.Marshal(found)
	if err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	if _, err := g.db.Exec(ctx, "UPDATE releases SET findings = $2 WHERE hash = $1 AND findings IS NULL", r.Hash, data); err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	return found, nil
}

// lint is lint.Judge on a cluster, which is done again when it comes to nothing: what a release is like is found, and no
// failure. What fails is the server, or Atlas, a process of its own with connections of its own; UNAVAILABLE
// `RELEASE_NOT_JUDGED` when that goes on.
func (g *Gate) lint(ctx context.Context, cluster string, r, current *release.Release) (found []lint.Finding, err error) {
	for attempt := 1; ; attempt++ {
		if found, err = lint.Judge(ctx, g.atlas, g.clusters.Scratch(cluster), r.Tree, current.Tree); err == nil || ctx.Err() != nil {
			return found, err
		}
		g.log.Warn("a release could not be judged", zap.String("release", r.Hash), zap.Int("attempt", attempt), zap.Error(err))
		if attempt == attempts {
			return nil, fault.New(codes.Unavailable, fault.ReleaseNotJudged, "the release could not be judged, %d times in a row; the provisioner's log tells why", attempts).
				RetryIn(later).Because(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// messages are findings as the contract has them. What does not apply in an empty database may apply in a tenant's, and
// is found out by the canary if not.
func messages(found []lint.Finding) []*provisionerv1.Finding {
	var out []*provisionerv1.Finding
	for _, f := range found {
		severity := provisionerv1.FindingSeverity_FINDING_SEVERITY_WARNING
		if f.Severity == lint.Destructive {
			severity = provisionerv1.FindingSeverity_FINDING_SEVERITY_DESTRUCTIVE
		}
		out = append(out, &provisionerv1.Finding{Severity: severity, Code: f.Code, Message: f.Message, Set: f.Set, File: f.File})
	}
	return out
}
