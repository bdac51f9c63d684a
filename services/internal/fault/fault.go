// Package fault is the one shape of an error that a caller of Tenantry may see: a gRPC code, a stable reason, a public
// text, and metadata. What caused it stays beside it for logs and errors.Is, and never travels.
//
// An *Error carries its own gRPC status (google.rpc.ErrorInfo with domain "tenantry", BadRequest for fields, RetryInfo
// where a retry helps). A handler returns any error as it is: package rpc sends what From makes of it. (grpc-go alone
// would send the whole text of an error that wraps one of these, cause and all.) From also reads one back from whatever
// a call returned.
//
// It is not for errors that only the program itself looks at: those stay plain.
package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the domain of every google.rpc.ErrorInfo that Tenantry sends.
const Domain = "tenantry"

// Field says what is wrong with one field of a request.
type Field struct {
	// Path of the field, such as `company.slug` or `params[2]`.
	Path string
	// Description tells what was got and what is wanted.
	Description string
}

// Error is one error. Make it with New or Invalid; the methods that add to it return a copy.
type Error struct {
	// Code is the gRPC code.
	Code codes.Code
	// Reason is stable and UPPER_SNAKE; programs decide by it.
	Reason string
	// Text is for people, and public.
	Text string
	// Metadata is public, too: names in lower case.
	Metadata map[string]string
	// Fields are the request's fields that are wrong.
	Fields []Field
	// RetryAfter is when another try may help; 0 means that it is not said.
	RetryAfter time.Duration

	cause error
}

// New makes an error with a formatted public text.
func New(code codes.Code, reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// Invalid makes the error of one wrong field: INVALID_ARGUMENT `FIELD_INVALID`.
func Invalid(path, format string, args ...any) *Error {
	description := fmt.Sprintf(format, args...)
	return &Error{
		Code:     codes.InvalidArgument,
		Reason:   FieldInvalid,
		Text:     path + ": " + description,
		Metadata: map[string]string{"field": path},
		Fields:   []Field{{Path: path, Description: description}},
	}
}

// With returns the error with one more piece of metadata.
func (e *Error) With(name, value string) *Error {
	c := *e
	c.Metadata = maps.Clone(e.Metadata)
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	c.Metadata[name] = value
	return &c
}

// At returns the error as that of one field of the request, which its text tells of.
func (e *Error) At(path string) *Error {
	c := e.With("field", path)
	c.Fields = []Field{{Path: path, Description: e.Text}}
	return c
}

// Because returns the error with its cause, which is logged and never sent.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// RetryIn returns the error with the time after which another try may help.
func (e *Error) RetryIn(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// Error is the public text, and the cause for whoever reads logs.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Reason + ": " + e.Text
	}
	return e.Reason + ": " + e.Text + ": " + e.cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is tells whether target is an *Error with the same reason, so that errors.Is(err, &Error{Reason: R}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// GRPCStatus is what travels.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(e.Code, e.Text)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: e.Reason, Domain: Domain, Metadata: e.Metadata}}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Fields {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Description})
		}
		details = append(details, bad)
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	// It fails for codes.OK alone, which no Error has.
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st
}

// From makes an *Error of any error: one that is in its chain already, one that a gRPC call of Tenantry returned, the
// end of a context, and for all else INTERNAL, whose text tells nothing. It returns nil for nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return New(codes.DeadlineExceeded, DeadlineExceeded, "the deadline passed before the work was done").Because(err)
	case errors.Is(err, context.Canceled):
		return New(codes.Canceled, Cancelled, "the caller went away").Because(err)
	}
	// status.FromError would make the whole chain's text the message.
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return fromStatus(carrier.GRPCStatus(), err)
	}
	return New(codes.Internal, Internal, "something went wrong inside; the server's log tells what").Because(err)
}

// fromStatus reads what GRPCStatus wrote. A status of another origin keeps its code and text, and has its code's name
// for a reason.
func fromStatus(st *status.Status, err error) *Error {
	e := &Error{Code: st.Code(), Text: st.Message(), Reason: reasonOf(st.Code()), cause: err}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				e.Reason, e.Metadata = d.GetReason(), d.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, Field{Path: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// HasReason tells whether err is, or came over gRPC as, an error with that reason.
func HasReason(err error, reason string) bool {
	e := From(err)
	return e != nil && e.Reason == reason
}

// Retryable tells whether the same call may well succeed a little later: the server was not there, or said so.
func Retryable(err error) bool {
	e := From(err)
	return e != nil && (e.Code == codes.Unavailable || e.Code == codes.Aborted || e.RetryAfter > 0)
}
