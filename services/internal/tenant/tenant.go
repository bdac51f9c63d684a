// Package tenant knows the names of tenants: the database that belongs to an id, and slugs.
package tenant

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/google/uuid"
	"golang.org/x/text/unicode/norm"
)

// MaxSlug is the most characters a slug has: those of a DNS label (RFC 1035).
const MaxSlug = 63

const databasePrefix = "tenant_"

var (
	label    = regexp.MustCompile(`^[0-9a-z]([0-9a-z-]{0,61}[0-9a-z])?$`)
	likeUUID = regexp.MustCompile(`^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$`)
)

// DatabaseName is the name of a tenant database and of its login role: `tenant_` and the id's 32 hex digits. Nothing in
// it comes from what a person typed.
func DatabaseName(id uuid.UUID) string { return databasePrefix + hex.EncodeToString(id[:]) }

// ParseDatabaseName is the inverse of DatabaseName; it reports false for any other name.
func ParseDatabaseName(name string) (uuid.UUID, bool) {
	digits, ok := strings.CutPrefix(name, databasePrefix)
	if !ok || len(digits) != 32 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(digits)
	if err != nil || DatabaseName(id) != name {
		return uuid.Nil, false
	}
	return id, true
}

// CheckSlug tells what is wrong with a slug that someone chose; nil when nothing is.
func CheckSlug(slug string) error {
	switch {
	case !label.MatchString(slug):
		return fmt.Errorf("got %q, want a DNS label: 1 to %d of a-z, 0-9 and -, with no - at either end", slug, MaxSlug)
	case likeUUID.MatchString(slug):
		return fmt.Errorf("got %q, want one that is not shaped like a UUID, since ids are", slug)
	}
	return nil
}

// SlugOf makes a slug of a company's name: letters and digits without their accents, all else a hyphen. A name with
// nothing of that kind gives `company`.
func SlugOf(name string) string {
	var b strings.Builder
	for _, r := range norm.NFKD.String(strings.ToLower(name)) {
		switch {
		case unicode.Is(unicode.Mn, r):
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	slug := b.String()
	if len(slug) > MaxSlug {
		slug = slug[:MaxSlug]
	}
	slug = strings.Trim(slug, "-")
	if CheckSlug(slug) != nil {
		return "company"
	}
	return slug
}

// NumberedSlug is the n-th alternative to a slug that is taken, cut to fit.
func NumberedSlug(slug string, n int) string {
	suffix := fmt.Sprintf("-%d", n)
	if len(slug)+len(suffix) > MaxSlug {
		slug = strings.TrimRight(slug[:MaxSlug-len(suffix)], "-")
	}
	return slug + suffix
}
