// Package harness compares what Tenantry does with what a peer does, side by side in one run: in alternating rounds, by
// medians, with both raw figures. It starts a whole system to measure and leaves nothing of it.
package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Comparison is one figure of ours beside a peer's.
type Comparison struct {
	Name string `json:"name"`
	// Here and Peer are medians over the rounds.
	Here float64 `json:"here"`
	Peer float64 `json:"peer"`
	Unit string  `json:"unit"`
	// Ratio is Here by Peer.
	Ratio float64 `json:"ratio"`
	// Goal is what the ratio should be: at least, or at most, see Less.
	Goal float64 `json:"goal"`
	Met  bool    `json:"met"`

	// Less says that less is better.
	Less bool `json:"-"`
	// Rounds are the figures of each round, ours and the peer's.
	Rounds [2][]float64 `json:"-"`
}

// Compare runs here and peer in turn and takes the medians.
func Compare(name, unit string, goal float64, less bool, rounds int, here, peer func(round int) (float64, error)) (Comparison, error) {
	c := Comparison{Name: name, Unit: unit, Goal: goal, Less: less}
	for round := range rounds {
		for i, f := range []func(int) (float64, error){here, peer} {
			v, err := f(round)
			if err != nil {
				return c, fmt.Errorf("%s, round %d: %w", name, round+1, err)
			}
			c.Rounds[i] = append(c.Rounds[i], v)
		}
	}
	c.Here, c.Peer = Median(c.Rounds[0]), Median(c.Rounds[1])
	c.Ratio = c.Here / c.Peer
	c.Met = c.Ratio >= goal
	if less {
		c.Met = c.Ratio <= goal
	}
	return c, nil
}

// Median is the middle of some figures; the mean of the middle two of an even number.
func Median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if len(s) == 0 {
		return 0
	}
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// Quantile is the value that a share of some figures does not pass.
func Quantile(values []float64, share float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if len(s) == 0 {
		return 0
	}
	return s[min(len(s)-1, int(share*float64(len(s))))]
}

// Report prints comparisons as they come and keeps them in a file, one JSON object each.
type Report struct {
	out  io.Writer
	file *os.File
}

// NewReport writes to DIR/PART.jsonl, anew.
func NewReport(out io.Writer, dir, part string) (*Report, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(dir, part+".jsonl"))
	return &Report{out, file}, err
}

// Close closes the file.
func (r *Report) Close() error { return r.file.Close() }

// Add reports a comparison.
func (r *Report) Add(c Comparison) error {
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return err
	}
	word, met := "at least", "met"
	if c.Less {
		word = "at most"
	}
	if !c.Met {
		met = "MISSED"
	}
	return r.Printf("%-22s here %10.3f  peer %10.3f  %-10s ratio %8.3f  goal %s %g  %s\n    here %.3f\n    peer %.3f\n",
		c.Name, c.Here, c.Peer, c.Unit, c.Ratio, word, c.Goal, met, c.Rounds[0], c.Rounds[1])
}

// Printf prints a remark.
func (r *Report) Printf(format string, args ...any) error {
	_, err := fmt.Fprintf(r.out, format, args...)
	return err
}

// FreeBytes is how much may be written where a directory is.
func FreeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}
