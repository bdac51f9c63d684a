package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/tenantry/tenantry/bench/harness"
	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	registryv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/registry/v1"
)

const (
	// rounds is how often each side runs.
	rounds = 5
	// atOnce is how many signups, clones or tenants are under way at a time, on both sides, where not one at a time.
	atOnce = 8
	// perDatabase is about how much a database of the core schema takes, with what writing it puts into the log.
	perDatabase = 20 << 20
)

// rig is one system with what it takes to use it.
type rig struct {
	*harness.System
	provisioner *grpc.ClientConn
	signups     provisionerv1.ProvisionerServiceClient
	rollouts    provisionerv1.RolloutServiceClient
	companies   int
}

// start starts a system with more flags. Stop it.
func (b *bench) start(ctx context.Context, flags ...string) (*rig, error) {
	system, err := harness.Start(ctx, b.binary, flags...)
	if err != nil {
		return nil, err
	}
	r := &rig{System: system}
	if r.provisioner, err = system.Dial("TENANTRY_PROVISIONER"); err != nil {
		return nil, errors.Join(err, system.Stop())
	}
	r.signups, r.rollouts = provisionerv1.NewProvisionerServiceClient(r.provisioner), provisionerv1.NewRolloutServiceClient(r.provisioner)
	return r, nil
}

// stop ends the system and leaves nothing of it.
func (r *rig) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	databases, err := r.Strings(ctx, `SELECT datname FROM pg_database WHERE datname LIKE 'tenant\_%' OR datname LIKE 'peer\_%'`)
	if err == nil {
		err = r.Drop(ctx, databases)
	}
	return errors.Join(err, r.provisioner.Close(), r.Stop())
}

// signUp signs a company up, with a password for its owner unless that is empty.
func (r *rig) signUp(ctx context.Context, n int, password string) (company string, err error) {
	slug := fmt.Sprintf("company-%d", n)
	owner := &registryv1.OwnerDraft{Name: "Owner", Email: "owner@" + slug + ".example", Password: password}
	got, err := r.signups.CreateTenant(ctx, &provisionerv1.CreateTenantRequest{RequestId: uuid.NewString(), Company: &registryv1.CompanyDraft{Name: slug, Slug: slug}, Owner: owner})
	if err != nil {
		return "", fmt.Errorf("sign up %s: %w", slug, err)
	}
	return got.GetCompanyId(), nil
}

// sequential times so many signups, one after the other, in milliseconds.
func (r *rig) sequential(ctx context.Context, n int, password string) ([]float64, error) {
	return times(n, func(int) error {
		r.companies++
		_, err := r.signUp(ctx, r.companies, password)
		return err
	})
}

// crowd signs so many companies up, atOnce at a time, and returns their ids and how many there were a second.
func (r *rig) crowd(ctx context.Context, n int) (companies []string, rate float64, err error) {
	companies = make([]string, n)
	first := r.companies + 1
	r.companies += n
	rate, err = rateOf(ctx, n, func(ctx context.Context, i int) (err error) {
		companies[i], err = r.signUp(ctx, first+i, "")
		return err
	})
	return companies, rate, err
}

// clone copies a database as CREATE DATABASE does it.
func (r *rig) clone(ctx context.Context, name, template string) error {
	_, err := r.Admin.Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template))
	return err
}

// times times f, n times, in milliseconds.
func times(n int, f func(int) error) ([]float64, error) {
	var out []float64
	for i := range n {
		begun := time.Now()
		if err := f(i); err != nil {
			return nil, err
		}
		out = append(out, float64(time.Since(begun))/float64(time.Millisecond))
	}
	return out, nil
}

// rateOf runs f for each of n, atOnce at a time, and returns how many there were a second.
func rateOf(ctx context.Context, n int, f func(context.Context, int) error) (float64, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	var done atomic.Int64
	begun := time.Now()
	for i := range n {
		group.Go(func() error {
			defer done.Add(1)
			return f(ctx, i)
		})
	}
	err := group.Wait()
	return float64(done.Load()) / time.Since(begun).Seconds(), err
}

// fit returns how many of n databases there is room for, and says so when that is less than n.
func (b *bench) fit(n int, each int64) (int, error) {
	free, err := harness.FreeBytes(os.TempDir())
	if err != nil {
		return 0, err
	}
	room := int(free * 3 / 4 / each)
	if room >= n {
		return n, nil
	}
	if room < 10 {
		return 0, fmt.Errorf("%d MB are free, too few to compare anything", free>>20)
	}
	return room, b.report.Printf("  %d MB are free: this runs SMALLER, with %d databases instead of %d\n", free>>20, room, n)
}
