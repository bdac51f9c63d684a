// Package template builds the database that new tenants are cloned from: one for each cluster and release, made once by
// the Atlas CLI, closed by what a tenant must not see or do, and filled with what the seed holds for every company where
// that says so. Clones inherit all of it but the rights on the database itself, which package cluster sets on each.
package template

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/tenantry/tenantry/services/internal/atlascli"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
)

// hashDigits is how much of what a template is made of is in its name, as a hash.
const hashDigits = 12

// recipe is raised when templates of the same release are made in another way: those that are there must not be taken for
// the new ones.
const recipe = "2: with what the seed holds for every company, where it says so"

// rights gives tenants' group its rights on what will be made, before it is; hardening takes from everyone what a
// tenant must not have.
//
//go:embed rights.sql
var rights string

//go:embed hardening.sql
var hardening string

// Builder builds templates. Close it.
type Builder struct {
	db       *pgxpool.Pool // the provisioner's own
	clusters *cluster.Set
	atlas    *atlascli.CLI
	log      *zap.Logger
	ctx      context.Context // of all building; ends with Close
	stop     context.CancelFunc

	building singleflight.Group
	work     sync.WaitGroup
	mu       sync.Mutex
	built    map[place]bool
}

// NewBuilder returns a builder that records what it uses in the provisioner's database.
func NewBuilder(db *pgxpool.Pool, clusters *cluster.Set, atlas *atlascli.CLI, log *zap.Logger) *Builder {
	b := &Builder{db: db, clusters: clusters, atlas: atlas, log: log, built: map[place]bool{}}
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.sweep()
	b.work.Go(b.keep)
	return b
}

// Close ends all building and waits for it.
func (b *Builder) Close() {
	b.stop()
	b.work.Wait()
}

// tempPattern names the directories in which a release is laid out for the Atlas CLI. One that is older than any build
// takes was left by a copy that died.
const (
	tempPattern = "tenantry-release-*"
	tempLife    = time.Hour
)

func (b *Builder) sweep() {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), tempPattern))
	if err != nil {
		return
	}
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > tempLife {
			_ = os.RemoveAll(dir) // Whoever may not is not who left it.
		}
	}
}

// Name is a template's name.
func Name(r *release.Release) string { return nameOf(r.Hash) }

func nameOf(hash string) string {
	h := sha256.New()
	for _, part := range []string{hash, rights, hardening, recipe} {
		fmt.Fprintf(h, "%d %s\n", len(part), part)
	}
	return "template_" + hex.EncodeToString(h.Sum(nil))[:hashDigits]
}

// Ensure returns the name of the template of a release on a cluster, building it where there is none. However many ask,
// in however many copies, it is built once.
func (b *Builder) Ensure(ctx context.Context, clusterName string, r *release.Release) (string, error) {
	name := Name(r)
	key := place{clusterName, name}
	b.mu.Lock()
	done := b.built[key]
	b.mu.Unlock()
	if done {
		return name, nil
	}
	// The work goes on for the others when the one who began it goes away.
	result := b.building.DoChan(clusterName+"/"+name, func() (any, error) {
		b.work.Add(1)
		defer b.work.Done()
		if err := b.use(b.ctx, key); err != nil {
			return nil, err
		}
		return nil, b.build(b.ctx, clusterName, name, r)
	})
	select {
	case got := <-result:
		if got.Err != nil {
			return "", fmt.Errorf("template %s on cluster %s: %w", name, clusterName, got.Err)
		}
	case <-ctx.Done():
		return "", ctx.Err()
	}
	b.mu.Lock()
	b.built[key] = true
	b.mu.Unlock()
	return name, nil
}

// Drop drops the template of a release, where there is one. It may be made again.
func (b *Builder) Drop(ctx context.Context, clusterName, hash string) error {
	name := nameOf(hash)
	b.mu.Lock()
	delete(b.built, place{clusterName, name})
	b.mu.Unlock()
	exists, err := b.clusters.Exists(ctx, clusterName, name)
	if err != nil || !exists {
		return err
	}
	return b.clusters.Exclusive(ctx, clusterName, name, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pg.Quote(name))
		return err
	})
}

// Forget makes the next Ensure look again, after a clone found no template.
func (b *Builder) Forget(clusterName string, r *release.Release) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.built, place{clusterName, Name(r)})
}

func (b *Builder) build(ctx context.Context, clusterName, name string, r *release.Release) error {
	return b.clusters.Exclusive(ctx, clusterName, name, func(conn *pgx.Conn) error {
		exists, err := b.clusters.Exists(ctx, clusterName, name)
		if err != nil || exists {
			return err
		}
		// It is built under another name, so that what bears the template's name is whole.
		unfinished := unfinished(name)
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pg.Quote(unfinished)+" WITH (FORCE)"); err != nil {
			return err
		}
		if err := pg.CreateDatabase(ctx, conn, unfinished); err != nil {
			return err
		}
		if err := b.fill(ctx, clusterName, unfinished, r); err != nil {
			return err
		}
		for _, sql := range []string{
			"ALTER DATABASE " + pg.Quote(unfinished) + " WITH ALLOW_CONNECTIONS false",
			"ALTER DATABASE " + pg.Quote(unfinished) + " RENAME TO " + pg.Quote(name),
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		b.log.Info("built a template", zap.String("cluster", clusterName), zap.String("template", name), zap.String("version", r.CoreVersion))
		return nil
	})
}

// fill applies the core set, closes what has to be closed, and seeds.
func (b *Builder) fill(ctx context.Context, clusterName, database string, r *release.Release) error {
	if err := b.on(ctx, clusterName, database, script(ctx, rights)); err != nil {
		return err
	}
	if err := b.apply(ctx, clusterName, database, r); err != nil {
		return err
	}
	return b.on(ctx, clusterName, database, func(conn *pgx.Conn) error {
		if err := script(ctx, hardening)(conn); err != nil || !r.Seed.InTemplate {
			return err
		}
		return r.Seed.Common(ctx, conn)
	})
}

// apply has the Atlas CLI apply the core set.
func (b *Builder) apply(ctx context.Context, clusterName, database string, r *release.Release) (err error) {
	if len(r.Tree.Core.Files()) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", tempPattern)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := r.Tree.Core.WriteTo(dir); err != nil {
		return err
	}
	dsn, err := b.clusters.DSN(clusterName, database)
	if err != nil {
		return err
	}
	_, err = b.atlas.Apply(ctx, dsn, dir, "")
	return err
}

// Secure gives tenants' group its rights in a database that was not cloned from a template, and takes from everyone what a
// tenant must not have. It may be repeated.
func Secure(ctx context.Context, conn *pgx.Conn) error {
	for _, sql := range []string{rights, hardening} {
		if err := script(ctx, sql)(conn); err != nil {
			return fmt.Errorf("secure the database: %w", err)
		}
	}
	return nil
}

// script runs several statements in one message, which is one transaction.
func script(ctx context.Context, sql string) func(conn *pgx.Conn) error {
	return func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
}

// on runs f with a connection to a database.
func (b *Builder) on(ctx context.Context, clusterName, database string, f func(conn *pgx.Conn) error) (err error) {
	conn, err := b.clusters.Connect(ctx, clusterName, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return f(conn)
}
