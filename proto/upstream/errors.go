package upstream

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Reasons of the errors of this package, in google.rpc.ErrorInfo with the domain Domain. None is ever renamed.
const (
	// AssertionMissing is UNAUTHENTICATED: the call carries no assertion, or several. It did not come through the gateway.
	AssertionMissing = "ASSERTION_MISSING"
	// AssertionInvalid is UNAUTHENTICATED: the assertion is not the gateway's, or not for this service.
	AssertionInvalid = "ASSERTION_INVALID"
	// AssertionExpired is UNAUTHENTICATED: the assertion has ended.
	AssertionExpired = "ASSERTION_EXPIRED"
	// KeysUnavailable is UNAVAILABLE: the gateway does not tell the keys that would verify the assertion.
	KeysUnavailable = "KEYS_UNAVAILABLE"
)

// Domain is the domain of the reasons.
const Domain = "tenantry"

// fault is an error as it travels; what caused it stays here. after is when another try may help, 0 for never.
func fault(code codes.Code, reason, text string, after time.Duration) error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: Domain}}
	if after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	st := status.New(code, text)
	// It fails for codes.OK alone, which no fault has.
	if with, err := st.WithDetails(details...); err == nil {
		st = with
	}
	return st.Err()
}
