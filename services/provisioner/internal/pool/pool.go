// Package pool keeps databases ready for companies that have not come yet, some for each cluster and the current release.
// A spare has its final name, its role, the release's schema and what the seed holds for every company, so giving it to a
// company is a change of two rows, and filling it takes only what depends on the company.
//
// Signups do not depend on it: one that finds no spare clones the template itself.
package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/tenantry/tenantry/services/internal/credential"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/internal/tenant"
	"github.com/tenantry/tenantry/services/provisioner/internal/cluster"
	"github.com/tenantry/tenantry/services/provisioner/internal/jobs"
	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
	"github.com/tenantry/tenantry/services/provisioner/internal/release"
	"github.com/tenantry/tenantry/services/provisioner/internal/schema"
	"github.com/tenantry/tenantry/services/provisioner/internal/template"
)

const (
	// lookEvery is how often is looked whether spares are missing, beside each time one is taken.
	lookEvery = 10 * time.Second
	// rest is how long making spares stands back after each signup that took one, unless hardly any are left: those who
	// sign up come first.
	rest = 300 * time.Millisecond
	// fillFor is how long one job makes spares; what is still missing then is another's.
	fillFor = 10 * time.Minute
)

// Pool is the spares that this copy makes and takes.
type Pool struct {
	db        *pgxpool.Pool
	clusters  *cluster.Set
	templates *template.Builder
	releases  *release.Store
	jobs      *jobs.Queue
	size      int
	holder    string
	log       *zap.Logger

	mu    sync.Mutex
	taken time.Time               // when one was taken here last
	conns map[uuid.UUID]*pgx.Conn // to spares that this copy made, for whoever takes them
}

// New returns a pool of a size for each cluster. Its jobs are registered with the queue. holder names this run of this
// copy. Close it.
func New(db *pgxpool.Pool, clusters *cluster.Set, templates *template.Builder, releases *release.Store, q *jobs.Queue, size int, holder string, log *zap.Logger) *Pool {
	p := &Pool{db: db, clusters: clusters, templates: templates, releases: releases, jobs: q, size: size, holder: holder, log: log, conns: map[uuid.UUID]*pgx.Conn{}}
	if size > 0 {
		jobs.Handle(q, len(clusters.Names()), fillFor, func(ctx context.Context, a fill) error { return p.fill(ctx, a.Cluster) })
		for _, name := range clusters.Names() {
			jobs.Every(q, lookEvery, fill{name})
		}
	}
	return p
}

// Close closes the connections that were kept.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, conn := range p.conns {
		closeConn(conn)
		delete(p.conns, id)
	}
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // It is no longer needed, however that ends.
}

// fill is the job of making a cluster's missing spares.
type fill struct {
	Cluster string `json:"cluster"`
}

// Kind implements jobs.Args.
func (fill) Kind() string { return "fill_spares" }

// Spare is a database that was taken.
type Spare struct {
	// ID is the database's.
	ID uuid.UUID
	// Release is what it was made of.
	Release string
	// Conn is the administrator's connection to it, or nil. The taker closes it.
	Conn *pgx.Conn
}

// Take gives a signup's attempt a spare in the place of the database that it would make, one of the current release for
// choice. ok is false when there is none.
func (p *Pool) Take(ctx context.Context, clusterName, release, requestID, holder string) (s Spare, ok bool, err error) {
	if p.size == 0 {
		return s, false, nil
	}
	err = p.db.QueryRow(ctx, `WITH taken AS (DELETE FROM spares WHERE id = (SELECT id FROM spares WHERE ready AND cluster = $1
			ORDER BY release = $2 DESC, made_by = $3 DESC, created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, release),
		given AS (UPDATE attempts SET database_id = taken.id, source = 'SPARE' FROM taken WHERE request_id = $4 AND locked_by = $5 RETURNING database_id)
		SELECT taken.id, taken.release FROM taken JOIN given ON given.database_id = taken.id`,
		clusterName, release, p.holder, requestID, holder).Scan(&s.ID, &s.Release)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("take a spare: %w", err)
	}
	p.mu.Lock()
	p.taken = time.Now()
	s.Conn = p.conns[s.ID]
	delete(p.conns, s.ID)
	p.mu.Unlock()
	return s, true, nil
}

// Kick asks for the spares that are missing on a cluster to be made. It is for after a Take; failing to ask delays them.
func (p *Pool) Kick(ctx context.Context, clusterName string) {
	if p.size == 0 {
		return
	}
	if err := p.jobs.Insert(ctx, fill{clusterName}, time.Second); err != nil && ctx.Err() == nil {
		p.log.Warn("could not ask for spares", zap.String("cluster", clusterName), zap.Error(err))
	}
}

// fill makes what is missing on a cluster, and brings spares of an older release to the current one.
func (p *Pool) fill(ctx context.Context, clusterName string) error {
	p.forgetTaken(ctx)
	for {
		if err := p.standBack(ctx, clusterName); err != nil {
			return err
		}
		current, err := p.releases.Current(ctx)
		if err != nil {
			return err
		}
		name, err := p.templates.Ensure(ctx, clusterName, current)
		if err != nil {
			return err
		}
		renewed, err := p.renew(ctx, clusterName, current)
		if err != nil {
			return err
		}
		id, ok, err := p.begin(ctx, clusterName, current)
		if err != nil {
			return err
		}
		if ok {
			err = p.make(ctx, clusterName, name, id, current)
		} else if !renewed {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// standBack waits while spares are being taken and there are enough left.
func (p *Pool) standBack(ctx context.Context, clusterName string) error {
	for {
		p.mu.Lock()
		wait := rest - time.Since(p.taken)
		p.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		var ready int
		if err := p.db.QueryRow(ctx, "SELECT count(*) FROM spares WHERE cluster = $1 AND ready", clusterName).Scan(&ready); err != nil {
			return err
		}
		if ready <= p.size/4 {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin records a spare that is to be made; ok is false when there are enough, also counting those being made.
func (p *Pool) begin(ctx context.Context, clusterName string, r *release.Release) (id uuid.UUID, ok bool, err error) {
	if id, err = uuid.NewV7(); err != nil {
		return id, false, err
	}
	tx, err := p.db.Begin(ctx)
	if err != nil {
		return id, false, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // Nothing is left to roll back after a commit.
	// Copies that look at the same time wait for each other, or each would make all that is missing.
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('spares ' || $1, 0))", clusterName); err != nil {
		return id, false, err
	}
	tag, err := tx.Exec(ctx, `INSERT INTO spares (id, cluster, release, made_by, lease_until) SELECT $1, $2, $3, $4, now() + $5::interval
		WHERE (SELECT count(*) FROM spares WHERE cluster = $2) < $6`, id, clusterName, r.Hash, p.holder, lease.Life, p.size)
	if err != nil {
		return id, false, err
	}
	return id, tag.RowsAffected() == 1, tx.Commit(ctx)
}

// make makes a recorded spare.
func (p *Pool) make(ctx context.Context, clusterName, templateName string, id uuid.UUID, r *release.Release) error {
	return p.hold(ctx, id, func(ctx context.Context) error {
		if err := p.clusters.Create(ctx, clusterName, templateName, id, credential.FirstPasswordVersion); err != nil {
			if pg.Code(err) == pgerrcode.InvalidCatalogName {
				p.templates.Forget(clusterName, r) // It is gone, and the next try builds it.
			}
			return err
		}
		conn, err := p.clusters.Connect(ctx, clusterName, tenant.DatabaseName(id))
		if err != nil {
			return err
		}
		if !r.Seed.InTemplate {
			if err := r.Seed.Common(ctx, conn); err != nil {
				closeConn(conn)
				return err
			}
		}
		return p.ready(ctx, id, r, conn)
	})
}

// bring brings a spare to a release, with what the seed holds for every company.
func (p *Pool) bring(ctx context.Context, conn *pgx.Conn, r *release.Release) error {
	if _, err := schema.Bring(ctx, conn, r, nil, schema.Options{}); err != nil {
		return err
	}
	return r.Seed.Common(ctx, conn)
}

// ready offers a spare, and keeps the connection for whoever takes it here: one that has planned what comes next.
func (p *Pool) ready(ctx context.Context, id uuid.UUID, r *release.Release, conn *pgx.Conn) error {
	r.Seed.Rehearse(ctx, conn)
	p.mu.Lock()
	p.conns[id] = conn
	p.mu.Unlock()
	_, err := p.db.Exec(ctx, "UPDATE spares SET ready = true, release = $3, made_by = $2 WHERE id = $1 AND made_by = $2", id, p.holder, r.Hash)
	if err != nil {
		p.mu.Lock()
		delete(p.conns, id)
		p.mu.Unlock()
		closeConn(conn)
	}
	return err
}

// hold keeps a spare's lease while f works on it. One that fails is dropped by whoever looks for such, see Orphans.
func (p *Pool) hold(ctx context.Context, id uuid.UUID, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		lease.Keep(ctx, cancel, func(ctx context.Context) (bool, error) {
			tag, err := p.db.Exec(ctx, "UPDATE spares SET lease_until = now() + $3::interval WHERE id = $1 AND made_by = $2", id, p.holder, lease.Life)
			return tag.RowsAffected() == 1, err
		})
	})
	err := f(ctx)
	cancel()
	renewal.Wait()
	return err
}

// renew brings one ready spare of an older release to the current one, or tells that there is none.
func (p *Pool) renew(ctx context.Context, clusterName string, current *release.Release) (bool, error) {
	var id uuid.UUID
	err := p.db.QueryRow(ctx, `UPDATE spares SET ready = false, made_by = $3, lease_until = now() + $4::interval WHERE id =
		(SELECT id FROM spares WHERE ready AND cluster = $1 AND release <> $2 LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id`,
		clusterName, current.Hash, p.holder, lease.Life).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, p.hold(ctx, id, func(ctx context.Context) error {
		p.mu.Lock()
		conn := p.conns[id]
		delete(p.conns, id)
		p.mu.Unlock()
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = p.clusters.Connect(ctx, clusterName, tenant.DatabaseName(id)); err != nil {
				return err
			}
		}
		if err := p.bring(ctx, conn, current); err != nil {
			closeConn(conn)
			return err
		}
		return p.ready(ctx, id, current, conn)
	})
}

// forgetTaken closes connections to spares that another copy took.
func (p *Pool) forgetTaken(ctx context.Context) {
	p.mu.Lock()
	ids := make([]uuid.UUID, 0, len(p.conns))
	for id := range p.conns {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	rows, err := p.db.Query(ctx, "SELECT id FROM spares WHERE id = ANY($1)", ids)
	if err != nil {
		return
	}
	here, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return
	}
	left := map[uuid.UUID]bool{}
	for _, id := range here {
		left[id] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if conn := p.conns[id]; conn != nil && !left[id] {
			closeConn(conn)
			delete(p.conns, id)
		}
	}
}

// Condemn hands spares whose maker died or failed, and those of clusters that this provisioner has no more spares for,
// over to be dropped.
func Condemn(ctx context.Context, db *pgxpool.Pool) (int64, error) {
	tag, err := db.Exec(ctx, `WITH gone AS (DELETE FROM spares WHERE id IN (SELECT id FROM spares WHERE NOT ready AND lease_until < now() FOR UPDATE SKIP LOCKED)
		RETURNING id, cluster) INSERT INTO condemned (database_id, cluster, reason, drop_after) SELECT id, cluster, 'SPARE', now() FROM gone
		ON CONFLICT DO NOTHING`)
	if err != nil {
		return 0, fmt.Errorf("condemn spares: %w", err)
	}
	return tag.RowsAffected(), nil
}
