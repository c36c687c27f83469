package outage

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"gotest.tools/v3/assert"
)

// fakeMember speaks as much of PostgreSQL's protocol as the client needs.
type fakeMember struct {
	address string
	// answer is what an INSERT is answered; nothing closes the connection.
	answer atomic.Pointer[[]pgproto3.BackendMessage]
	asked  atomic.Int64 // by connections
}

var (
	committed = []pgproto3.BackendMessage{&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}}
	readOnly  = []pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "25006"}, &pgproto3.ReadyForQuery{TxStatus: 'I'}}
)

func newFakeMember(t *testing.T, answer []pgproto3.BackendMessage) *fakeMember {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	t.Cleanup(func() { listener.Close() })
	m := &fakeMember{address: listener.Addr().String()}
	m.answer.Store(&answer)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go m.serve(conn)
		}
	}()
	return m
}

func (m *fakeMember) serve(conn net.Conn) {
	defer conn.Close()
	m.asked.Add(1)
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if backend.Flush() != nil {
		return
	}
	for {
		if _, err := backend.Receive(); err != nil {
			return
		}
		answer := *m.answer.Load()
		for _, message := range answer {
			backend.Send(message)
		}
		if backend.Flush() != nil || len(answer) == 0 {
			return
		}
	}
}

// output is what the client has written so far.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) log(t *testing.T) Log {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	log, err := Parse(strings.NewReader(o.text.String()))
	assert.NilError(t, err)
	return log
}

// until waits for the client to have seen something.
func (o *output) until(t *testing.T, what string, seen func(Log) bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !seen(o.log(t)) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not seen in %v", what, o.log(t))
		}
		<-time.After(Interval)
	}
}

func startClient(t *testing.T, members ...*fakeMember) *output {
	t.Helper()
	var addresses []string
	for _, m := range members {
		addresses = append(addresses, m.address)
	}
	out := &output{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	c := &Client{Members: addresses, User: "client", Database: "postgres", Out: out}
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NilError(t, <-ended)
	})
	return out
}

func TestClientFindsThePrimaryAgainBehindADeadMember(t *testing.T) {
	// It accepts nothing that it would answer: as a machine without power.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	defer silent.Close()
	dead := &fakeMember{address: silent.Addr().String()}
	first, second := newFakeMember(t, committed), newFakeMember(t, readOnly)
	out := startClient(t, dead, first, second)
	out.until(t, "writes", func(l Log) bool { return l.AcknowledgedSince(time.Time{}) >= 5 })

	asked := first.asked.Load() + second.asked.Load()
	out.until(t, "more writes", func(l Log) bool { return l.AcknowledgedSince(time.Time{}) >= 15 })
	assert.Assert(t, first.asked.Load()+second.asked.Load()-asked <= 2, "members are asked though the primary answers")

	change := time.Now()
	first.answer.Store(&readOnly)
	second.answer.Store(&committed)
	out.until(t, "writes at the other", func(l Log) bool { return l.AcknowledgedSince(change) >= 5 })
	log := out.log(t)
	assert.Equal(t, len(log.Failures(time.Time{})), 0, "a standby's refusal is no failure: %v", log)
	gap := log.Longest(change).Length()
	assert.Assert(t, gap < connectLimit, "%s: the dead member has cost time", gap)
}

func TestClientCountsWhatAPrimaryTookAndDidNotAcknowledge(t *testing.T) {
	m := newFakeMember(t, committed)
	out := startClient(t, m)
	out.until(t, "writes", func(l Log) bool { return l.AcknowledgedSince(time.Time{}) >= 2 })
	var closed []pgproto3.BackendMessage
	m.answer.Store(&closed)
	out.until(t, "failures", func(l Log) bool { return len(l.Failures(time.Time{})) >= 2 })
	failure := out.log(t).Failures(time.Time{})[0]
	assert.Assert(t, strings.HasPrefix(failure.Reason, m.address+": "), fmt.Sprint(failure))
}

func TestClientLeavesAPrimaryThatHangs(t *testing.T) {
	hanging, other := newFakeMember(t, committed), newFakeMember(t, readOnly)
	out := startClient(t, hanging, other)
	out.until(t, "writes", func(l Log) bool { return l.AcknowledgedSince(time.Time{}) >= 5 })
	change := time.Now()
	never := []pgproto3.BackendMessage{&pgproto3.NoticeResponse{Message: "wait"}}
	hanging.answer.Store(&never)
	other.answer.Store(&committed)
	out.until(t, "writes at the other", func(l Log) bool { return l.AcknowledgedSince(change) >= 5 })
	gap := out.log(t).Longest(change).Length()
	assert.Assert(t, gap >= Notable && gap < commitLimit, "%s: it was not left at once", gap)
	out.until(t, "the failure of what hung", func(l Log) bool { return len(l.Failures(change)) >= 1 })
}
