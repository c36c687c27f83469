package memberlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"
)

type logs map[string]io.ReadCloser

func (l logs) ServiceLogs(_ context.Context, service string, _ client.ServiceLogsOptions) (client.ServiceLogsResult, error) {
	if l[service] == nil {
		return nil, errors.New("no such service")
	}
	return l[service], nil
}

// frame is how Docker carries a line: the stream in the first byte, then the length.
func frame(stream byte, text string) string {
	header := make([]byte, 8)
	header[0] = stream
	binary.BigEndian.PutUint32(header[4:], uint32(len(text)))
	return string(header) + text
}

func body(frames ...string) io.ReadCloser {
	return io.NopCloser(strings.NewReader(strings.Join(frames, "")))
}

var sources = []Source{{"pg-1", "s1"}, {"pg-10", "s10"}}

func TestLinesAreMergedByTime(t *testing.T) {
	docker := logs{
		"s1":  body(frame(1, "2026-01-02T03:04:01.5Z one\n"), frame(1, "2026-01-02T03:04:03Z three\n")),
		"s10": body(frame(2, "2026-01-02T03:04:02Z two\n"), frame(1, "2026-01-02T03:04:04Z fo"), frame(1, "ur\n")),
	}
	var out, errs bytes.Buffer
	assert.NilError(t, Write(t.Context(), docker, sources, Options{}, &out, &errs))
	assert.Equal(t, out.String(), "pg-1  | one\npg-1  | three\npg-10 | four\n")
	assert.Equal(t, errs.String(), "pg-10 | two\n")

	docker = logs{"s1": body(frame(1, "2026-01-02T03:04:01.5Z one\n")), "s10": body(frame(1, "2026-01-02T03:04:01Z zero\n"))}
	out.Reset()
	assert.NilError(t, Write(t.Context(), docker, sources, Options{Timestamps: true}, &out, &errs))
	assert.Equal(t, out.String(), "pg-10 | 2026-01-02T03:04:01Z zero\npg-1  | 2026-01-02T03:04:01.5Z one\n")
}

func TestWhatIsReadableIsShownBesideTheError(t *testing.T) {
	var out, errs bytes.Buffer
	err := Write(t.Context(), logs{"s1": body(frame(1, "2026-01-02T03:04:01Z one\n"))}, sources, Options{}, &out, &errs)
	assert.ErrorContains(t, err, "logs of pg-10: no such service")
	assert.Equal(t, out.String(), "pg-1  | one\n")
}

// A log that a dead node has a part of does not end; what there is of it is shown.
func TestALogThatStandsStillIsGivenUp(t *testing.T) {
	reader, writer := io.Pipe()
	go func() { _, _ = io.WriteString(writer, frame(1, "2026-01-02T03:04:01Z one\n")) }()
	docker := logs{"s1": reader, "s10": body(frame(1, "2026-01-02T03:04:02Z two\n"))}
	var out, errs bytes.Buffer
	err := Write(t.Context(), docker, sources, Options{Patience: 100 * time.Millisecond}, &out, &errs)
	assert.Error(t, err, "logs of pg-1: nothing more came for 100ms: a node that it runs on, or ran on, does not answer (docker node ls)")
	assert.Equal(t, out.String(), "pg-1  | one\npg-10 | two\n")
}

func TestFollowShowsLinesBeforeTheLogsEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	shown, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Write(ctx, logs{"s1": reader}, sources[:1], Options{Follow: true}, out, io.Discard) }()
	go func() { _, _ = io.WriteString(writer, frame(1, "2026-01-02T03:04:01Z one\n")) }()
	buffer := make([]byte, 100)
	n, err := shown.Read(buffer)
	assert.NilError(t, err)
	assert.Equal(t, string(buffer[:n]), "pg-1 | one\n")
	cancel()
	select {
	case err := <-done:
		assert.NilError(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("it did not end")
	}
}
