package routes

import (
	"google.golang.org/grpc/metadata"

	"github.com/tenantry/tenantry/services/internal/fault"
)

const (
	// MinSchemaMetadata is the name of the metadata with which a call says what version its company's core schema must have.
	MinSchemaMetadata = "tenantry-min-schema"
	// longestVersion is that of the contract.
	longestVersion = 100
)

// MinSchema is the version that a call wants, or empty: INVALID_ARGUMENT `FIELD_INVALID` for what is none.
func MinSchema(md metadata.MD) (string, error) {
	versions := md.Get(MinSchemaMetadata)
	switch {
	case len(versions) == 0:
		return "", nil
	case len(versions) > 1 || versions[0] == "" || len(versions[0]) > longestVersion:
		return "", fault.Invalid(MinSchemaMetadata, "got %q, want the version of one migration, of %d bytes at most", versions, longestVersion)
	}
	return versions[0], nil
}
