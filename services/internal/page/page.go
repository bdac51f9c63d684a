// Package page is how lists are given out page by page: a size with a default, and an opaque token that says where the
// next page begins and is of no use to another method.
package page

import (
	"encoding/base64"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// defaultSize is the size of a page when a request does not say.
const defaultSize = 100

// Method is a method that gives pages, by its name.
type Method string

// Size is how many a page has.
func (Method) Size(asked int32) int {
	if asked == 0 {
		return defaultSize
	}
	return int(asked)
}

// Token says that the next page begins after a key.
func (m Method) Token(after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(m) + " " + after))
}

// After returns the key after which a page begins, "" for the first page: INVALID_ARGUMENT `PAGE_TOKEN_INVALID` for a
// token that this method did not give.
func (m Method) After(token string) (string, error) {
	if token == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(text), string(m)+" ")
	if err != nil || !ok {
		return "", m.Invalid()
	}
	return after, nil
}

// AfterID is After for lists in order of a UUID; uuid.Nil for the first page.
func (m Method) AfterID(token string) (uuid.UUID, error) {
	text, err := m.After(token)
	if err != nil || text == "" {
		return uuid.Nil, err
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, m.Invalid()
	}
	return id, nil
}

// Invalid is the fault of a token that the method did not give.
func (m Method) Invalid() error {
	return fault.New(codes.InvalidArgument, fault.PageTokenInvalid, "page_token: want a next_page_token that %s gave, or nothing", m).With("field", "page_token")
}

// Cut cuts what was read, one more than a page has, to a page, and returns the next page's token, "" on the last.
func Cut[T any](m Method, items []T, size int, key func(T) string) ([]T, string) {
	if len(items) <= size {
		return items, ""
	}
	items = items[:size]
	return items, m.Token(key(items[size-1]))
}
