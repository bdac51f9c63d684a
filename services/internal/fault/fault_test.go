package fault_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/internal/fault"
)

func TestAnErrorSurvivesTheWireWithoutItsCause(t *testing.T) {
	t.Parallel()
	secret := errors.New("host=10.0.0.7 password=hunter2")
	sent := fault.Invalid("company.slug", "got %q, want a DNS label", "A B").
		With("slug", "A B").RetryIn(3 * time.Second).Because(secret)

	st := fault.From(fmt.Errorf("handler: %w", sent)).GRPCStatus()
	require.Equal(t, codes.InvalidArgument, st.Code())
	require.NotContains(t, st.String(), "hunter2")

	got := fault.From(st.Err())
	require.Equal(t, fault.FieldInvalid, got.Reason)
	require.Equal(t, map[string]string{"field": "company.slug", "slug": "A B"}, got.Metadata)
	require.Equal(t, []fault.Field{{Path: "company.slug", Description: `got "A B", want a DNS label`}}, got.Fields)
	require.Equal(t, 3*time.Second, got.RetryAfter)
	require.ErrorIs(t, sent, secret)
}

func TestAnyErrorBecomesAFaultThatTellsNothingItShouldNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		code   codes.Code
		reason string
	}{
		"plain":            {errors.New("secret"), codes.Internal, fault.Internal},
		"deadline":         {fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, fault.DeadlineExceeded},
		"cancelled":        {context.Canceled, codes.Canceled, fault.Cancelled},
		"foreign status":   {status.Error(codes.Unavailable, "no connection"), codes.Unavailable, fault.Unavailable},
		"wrapped in chain": {fmt.Errorf("x: %w", fault.New(codes.NotFound, fault.UserNotFound, "no")), codes.NotFound, fault.UserNotFound},
	} {
		got := fault.From(c.err)
		require.Equal(t, c.code, got.Code, name)
		require.Equal(t, c.reason, got.Reason, name)
		require.NotContains(t, got.Text, "secret", name)
		require.True(t, fault.HasReason(c.err, c.reason), name)
	}
	wrapped := fault.From(fmt.Errorf("call: %w", fault.New(codes.NotFound, fault.UserNotFound, "no such user").GRPCStatus().Err()))
	require.Equal(t, "no such user", wrapped.Text)
	require.Equal(t, fault.UserNotFound, wrapped.Reason)
	require.Nil(t, fault.From(nil))
}

func TestAddingToAnErrorLeavesTheOriginalAsItWas(t *testing.T) {
	t.Parallel()
	base := fault.New(codes.NotFound, fault.CompanyNotFound, "no such company").With("company", "a")
	_ = base.With("company", "b").RetryIn(time.Second).Because(errors.New("x"))
	require.Equal(t, map[string]string{"company": "a"}, base.Metadata)
	require.Zero(t, base.RetryAfter)
	require.NoError(t, base.Unwrap())
}

func TestAnErrorOfAnyReasonTellsItsField(t *testing.T) {
	t.Parallel()
	plain := fault.New(codes.InvalidArgument, fault.BackupInvalid, "got 2 bytes, want 3")
	got := fault.From(plain.At("trailer.bytes").GRPCStatus().Err())
	require.Equal(t, fault.BackupInvalid, got.Reason)
	require.Equal(t, map[string]string{"field": "trailer.bytes"}, got.Metadata)
	require.Equal(t, []fault.Field{{Path: "trailer.bytes", Description: "got 2 bytes, want 3"}}, got.Fields)
	require.Empty(t, plain.Fields)
}

func TestRetryableIsWhatALaterTryMayMend(t *testing.T) {
	t.Parallel()
	require.True(t, fault.Retryable(status.Error(codes.Unavailable, "")))
	require.True(t, fault.Retryable(fault.New(codes.ResourceExhausted, fault.TooBusy, "").RetryIn(time.Second)))
	require.False(t, fault.Retryable(fault.New(codes.NotFound, fault.UserNotFound, "")))
	require.False(t, fault.Retryable(nil))
}
