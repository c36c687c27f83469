// Package execstream carries the streams of a command over one connection: from
// the CLI's side in a manager's container to the network helper on the node where
// the command runs.
//
// A frame is one byte for the kind, four for the length (big endian), and the payload.
package execstream

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Kind of a frame.
type Kind byte

const (
	Stdin  Kind = iota // to the command; an empty frame closes its standard input
	Stdout             // from the command
	Stderr             // from the command, without a terminal
	Resize             // to the command: width and height as two uint16
	Exit               // from the command, the last frame: its exit code as uint32
	Error              // from the helper, the last frame: words
)

const maxFrame = 64 << 10

// Conn writes and reads frames. One reader and any number of writers may use it
// at the same time.
type Conn struct {
	r  io.Reader
	mu sync.Mutex
	w  io.Writer
}

// New returns a Conn on a connection whose reader may already hold bytes.
func New(r io.Reader, w io.Writer) *Conn { return &Conn{r: r, w: w} }

// Write sends a frame, or several if payload is long.
func (c *Conn) Write(kind Kind, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for first := true; first || len(payload) > 0; first = false {
		n := min(len(payload), maxFrame)
		frame := make([]byte, 5, 5+n)
		frame[0] = byte(kind)
		binary.BigEndian.PutUint32(frame[1:], uint32(n))
		if _, err := c.w.Write(append(frame, payload[:n]...)); err != nil {
			return err
		}
		payload = payload[n:]
	}
	return nil
}

// Read returns the next frame; the payload is the caller's.
func (c *Conn) Read() (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes, %d at most", n, maxFrame)
	}
	payload := make([]byte, n)
	_, err := io.ReadFull(c.r, payload)
	return Kind(head[0]), payload, err
}

// Writer returns an io.Writer whose writes become frames of kind.
func (c *Conn) Writer(kind Kind) io.Writer { return writer{c, kind} }

type writer struct {
	c    *Conn
	kind Kind
}

func (w writer) Write(p []byte) (int, error) {
	if len(p) == 0 { // an empty frame has a meaning of its own
		return 0, nil
	}
	if err := w.c.Write(w.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Size encodes a terminal's size for a Resize frame.
func Size(width, height uint) []byte {
	var b [4]byte
	binary.BigEndian.PutUint16(b[:2], uint16(width))
	binary.BigEndian.PutUint16(b[2:], uint16(height))
	return b[:]
}

// ParseSize decodes the payload of a Resize frame.
func ParseSize(b []byte) (width, height uint, ok bool) {
	if len(b) != 4 {
		return 0, 0, false
	}
	return uint(binary.BigEndian.Uint16(b[:2])), uint(binary.BigEndian.Uint16(b[2:])), true
}

// ExitCode encodes the payload of an Exit frame.
func ExitCode(code int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(code)) }

// ParseExitCode decodes it.
func ParseExitCode(b []byte) int {
	if len(b) != 4 {
		return -1
	}
	return int(int32(binary.BigEndian.Uint32(b)))
}
