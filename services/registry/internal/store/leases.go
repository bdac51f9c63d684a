package store

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
	"github.com/tenantry/tenantry/services/internal/pg"
	"github.com/tenantry/tenantry/services/registry/internal/allocate"
)

const (
	// aloneShare is what a gateway that was not heard of for a lease keeps of each share: enough to serve on, slowly.
	aloneShare = 2
	// forgetAfter is how long it keeps that.
	forgetAfter = time.Hour
	// silent is how long after its last heartbeat a gateway counts as one that is there. They come each second.
	silent = 3 * time.Second
	// heartbeatLock is the advisory lock of those who change leases: each decides by what all the others have.
	heartbeatLock = 7401
)

// lease is one gateway copy's.
type lease struct {
	id           uuid.UUID
	instance     string
	beat         int64
	longestCall  time.Duration
	begun, heard time.Time
	parts        map[string]allocate.Copy // by cluster
	gone         bool                     // it has ended
}

// leases are all there are, the oldest first, and the clusters' budgets, as they are now.
type leases struct {
	now     time.Time
	all     []*lease
	budgets map[string]int
}

// Heartbeat renews the lease of a gateway copy, which begins with the first one, and returns its shares. term is how long a
// copy has its shares without a heartbeat.
func (s *Store) Heartbeat(ctx context.Context, term time.Duration, r *registryv1.HeartbeatRequest) (*registryv1.HeartbeatResponse, error) {
	id, err := uuid.Parse(r.GetLeaseId())
	if err != nil {
		return nil, err
	}
	var own *lease
	var known leases
	err = pg.Tx(ctx, s.pool, func(tx pgx.Tx) error {
		if known, err = loadLeases(ctx, tx); err != nil {
			return err
		}
		known.age(term)
		if own = known.find(id); own == nil {
			own = &lease{id: id, instance: r.GetInstance(), begun: known.now, heard: known.now}
			known.all = append(known.all, own)
		}
		own.gone = false
		if r.GetBeat() <= own.beat {
			return nil
		}
		before := own.parts
		known.renew(own, r)
		return known.save(ctx, tx, own, before)
	})
	if err != nil {
		return nil, err
	}
	out := &registryv1.HeartbeatResponse{LeaseDuration: durationpb.New(term), AloneShare: aloneShare, ForgetDuration: durationpb.New(forgetAfter)}
	for name, budget := range known.budgets {
		out.Clusters = append(out.Clusters, &registryv1.ClusterShare{Cluster: name, Share: int32(own.parts[name].Share), Budget: int32(budget)})
	}
	return out, nil
}

// loadLeases waits until nobody else changes leases before the transaction ends, and reads them.
func loadLeases(ctx context.Context, tx pgx.Tx) (leases, error) {
	known := leases{budgets: map[string]int{}}
	byID := map[uuid.UUID]*lease{}
	var batch pgx.Batch
	batch.Queue("SELECT pg_advisory_xact_lock($1)", heartbeatLock)
	batch.Queue("SELECT clock_timestamp()").QueryRow(func(row pgx.Row) error { return row.Scan(&known.now) })
	batch.Queue("SELECT id, instance, beat, longest_call, created_at, renewed_at FROM gateway_leases ORDER BY created_at, id").Query(func(rows pgx.Rows) error {
		return each(rows, func() error {
			l := &lease{parts: map[string]allocate.Copy{}}
			known.all = append(known.all, l)
			err := rows.Scan(&l.id, &l.instance, &l.beat, &l.longestCall, &l.begun, &l.heard)
			byID[l.id] = l
			return err
		})
	})
	batch.Queue("SELECT lease_id, cluster, share, held, demand, warm FROM gateway_shares").Query(func(rows pgx.Rows) error {
		return each(rows, func() error {
			var id uuid.UUID
			var name string
			var part allocate.Copy
			err := rows.Scan(&id, &name, &part.Share, &part.Held, &part.Demand, &part.Warm)
			if l := byID[id]; l != nil {
				l.parts[name] = part
			}
			return err
		})
	})
	batch.Queue("SELECT name, connection_budget FROM clusters").Query(func(rows pgx.Rows) error {
		return each(rows, func() error {
			var name string
			var budget int
			err := rows.Scan(&name, &budget)
			known.budgets[name] = budget
			return err
		})
	})
	return known, tx.SendBatch(ctx, &batch).Close()
}

func each(rows pgx.Rows, f func() error) error {
	for rows.Next() {
		if err := f(); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (k *leases) find(id uuid.UUID) *lease {
	i := slices.IndexFunc(k.all, func(l *lease) bool { return l.id == id })
	if i < 0 {
		return nil
	}
	return k.all[i]
}

// age lets the leases become what silence made of them. Calls that ran when a gateway's share shrank, or when it died, may
// still run for as long as it lets them.
func (k *leases) age(term time.Duration) {
	for _, l := range k.all {
		quiet := k.now.Sub(l.heard)
		// Names are unique: who has the name of one that is silent is that one, started again.
		again := quiet >= silent && slices.ContainsFunc(k.all, func(o *lease) bool { return o.instance == l.instance && o.begun.After(l.heard) })
		l.gone = again || quiet >= forgetAfter+l.longestCall
		for name, part := range l.parts {
			part.Present = quiet < silent
			if quiet >= term+l.longestCall {
				part.Share, part.Held = min(part.Share, aloneShare), min(part.Held, aloneShare)
			}
			l.parts[name] = part
		}
	}
}

// renew takes in what a lease's holder says, and decides its shares.
func (k *leases) renew(own *lease, r *registryv1.HeartbeatRequest) {
	since := k.now.Sub(own.heard)
	before := own.parts
	own.instance, own.beat, own.heard = r.GetInstance(), r.GetBeat(), k.now
	own.longestCall, own.parts = r.GetLongestCall().AsDuration(), map[string]allocate.Copy{}
	if r.GetLeaving() {
		return // The row stays for a while: a heartbeat that was sent before this one begins no other lease.
	}
	uses := map[string]*registryv1.ClusterUse{}
	for _, u := range r.GetClusters() {
		uses[u.GetCluster()] = u
		own.parts[u.GetCluster()] = allocate.Copy{}
	}
	for name := range k.budgets {
		own.parts[name] = allocate.Copy{}
	}
	for name := range own.parts {
		u := uses[name]
		part := before[name].Heard(allocate.Report{Share: int(u.GetShare()), Open: int(u.GetOpen()), Demand: int(u.GetUsed() + u.GetWaiting()), Warm: int(u.GetWarm())}, since)
		own.parts[name] = part
		copies, at := k.copies(name, own)
		own.parts[name] = part.Told(allocate.Share(k.budgets[name], copies, at))
	}
}

// copies are those who have a part of a cluster, and at which place one of them is.
func (k *leases) copies(name string, own *lease) (copies []allocate.Copy, at int) {
	for _, l := range k.all {
		part, ok := l.parts[name]
		if !ok || l.gone {
			continue
		}
		if l == own {
			at = len(copies)
		}
		copies = append(copies, part)
	}
	return copies, at
}

// save writes one lease, whose parts were others before, and deletes those that are gone.
func (k *leases) save(ctx context.Context, tx pgx.Tx, own *lease, before map[string]allocate.Copy) error {
	gone := []uuid.UUID{}
	for _, l := range k.all {
		if l.gone {
			gone = append(gone, l.id)
		}
	}
	names, shares, held, demands, warm := []string{}, []int{}, []int{}, []float64{}, []float64{}
	for name, part := range own.parts {
		if old, ok := before[name]; ok && old.Share == part.Share && old.Held == part.Held && old.Demand == part.Demand && old.Warm == part.Warm {
			continue
		}
		names, shares = append(names, name), append(shares, part.Share)
		held, demands, warm = append(held, part.Held), append(demands, part.Demand), append(warm, part.Warm)
	}
	var batch pgx.Batch
	batch.Queue("DELETE FROM gateway_leases WHERE id = ANY($1)", gone)
	batch.Queue(`INSERT INTO gateway_leases (id, instance, beat, longest_call, created_at, renewed_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, beat = excluded.beat, longest_call = excluded.longest_call, renewed_at = excluded.renewed_at`,
		own.id, own.instance, own.beat, own.longestCall, own.begun, own.heard)
	if len(own.parts) == 0 {
		batch.Queue("DELETE FROM gateway_shares WHERE lease_id = $1", own.id)
	}
	batch.Queue(`INSERT INTO gateway_shares (lease_id, cluster, share, held, demand, warm)
		SELECT $1, * FROM unnest($2::text[], $3::integer[], $4::integer[], $5::double precision[], $6::double precision[])
		ON CONFLICT (lease_id, cluster) DO UPDATE SET share = excluded.share, held = excluded.held, demand = excluded.demand, warm = excluded.warm`,
		own.id, names, shares, held, demands, warm)
	return tx.SendBatch(ctx, &batch).Close()
}
