package page_test

import (
	"strconv"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/internal/fault"
	"github.com/tenantry/tenantry/services/internal/page"
)

func TestPagesFollowOneAnotherToTheLast(t *testing.T) {
	t.Parallel()
	const m = page.Method("ListThings")
	things := []int{1, 2, 3, 4, 5}
	var got []int
	for token := ""; ; {
		after, err := m.After(token)
		require.NoError(t, err)
		from := 0
		if after != "" {
			from, err = strconv.Atoi(after)
			require.NoError(t, err)
		}
		var some []int
		some, token = page.Cut(m, things[from:min(from+3, 5)], 2, strconv.Itoa)
		require.LessOrEqual(t, len(some), 2)
		got = append(got, some...)
		if token == "" {
			break
		}
	}
	require.Equal(t, things, got)
	require.Equal(t, 100, m.Size(0))
	require.Equal(t, 7, m.Size(7))
}

func TestATokenOfAnotherMethodIsRefused(t *testing.T) {
	t.Parallel()
	const m = page.Method("ListThings")
	id := uuid.New()
	got, err := m.AfterID(m.Token(id.String()))
	require.NoError(t, err)
	require.Equal(t, id, got)
	for _, bad := range []string{page.Method("ListOthers").Token(id.String()), "?", "bm9uc2Vuc2U", m.Token("no id")} {
		_, err := m.AfterID(bad)
		require.True(t, fault.HasReason(err, fault.PageTokenInvalid), bad)
	}
}
