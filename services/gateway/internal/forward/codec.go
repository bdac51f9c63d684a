package forward

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// frame is one message of a forwarded call, as the bytes it is. The buffers are grpc-go's own: received, handed on, and
// freed by grpc-go once sent, without a copy.
type frame struct{ payload mem.BufferSlice }

// Codec is the codec of a server that forwards: it leaves frames as they are and treats all else as protobuf.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ encoding.CodecV2 }

// Marshal gives a frame's buffers to grpc-go, which frees them.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	if f.payload == nil {
		return nil, fmt.Errorf("forward: an empty frame is sent twice")
	}
	payload := f.payload
	f.payload = nil
	return payload, nil
}

// Unmarshal keeps the buffers, which grpc-go would free on return.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	data.Ref()
	if data == nil {
		data = mem.BufferSlice{} // An empty message is a message.
	}
	f.payload = data
	return nil
}
