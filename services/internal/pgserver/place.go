package pgserver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// keep is where root's clusters live whose own place PostgreSQL's user cannot reach, such as a checkout under /root.
const keep = "/var/lib/tenantry"

// place says where a cluster really is, and as whom PostgreSQL runs there.
type place struct {
	// dir is the cluster's directory, absolute and free of links.
	dir string
	// link is the directory that was asked for, where the cluster had to be kept elsewhere; else empty.
	link string
	// as is the user to run as; nil is oneself.
	as *syscall.Credential
}

// locate decides where the cluster asked for at dir is. It creates nothing but dir's parent.
func locate(dir string) (place, error) {
	asked, err := filepath.Abs(dir)
	if err != nil {
		return place{}, err
	}
	if err := os.MkdirAll(filepath.Dir(asked), 0o755); err != nil {
		return place{}, fmt.Errorf("make the directory for the cluster: %w", err)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(asked))
	if err != nil {
		return place{}, err
	}
	asked = filepath.Join(parent, filepath.Base(asked))
	home := homeOf(asked)

	target, err := os.Readlink(asked)
	switch {
	case err != nil:
		return locateAt(asked, home)
	case target == home:
		as, err := runAs(home)
		return place{dir: home, link: asked, as: as}, err
	case filepath.Dir(target) == keep:
		// The link came along with a copied or moved directory: following it could mean two owners of one cluster.
		return place{}, fmt.Errorf("%s: got a link to %s, the cluster of a directory elsewhere; want a link to %s: rename the cluster to that to move it, or remove the link to begin anew",
			asked, target, home)
	default:
		resolved, err := filepath.EvalSymlinks(asked)
		if err != nil {
			return place{}, fmt.Errorf("%s: got a link that leads nowhere, want a directory: %w", asked, err)
		}
		return locateAt(resolved, homeOf(resolved))
	}
}

// locateAt is locate for a path that is no link.
func locateAt(dir, home string) (place, error) {
	as, err := runAs(dir)
	if err != nil || as == nil {
		return place{dir: dir}, err
	}
	reachable, err := canReach(as, filepath.Dir(dir))
	if err != nil {
		return place{}, err
	}
	if reachable {
		return place{dir: dir, as: as}, nil
	}
	if exists(filepath.Join(dir, versionFile)) {
		return place{}, fmt.Errorf("%s: got a cluster that user %d, as whom PostgreSQL has to run, cannot reach; want every directory above it open to that user (chmod a+x)",
			dir, as.Uid)
	}
	return place{dir: home, link: dir, as: as}, nil
}

// homeOf is the directory that stands in for dir. Only its own dir's link may lead there.
func homeOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(keep, hex.EncodeToString(sum[:16]))
}

// lockPath is beside the cluster and not beside the link, so that it is found again when the link was removed.
func (p place) lockPath() string {
	return p.dir + ".lock"
}

// open makes sure that everything above the cluster is there and is what it should be.
func (p place) open() error {
	if p.link == "" {
		return nil
	}
	if err := os.MkdirAll(keep, 0o755); err != nil {
		return fmt.Errorf("make the directory for clusters of root: %w", err)
	}
	uid, mode, err := ownership(keep)
	if err != nil {
		return err
	}
	if uid != 0 || !mode.IsDir() || mode.Perm()&0o022 != 0 {
		return fmt.Errorf("%s: got %v of user %d, want a directory of root that nobody else can write to", keep, mode, uid)
	}
	return nil
}

// clean removes what no longer belongs to anybody: what a killed initdb left, and a cluster whose link was removed,
// which is how one throws away a cluster that is kept elsewhere.
func (p place) clean() error {
	remains, err := filepath.Glob(p.dir + scratchSuffix + "*")
	if err != nil {
		return err
	}
	if p.link != "" && !isLink(p.link) {
		remains = append(remains, p.dir, p.dir+askedSuffix)
	}
	for _, path := range remains {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// own makes sure that the cluster there is belongs to the user who runs it.
func (p place) own() error {
	if p.as == nil {
		return nil
	}
	uid, _, err := ownership(p.dir)
	if err != nil || uid == p.as.Uid {
		return err
	}
	if p.link != "" {
		return fmt.Errorf("%s: got a cluster of user %d, want one of user %d", p.dir, uid, p.as.Uid)
	}
	return chown(p.dir, p.as)
}

// point leaves a link where the cluster was asked for.
func (p place) point(log io.Writer) error {
	if p.link == "" || isLink(p.link) {
		return nil
	}
	// Callers like to make the directory first; an empty one may go, anything else is not ours to remove.
	if err := os.Remove(p.link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: want nothing or an empty directory, to put a link to the cluster there: %w", p.link, err)
	}
	if err := os.Symlink(p.dir, p.link); err != nil {
		return err
	}
	_, err := fmt.Fprintf(log, "the cluster is kept in %s: PostgreSQL does not run as root, and user %d cannot reach %s, which is now a link there\n",
		p.dir, p.as.Uid, p.link)
	return err
}

// runAs returns the user as whom PostgreSQL runs on dir: oneself, unless one is root, whom PostgreSQL refuses. Then it
// is the owner of the cluster there is, so that running once as root takes nothing away from him, else a fixed one.
func runAs(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	uid, _, err := ownership(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case uid != 0:
		u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
		if err != nil {
			return nil, fmt.Errorf("%s belongs to a user unknown here: %w", dir, err)
		}
		return credential(u)
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err == nil {
			return credential(u)
		}
		if _, unknown := errors.AsType[user.UnknownUserError](err); !unknown {
			return nil, fmt.Errorf("look for user %s: %w", name, err)
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

func credential(u *user.User) (*syscall.Credential, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %s: %w", u.Username, err)
	}
	as := &syscall.Credential{}
	for _, id := range ids {
		gid, err := parseID(id)
		if err != nil {
			return nil, err
		}
		as.Groups = append(as.Groups, gid)
	}
	if as.Uid, err = parseID(u.Uid); err != nil {
		return nil, err
	}
	if as.Gid, err = parseID(u.Gid); err != nil {
		return nil, err
	}
	return as, nil
}

func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	return uint32(id), err
}

// canReach says whether the user may pass through dir and everything above it.
func canReach(as *syscall.Credential, dir string) (bool, error) {
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false, err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false, fmt.Errorf("%s: its owner cannot be told", dir)
		}
		if !mayPass(as, info.Mode().Perm(), stat.Uid, stat.Gid) {
			return false, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true, nil
		}
		dir = parent
	}
}

// mayPass is the kernel's rule: the first of user, group and others that applies decides alone.
func mayPass(as *syscall.Credential, perm fs.FileMode, uid, gid uint32) bool {
	if uid == as.Uid {
		return perm&0o100 != 0
	}
	groups := append([]uint32{as.Gid}, as.Groups...)
	for _, g := range groups {
		if g == gid {
			return perm&0o010 != 0
		}
	}
	return perm&0o001 != 0
}

func ownership(path string) (uint32, fs.FileMode, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("%s: its owner cannot be told", path)
	}
	return stat.Uid, info.Mode(), nil
}

func chown(dir string, as *syscall.Credential) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(as.Uid), int(as.Gid))
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}
