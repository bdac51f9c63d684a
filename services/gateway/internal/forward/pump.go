package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// pump moves the messages of one call.
type pump struct {
	*upstream
	in     grpc.ServerStream
	out    grpc.ClientStream
	cancel context.CancelCauseFunc // ends the call, with why
}

// send passes the caller's messages on until it has no more or the call ends. Where they may not pass, it ends the call
// and says why. (What is larger than rpc.MaxMessage does not come here: grpc-go's server refuses it in its own words.)
func (p *pump) send() {
	for {
		var m frame
		err := p.in.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			// Its error is that the call has ended, of which receive knows more.
			_ = p.out.CloseSend()
			return
		}
		if err != nil {
			p.cancel(err)
			return
		}
		if m.payload.Len() > p.MaxMessageBytes {
			m.payload.Free()
			p.cancel(p.messageTooLarge("a message of the call"))
			return
		}
		if p.out.SendMsg(&m) != nil {
			return
		}
	}
}

// receive passes the upstream's headers, messages and trailers back and returns the status it ended with.
func (p *pump) receive() error {
	// Headers come back before the first message, however long that takes to come. Where they cannot be had, RecvMsg
	// tells why.
	header, err := p.out.Header()
	answered := err == nil && header != nil
	if answered {
		p.breaker.answered()
		if size := sizeOf(header); size > p.MaxMetadataBytes {
			return p.metadataTooLarge("the answer's metadata", size)
		}
		if err := p.in.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		var m frame
		err := p.out.RecvMsg(&m)
		if err != nil {
			return p.end(err, answered)
		}
		if err := p.in.SendMsg(&m); err != nil {
			return err
		}
	}
}

// end passes the trailers back and returns the status that a call ended with.
func (p *pump) end(err error, answered bool) error {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if !answered {
		p.judge(err)
	}
	trailer := p.out.Trailer()
	if size := sizeOf(trailer); size > p.MaxMetadataBytes {
		return p.metadataTooLarge("the answer's trailing metadata", size)
	}
	p.in.SetTrailer(trailer)
	if tooLarge(err, p.MaxMessageBytes) {
		return p.messageTooLarge("a message of the answer")
	}
	return err
}

// tooLarge tells whether grpc-go refused a message for being over the limit, which it tells by its text alone. The limit
// in the text tells it from the same refusal by a program further on, whose own status passes as it is.
func tooLarge(err error, most int) bool {
	if status.Code(err) != codes.ResourceExhausted {
		return false
	}
	text := status.Convert(err).Message()
	return strings.HasPrefix(text, "grpc: ") &&
		(strings.HasSuffix(text, fmt.Sprintf("larger than max (%d vs. %d)", sizeIn(text), most)) || strings.HasSuffix(text, fmt.Sprintf("larger than max %d", most)))
}

// sizeIn is the size that such a text tells.
func sizeIn(text string) (size int) {
	_, rest, _ := strings.Cut(text, "(")
	_, _ = fmt.Sscan(rest, &size) // Where there is none, nothing will match.
	return size
}

func (u *upstream) messageTooLarge(what string) error {
	return fault.New(codes.ResourceExhausted, fault.MessageTooLarge, "%s is too large, want at most %d bytes", what, u.MaxMessageBytes).
		With("max_bytes", fmt.Sprint(u.MaxMessageBytes))
}

func (u *upstream) metadataTooLarge(what string, size int) error {
	return fault.New(codes.ResourceExhausted, fault.MetadataTooLarge, "%s is too large: got %d bytes, want at most %d", what, size, u.MaxMetadataBytes).
		With("max_bytes", fmt.Sprint(u.MaxMetadataBytes))
}

// perPair is what HTTP/2 counts for each pair beside its text.
const perPair = 32

// headerBytes is the most that the server takes in: what an upstream may have at most, and room for what is not passed on.
const headerBytes = mostMetadataBytes + 64<<10

// sizeOf is how much metadata there is, in bytes.
func sizeOf(md metadata.MD) int {
	size := 0
	for name, values := range md {
		for _, v := range values {
			size += len(name) + len(v) + perPair
		}
	}
	return size
}
