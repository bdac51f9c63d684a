package lease_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/provisioner/internal/lease"
)

func TestALeaseIsKeptUntilItIsAnothers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		renewed, lost := 0, time.Duration(0)
		begun := time.Now()
		lease.Keep(ctx, func() { lost = time.Since(begun); cancel() }, func(context.Context) (bool, error) {
			renewed++
			return renewed < 5, nil
		})
		require.Equal(t, 5, renewed)
		require.Less(t, lost, 5*lease.Life)
		require.Error(t, ctx.Err())
	})
}

func TestWorkStopsBeforeALeaseThatCannotBeRenewedEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		lost := false
		lease.Keep(t.Context(), func() { lost = true }, func(context.Context) (bool, error) { return false, errors.New("no connection") })
		require.True(t, lost)
		require.LessOrEqual(t, time.Since(begun), lease.Life)
	})
}

func TestKeepingEndsWithTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*lease.Life)
		defer cancel()
		lease.Keep(ctx, func() { t.Error("it was not lost") }, func(context.Context) (bool, error) { return true, nil })
		require.Error(t, ctx.Err())
	})
}
