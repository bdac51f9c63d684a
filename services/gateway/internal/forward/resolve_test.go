package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"
)

// looked counts how often it was asked to resolve again.
type looked struct{ times int }

func (l *looked) ResolveNow(resolver.ResolveNowOptions) { l.times++ }
func (l *looked) Close()                                {}

func TestNamesAreResolvedAgainUntilTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var one, other looked
		r := &resolving{parts: []resolver.Resolver{&one, &other}}
		r.start()
		time.Sleep(2*lookAgain + time.Second)
		synctest.Wait()
		require.Equal(t, []int{2, 2}, []int{one.times, other.times})
		r.Close()
		time.Sleep(2 * lookAgain)
		require.Equal(t, 2, one.times)
	})
}
