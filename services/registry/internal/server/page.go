package server

import (
	"encoding/base64"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/tenantry/tenantry/services/internal/fault"
)

const defaultPage = 100

// pageSize is how many a page has.
func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return int(asked)
}

// pageToken says where the next page of a method begins. It is opaque to callers, and of no use to another method.
func pageToken(method, after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(method + " " + after))
}

// parsePage returns where a page begins, "" for the first.
func parsePage(method, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(text), method+" ")
	if err != nil || !ok {
		return "", pageInvalid(method)
	}
	return after, nil
}

func pageInvalid(method string) error {
	return fault.New(codes.InvalidArgument, fault.PageTokenInvalid, "page_token: want a next_page_token that %s gave, or nothing", method).With("field", "page_token")
}

// page cuts what was read, one more than a page, to a page, and makes the next page's token.
func page[T any](method string, items []T, size int, key func(T) string) ([]T, string) {
	if len(items) <= size {
		return items, ""
	}
	items = items[:size]
	return items, pageToken(method, key(items[size-1]))
}
