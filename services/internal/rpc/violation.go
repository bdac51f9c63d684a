package rpc

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// longestGot is how much of a wrong value is told back.
const longestGot = 100

// describe tells what was got and what is wanted. A field that the contract marks debug_redact is not repeated.
func describe(v *protovalidate.Violation) string {
	want := v.Proto.GetMessage()
	if want == "" {
		want = v.Proto.GetRuleId()
	}
	got := v.FieldValue
	if !got.IsValid() || v.FieldDescriptor == nil || redacted(v.FieldDescriptor) {
		return want
	}
	switch x := got.Interface().(type) {
	case string:
		return "got " + strconv.Quote(shorten(x)) + ": " + want
	case bool, int32, int64, uint32, uint64, float32, float64, protoreflect.EnumNumber:
		return fmt.Sprintf("got %v: %s", x, want)
	case []byte:
		return fmt.Sprintf("got %d bytes: %s", len(x), want)
	case protoreflect.List:
		return fmt.Sprintf("got %d: %s", x.Len(), want)
	default:
		return want
	}
}

func redacted(f protoreflect.FieldDescriptor) bool {
	options, ok := f.Options().(*descriptorpb.FieldOptions)
	return ok && options.GetDebugRedact()
}

func shorten(s string) string {
	if len(s) <= longestGot {
		return s
	}
	end := longestGot
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
