package limits

import (
	"math"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t testing.TB, cfg Config) *Limits {
	t.Helper()
	l, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// user is a person's call; each has a session of their own.
func user(company uuid.UUID) *identity.Caller {
	return &identity.Caller{Kind: identity.User, CompanyID: company, UserID: uuid.New(), SessionID: uuid.New()}
}

func address(text string) net.Addr {
	return &net.TCPAddr{IP: net.ParseIP(text), Port: 1 + rand.IntN(65_535)}
}

// limited requires that a call was refused by a limit, and returns for how long.
func limited(t testing.TB, err error, limit string) time.Duration {
	t.Helper()
	f := fault.From(err)
	require.NotNil(t, f, "the call was not refused")
	require.Equal(t, codes.ResourceExhausted, f.Code)
	require.Equal(t, fault.RateLimited, f.Reason)
	require.Equal(t, limit, f.Metadata["limit"])
	require.Positive(t, f.RetryAfter)
	return f.RetryAfter
}

func TestABucketRefillsAtItsRateAndSaysWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Config{PerCompany: 4})
		require.NoError(t, err)
		defer synctest.Wait()
		defer l.Close()
		company := uuid.New()
		for range 4 {
			require.NoError(t, l.Begin(t.Context(), user(company)), "what one second allows may come at once")
		}
		require.Equal(t, 250*time.Millisecond, limited(t, l.Begin(t.Context(), user(company)), "company"))
		require.NoError(t, l.Begin(t.Context(), user(uuid.New())), "another company has its own")
		time.Sleep(100 * time.Millisecond)
		wait := limited(t, l.Begin(t.Context(), user(company)), "company")
		require.Equal(t, 150*time.Millisecond, wait)
		time.Sleep(wait - time.Millisecond)
		limited(t, l.Begin(t.Context(), user(company)), "company")
		time.Sleep(time.Millisecond)
		require.NoError(t, l.Begin(t.Context(), user(company)), "as was said")
		limited(t, l.Begin(t.Context(), user(company)), "company")
		time.Sleep(time.Hour)
		for range 4 {
			require.NoError(t, l.Begin(t.Context(), user(company)))
		}
		limited(t, l.Begin(t.Context(), user(company)), "company")
	})
}

func TestWhatIsSaidOfTheNextTokenIsTrueForAnyRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{0.01, 0.3, 1, 3, 7, 99.9, 333} {
			l, err := New(Config{PerCredential: rate})
			require.NoError(t, err)
			caller := user(uuid.New())
			for range 20 {
				var err error
				for err == nil {
					err = l.Begin(t.Context(), caller)
				}
				wait := limited(t, err, "credential")
				time.Sleep(wait)
				require.NoError(t, l.Begin(t.Context(), caller), "at %v a second, after %v", rate, wait)
				time.Sleep(rand.N(time.Second))
			}
			l.Close()
		}
		synctest.Wait()
	})
}

func TestEachCredentialHasItsOwnBucketAndSoHasAnUpstreamThatShowsIt(t *testing.T) {
	t.Parallel()
	l := start(t, Config{PerCredential: 0.001})
	company := uuid.New()
	person := user(company)
	key := &identity.Caller{Kind: identity.APIKey, CompanyID: company, APIKeyID: uuid.New()}
	upstream := *person
	upstream.Kind, upstream.Name = identity.Upstream, "upstream/readings"
	another := upstream
	another.Name = "upstream/bills"
	named := *person
	named.Name = "upstream/readings" // A person through somebody's certificate is a person.
	for _, c := range []*identity.Caller{person, key, &upstream, &another} {
		require.NoError(t, l.Begin(t.Context(), c))
		limited(t, l.Begin(t.Context(), c), "credential")
	}
	limited(t, l.Begin(t.Context(), &named), "credential")
	require.Equal(t, uint64(5), l.Stats().Credential)
}

func TestWhatACredentialIsRefusedCostsItsCompanyNothing(t *testing.T) {
	t.Parallel()
	l := start(t, Config{PerCredential: 0.001, PerCompany: 2})
	company := uuid.New()
	noisy := user(company)
	require.NoError(t, l.Begin(t.Context(), noisy))
	for range 100 {
		limited(t, l.Begin(t.Context(), noisy), "credential")
	}
	require.NoError(t, l.Begin(t.Context(), user(company)))
	limited(t, l.Begin(t.Context(), user(company)), "company")
}

func TestAnAddressIsLimitedInWhatAnyoneMayCallAndInCredentialsThatAreNotGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Config{PerAddress: 1})
		require.NoError(t, err)
		defer synctest.Wait()
		defer l.Close()
		nobody, here, there := identity.Caller{}, "192.0.2.1", "192.0.2.2"
		for range 5 {
			require.NoError(t, l.Arrive(nobody, address(here), true))
		}
		require.Equal(t, time.Second, limited(t, l.Arrive(nobody, address(here), true), "address"))
		require.NoError(t, l.Arrive(nobody, address(there), true))
		for range 100 {
			require.NoError(t, l.Arrive(nobody, address(here), false), "who has a credential is not held up by logins, nor limited")
		}
		for range 5 {
			require.NoError(t, l.Arrive(nobody, address(here), false))
			l.Guessed(nobody, address(here))
		}
		require.Equal(t, time.Second, limited(t, l.Arrive(nobody, address("::ffff:"+here), false), "address"), "the same address in IPv6's way of writing it")
		require.NoError(t, l.Arrive(nobody, address(there), false))
		time.Sleep(time.Second)
		for range 100 {
			require.NoError(t, l.Arrive(nobody, address(here), false), "to look costs no token")
		}
		require.Equal(t, uint64(2), l.Stats().Address)
	})
}

func TestAClientOfIPv6HasANetwork(t *testing.T) {
	t.Parallel()
	l := start(t, Config{PerAddress: 0.001})
	require.NoError(t, l.Arrive(identity.Caller{}, address("2001:db8:1:2::1"), true))
	limited(t, l.Arrive(identity.Caller{}, address("2001:db8:1:2:ffff::9"), true), "address")
	require.NoError(t, l.Arrive(identity.Caller{}, address("2001:db8:1:3::1"), true))
}

func TestWhoRunsTheSystemIsNeverTooMuch(t *testing.T) {
	t.Parallel()
	l := start(t, Config{PerCompany: 0.001, PerCredential: 0.001, PerAddress: 0.001, MaxInFlight: 1})
	operator := identity.Caller{Kind: identity.Operator, Name: "operator/alice"}
	for range 100 {
		require.NoError(t, l.Arrive(operator, address("192.0.2.1"), true))
		l.Guessed(operator, address("192.0.2.1"))
		require.NoError(t, l.Begin(t.Context(), &operator))
	}
	require.Zero(t, l.Stats().InFlight)
	require.Equal(t, Refusals{}, l.Stats().Refusals)
}

func TestBucketsAreBoundedAndIdleOnesGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBuckets[uuid.UUID]("company", 2, 1, 500)
		defer synctest.Wait()
		defer b.close()
		for range 5000 {
			require.NoError(t, b.take(uuid.New(), time.Now()))
		}
		require.LessOrEqual(t, b.known.Len(), 500)
		busy := uuid.New()
		for range 2 {
			time.Sleep(idleLife * 2 / 3)
			_ = b.take(busy, time.Now())
		}
		require.Equal(t, 1, b.known.Len(), "only the one in use is left")
	})
}

func TestABucketIsNotForgottenBeforeItIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBuckets[uuid.UUID]("company", 0.001, 1, 500)
		defer synctest.Wait()
		defer b.close()
		key := uuid.New()
		require.NoError(t, b.take(key, time.Now()))
		time.Sleep(999 * time.Second)
		require.Error(t, b.take(key, time.Now()))
	})
}

func TestOffIsNothingAndNonsenseIsRefused(t *testing.T) {
	t.Parallel()
	l, err := New(Config{})
	require.NoError(t, err)
	require.Nil(t, l)
	require.Equal(t, Stats{}, l.Stats())
	for _, bad := range []Config{{PerCompany: -1}, {PerCredential: math.NaN()}, {PerAddress: math.Inf(1)}, {MaxInFlight: -1}} {
		_, err := New(bad)
		require.Error(t, err, "%+v", bad)
	}
	only := start(t, Config{MaxInFlight: 1})
	require.NoError(t, only.Arrive(identity.Caller{}, address("192.0.2.1"), true))
	require.NoError(t, only.Begin(t.Context(), user(uuid.New())))
}
