package packed_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/proto/packed"
)

var rows = [][][]byte{{[]byte("1"), nil, []byte("")}, {}, {[]byte("två"), {0, 255}, nil}}

func pack() (b []byte) {
	for _, row := range rows {
		b = packed.Append(b, row)
	}
	return b
}

func read(t *testing.T, b []byte) (got [][][]byte) {
	t.Helper()
	for row, err := range packed.Rows(b) {
		require.NoError(t, err)
		got = append(got, append([][]byte{}, row...))
	}
	return got
}

func TestRowsComeBackAsTheyWerePacked(t *testing.T) {
	require.Equal(t, rows, read(t, pack()))
	require.Empty(t, read(t, nil))
	for row, err := range packed.Rows(pack()) {
		require.NoError(t, err)
		require.Len(t, row, 3)
		break
	}
}

func TestWhatIsCutOffIsNoRow(t *testing.T) {
	whole := pack()
	ends := []int{}
	for i := range rows {
		b := []byte{}
		for _, row := range rows[:i+1] {
			b = packed.Append(b, row)
		}
		ends = append(ends, len(b))
	}
	for cut := 1; cut < len(whole); cut++ {
		var last error
		for _, err := range packed.Rows(whole[:cut]) {
			last = err
		}
		if slices.Contains(ends, cut) {
			require.NoError(t, last, "%d bytes", cut)
		} else {
			require.Error(t, last, "%d bytes", cut)
		}
	}
}

// FuzzRows makes sure that nothing makes it panic, and that what can be read is what was written.
func FuzzRows(f *testing.F) {
	f.Add(pack())
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		for row, err := range packed.Rows(b) {
			if err != nil {
				return
			}
			again = packed.Append(again, row)
		}
		require.Equal(t, append([]byte{}, b...), append([]byte{}, again...))
	})
}
