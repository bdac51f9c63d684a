package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// askedSuffix is added to the path of a cluster that is kept elsewhere, for a link to where it was asked for.
const askedSuffix = ".asked"

// note records where the cluster was asked for. Only the owner may.
func (p place) note() error {
	if p.link == "" {
		return nil
	}
	if err := os.Symlink(p.link, p.dir+askedSuffix); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// removeOrphans removes the clusters kept for directories under /tmp and its like that are gone: whoever removes a
// temporary checkout has no reason to know of this place. Directories anywhere else may be gone only until their disk is
// back. A cluster that will not go is worth a line in the log, and no reason not to start another.
func (p place) removeOrphans(ctx context.Context, log io.Writer) {
	if p.link == "" {
		return
	}
	notes, err := filepath.Glob(filepath.Join(keep, "*"+askedSuffix))
	problems := []error{err}
	for _, note := range notes {
		orphan := place{dir: strings.TrimSuffix(note, askedSuffix)}
		orphan.link, err = os.Readlink(note)
		if err != nil || !isTemporary(orphan.link) || isLink(orphan.link) {
			continue // the note may have gone with its cluster just now
		}
		problems = append(problems, orphan.removeOrphan(ctx))
	}
	if err := errors.Join(problems...); err != nil {
		_, _ = fmt.Fprintf(log, "remove the clusters of directories that are gone: %v\n", err)
	}
}

func isTemporary(path string) bool {
	for _, dir := range []string{"/tmp", os.TempDir()} {
		resolved, err := filepath.EvalSymlinks(dir)
		if err == nil && strings.HasPrefix(path, resolved+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

func (p place) removeOrphan(ctx context.Context) error {
	own, err := acquireNow(p.lockPath(), removing)
	if errors.Is(err, ErrOwned) {
		return nil // it is being made, and its link comes last
	}
	if err != nil {
		return err
	}
	if isLink(p.link) {
		return own.release()
	}
	return errors.Join(p.remove(ctx), own.remove())
}
