package snapshot

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
)

// A file is, numbers in big-endian order:
//
//	magic            8 bytes
//	format version   4 bytes
//	body             messages, each behind its length as protodelim has it
//	the body's size  8 bytes
//	seal            32 bytes: HMAC-SHA-256 of all before it
const (
	magic      = "tenantry"
	version    = 1
	frontSize  = len(magic) + 4
	sizeSize   = 8
	backSize   = sizeSize + sha256.Size
	bufferSize = 64 << 10
	// largest is the most bytes of one message.
	largest = 4 << 20
)

// sealed is a file with the key of its seal.
type sealed struct {
	path string
	key  []byte
}

// writer writes a body.
type writer struct {
	to   *bufio.Writer // the file and its seal
	size uint64
}

func (w *writer) Write(p []byte) (int, error) {
	w.size += uint64(len(p))
	return w.to.Write(p)
}

// add writes a message.
func (w *writer) add(m proto.Message) error {
	_, err := protodelim.MarshalTo(w, m)
	return err
}

// write replaces the file. When it fails the old one is there, or the new one, which then may not be on the disk yet.
func (s sealed) write(body func(*writer) error) (size int64, err error) {
	temporary := s.path + ".new"
	// One that a process left which died; ours alone, as we have the lock.
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("snapshot: %w", err)
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("snapshot: %w", err)
	}
	size, err = s.fill(file, body)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(temporary, s.path)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("snapshot: write %s: %w", s.path, err), os.Remove(temporary))
	}
	return size, s.sync()
}

func (s sealed) fill(file *os.File, body func(*writer) error) (size int64, err error) {
	seal := hmac.New(sha256.New, s.key)
	w := &writer{to: bufio.NewWriterSize(io.MultiWriter(file, seal), bufferSize)}
	// A bufio.Writer keeps its first error, which Flush returns.
	_, _ = w.to.Write(front())
	if err := body(w); err != nil {
		return 0, err
	}
	_, _ = w.to.Write(binary.BigEndian.AppendUint64(nil, w.size))
	if err := w.to.Flush(); err != nil {
		return 0, err
	}
	if _, err := file.Write(seal.Sum(nil)); err != nil {
		return 0, err
	}
	return int64(frontSize) + int64(w.size) + int64(backSize), file.Sync()
}

// remove removes the file, if there is one.
func (s sealed) remove() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("snapshot: %w", err)
	}
	return s.sync()
}

// sync has the directory's names on the disk.
func (s sealed) sync() error {
	dir, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

func front() []byte { return binary.BigEndian.AppendUint32([]byte(magic), version) }

// reader reads a body.
type reader struct{ from *bufio.Reader }

// more tells whether there is another message.
func (r *reader) more() bool {
	_, err := r.from.Peek(1)
	return err == nil
}

// next reads a message.
func (r *reader) next(m proto.Message) error {
	if err := (protodelim.UnmarshalOptions{MaxSize: largest}).UnmarshalFrom(r.from, m); err != nil {
		return refuse(Malformed, "%v", err)
	}
	return nil
}

// read has the body read, once all of the file is known to be good. Its errors are Refusals.
func (s sealed) read(body func(*reader) error) error {
	file, err := os.Open(s.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return refuse(Missing, "there is no %s", s.path)
	case err != nil:
		return refuse(Unreadable, "%v", err)
	}
	defer func() { _ = file.Close() }() // It was only read.
	size, err := s.check(file)
	if err != nil {
		return err
	}
	return body(&reader{bufio.NewReaderSize(io.NewSectionReader(file, int64(frontSize), size), bufferSize)})
}

// check proves that a file is whole and ours, and returns its body's size.
func (s sealed) check(file *os.File) (body int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, refuse(Unreadable, "%v", err)
	}
	total := info.Size()
	if total < int64(frontSize+backSize) {
		return 0, refuse(CutShort, "got %d bytes, want at least %d", total, frontSize+backSize)
	}
	body = total - int64(frontSize+backSize)
	seal := hmac.New(sha256.New, s.key)
	in := bufio.NewReaderSize(io.NewSectionReader(file, 0, total), bufferSize)
	got := make([]byte, frontSize)
	if err := readInto(in, got, seal); err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(got, []byte(magic)) {
		return 0, refuse(OtherVersion, "it is no snapshot of a gateway")
	}
	if v := binary.BigEndian.Uint32(got[len(magic):]); v != version {
		return 0, refuse(OtherVersion, "got format version %d, want %d", v, version)
	}
	if _, err := io.CopyN(seal, in, body); err != nil {
		return 0, refuse(Unreadable, "%v", err)
	}
	size, end := make([]byte, sizeSize), make([]byte, sha256.Size)
	if err := readInto(in, size, seal); err != nil {
		return 0, err
	}
	if err := readInto(in, end, nil); err != nil {
		return 0, err
	}
	// A part of a file ends with anything, but hardly with its own length.
	if said := binary.BigEndian.Uint64(size); said != uint64(body) {
		return 0, refuse(CutShort, "its length is not what it says at its end")
	}
	if !hmac.Equal(end, seal.Sum(nil)) {
		return 0, refuse(Altered, "its seal is not that of its bytes")
	}
	return body, nil
}

// readInto fills p, which is sealed unless there is no seal.
func readInto(in io.Reader, p []byte, seal hash.Hash) error {
	if _, err := io.ReadFull(in, p); err != nil {
		return refuse(Unreadable, "%v", err)
	}
	if seal != nil {
		seal.Write(p)
	}
	return nil
}
