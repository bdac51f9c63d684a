// Package release keeps what tenants are made of: immutable copies of all migration sets, addressed by hash, in the
// provisioner's database, so that copies of the program with different files never mix them.
package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/migrate"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/provisioner/internal/seed"
	"github.com/tenantry/tenantry/services/provisioner/migrations"
)

// Release is one.
type Release struct {
	// Hash identifies the content.
	Hash string
	// Tree is the content.
	Tree *migrate.Tree
	// CoreVersion is the newest version of the core set.
	CoreVersion string
	// Seed and Clone are the tree's, ready to run.
	Seed, Clone *seed.Seed
}

func newRelease(hash string, tree *migrate.Tree) (*Release, error) {
	s, err := seed.Parse("seed.sql", tree.Seed)
	if err != nil {
		return nil, err
	}
	clone, err := seed.Parse("clone.sql", tree.Clone)
	return &Release{Hash: hash, Tree: tree, CoreVersion: tree.Core.Latest(), Seed: s, Clone: clone}, err
}

// Source is where this copy of the program has its sets.
type Source struct {
	// Dir is a directory with core, plugins/NAME and seed.sql; empty means the sets inside the program.
	Dir string
}

// Load reads the sets as they are now. Errors are those of migrate.LoadTree.
func (s Source) Load() (*migrate.Tree, error) {
	files := migrations.FS()
	if s.Dir != "" {
		files = os.DirFS(s.Dir)
	}
	return migrate.LoadTree(files)
}

// Store is the releases in the provisioner's database.
type Store struct {
	pool *pgxpool.Pool

	mu    sync.Mutex
	cache map[string]*Release
}

// NewStore returns the store behind a pool.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool, cache: map[string]*Release{}} }

// content is a release as it is stored.
type content struct {
	Core    map[string][]byte            `json:"core"`
	Plugins map[string]map[string][]byte `json:"plugins"`
	Seed    string                       `json:"seed"`
	Clone   string                       `json:"clone,omitempty"`
}

// Ensure stores a tree, unless it is there, and returns its release. The tree must have everything that the current
// release has, unchanged: FAILED_PRECONDITION `CHECKSUM_MISMATCH` otherwise, since tenants have applied that.
func (s *Store) Ensure(ctx context.Context, tree *migrate.Tree) (*Release, error) {
	current, err := s.Current(ctx)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	if current != nil {
		if err := extends(current.Tree, tree); err != nil {
			return nil, err
		}
	}
	c := content{Core: tree.Core.Content(), Plugins: map[string]map[string][]byte{}, Seed: tree.Seed, Clone: tree.Clone}
	for name, set := range tree.Plugins {
		c.Plugins[name] = set.Content()
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	r, err := newRelease(tree.Hash(), tree)
	if err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, "INSERT INTO releases (hash, core_version, content) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", r.Hash, r.CoreVersion, data); err != nil {
		return nil, fmt.Errorf("release: store %s: %w", r.Hash, err)
	}
	return r, nil
}

// extends checks that a tree has all files of an older one, unchanged.
func extends(older, newer *migrate.Tree) error {
	pairs := map[*migrate.Set]*migrate.Set{older.Core: newer.Core}
	for name, set := range older.Plugins {
		if next, ok := newer.Plugins[name]; ok {
			pairs[set] = next
		}
	}
	for set, next := range pairs {
		if file := migrate.FirstChange(set, next); file != "" {
			return fault.New(codes.FailedPrecondition, fault.ChecksumMismatch,
				"set %s: file %s, or one before it, was changed or removed after it was released: restore it, and put the change into a new file", set.Name(), file).
				With("set", set.Name()).With("file", file)
		}
	}
	return nil
}

// Current is the release that new tenants are born on; pgx.ErrNoRows before Bootstrap.
func (s *Store) Current(ctx context.Context) (*Release, error) {
	var hash string
	if err := s.pool.QueryRow(ctx, "SELECT hash FROM releases WHERE is_current").Scan(&hash); err != nil {
		return nil, fmt.Errorf("release: the current one: %w", err)
	}
	return s.Get(ctx, hash)
}

// Get returns a stored release.
func (s *Store) Get(ctx context.Context, hash string) (*Release, error) {
	s.mu.Lock()
	r := s.cache[hash]
	s.mu.Unlock()
	if r != nil {
		return r, nil
	}
	var data []byte
	if err := s.pool.QueryRow(ctx, "SELECT content FROM releases WHERE hash = $1", hash).Scan(&data); err != nil {
		return nil, fmt.Errorf("release: %s: %w", hash, err)
	}
	var c content
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("release: %s: %w", hash, err)
	}
	tree := &migrate.Tree{Plugins: map[string]*migrate.Set{}, Seed: c.Seed, Clone: c.Clone}
	var err error
	if tree.Core, err = migrate.Parse(migrate.CoreName, c.Core); err != nil {
		return nil, fmt.Errorf("release: %s: %w", hash, err)
	}
	for name, files := range c.Plugins {
		if tree.Plugins[name], err = migrate.Parse(migrate.PluginsPrefix+name, files); err != nil {
			return nil, fmt.Errorf("release: %s: %w", hash, err)
		}
	}
	if r, err = newRelease(hash, tree); err != nil {
		return nil, fmt.Errorf("release: %s: %w", hash, err)
	}
	s.mu.Lock()
	s.cache[hash] = r
	s.mu.Unlock()
	return r, nil
}

// Promote makes a release the current one.
func (s *Store) Promote(ctx context.Context, hash string) error {
	return pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE releases SET is_current = false WHERE is_current AND hash <> $1", hash); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE releases SET is_current = true WHERE hash = $1", hash)
		return err
	})
}

// Bootstrap makes the source's tree the current release when there is none yet.
func (s *Store) Bootstrap(ctx context.Context, source Source) (*Release, error) {
	current, err := s.Current(ctx)
	if err == nil || !errors.Is(err, pgx.ErrNoRows) {
		return current, err
	}
	tree, err := source.Load()
	if err != nil {
		return nil, err
	}
	r, err := s.Ensure(ctx, tree)
	if err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, "UPDATE releases SET is_current = true WHERE hash = $1 AND NOT EXISTS (SELECT FROM releases WHERE is_current)", r.Hash); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return s.Current(ctx)
}
