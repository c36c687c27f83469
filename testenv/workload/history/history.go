// Package history is what clients of a database did and saw, as they wrote it down,
// and the judges who tell whether a correct database could have answered so.
package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kinds of operations.
const (
	// Read returns the value of a register.
	Read = "read"
	// Write gives a register the operation's ID as its value.
	Write = "write"
	// Swap does so if the register's value is Old.
	Swap = "swap"
	// Append inserts a row with the operation's ID.
	Append = "append"
)

// Outcomes of operations. One that has none was begun, and its client died.
const (
	// OK: the server has acknowledged it.
	OK = "ok"
	// Failed: it did not happen and never will.
	Failed = "failed"
	// Unknown: it may have happened, or may still happen.
	Unknown = "unknown"
)

// Op is an operation of a client. It is written down when it begins and again when
// it has ended, so that one that a dead client had begun is known too.
type Op struct {
	ID      int64  `json:"id"` // drawn anew for each; it is also the value that is written
	Worker  string `json:"worker"`
	Member  string `json:"member"` // whom it asked
	Kind    string `json:"kind"`
	Key     int    `json:"key,omitempty"`
	Old     int64  `json:"old,omitempty"`
	Seen    int64  `json:"seen,omitempty"` // the value that a read or a swap found
	Begin   int64  `json:"begin"`          // ns of CLOCK_BOOTTIME, which all nodes of one machine share
	End     int64  `json:"end,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Error   string `json:"error,omitempty"`
	// Clock and Timeline are the server's own words in an acknowledged append.
	Clock    int64 `json:"clock,omitempty"`
	Timeline int   `json:"timeline,omitempty"`
}

// Sighting is a moment, by the server's own clock, at which a member said that it
// was no standby, or accepted a row.
type Sighting struct {
	Member   string `json:"member"`
	Timeline int    `json:"timeline"` // PostgreSQL begins another with each promotion
	Clock    int64  `json:"clock"`    // µs since 1970
	// Wrote: it accepted a row at that moment, and acknowledged it then or later.
	Wrote bool `json:"wrote,omitempty"`
}

// Line is a line of a client's log.
type Line struct {
	Op       *Op       `json:"op,omitempty"`
	Sighting *Sighting `json:"sighting,omitempty"`
}

// History is what all clients have written down.
type History struct {
	Ops       map[int64]Op
	Sightings []Sighting
	Judged    int // operations on registers that were judged, and forgotten
}

// Add reads what has been appended to a log and returns how many bytes that was: a
// last line that is not whole yet is left for the next time, as is what a client
// that died has left of one.
func (h *History) Add(log []byte) (read int) {
	if h.Ops == nil {
		h.Ops = map[int64]Op{}
	}
	for {
		end := bytes.IndexByte(log[read:], '\n')
		if end < 0 {
			return read
		}
		var line Line
		// A torn line stands before the first one of the next client.
		if text := log[read : read+end]; json.Unmarshal(text, &line) != nil {
			if i := bytes.LastIndex(text, []byte(`{"op"`)); i > 0 {
				_ = json.Unmarshal(text[i:], &line)
			}
		}
		switch {
		case line.Sighting != nil:
			h.Sightings = append(h.Sightings, *line.Sighting)
		case line.Op != nil:
			h.add(*line.Op)
		}
		read += end + 1
	}
}

func (h *History) add(op Op) {
	if have, ok := h.Ops[op.ID]; ok && have.Outcome != "" {
		return
	}
	h.Ops[op.ID] = op
	if op.Kind == Append && op.Outcome == OK {
		h.Sightings = append(h.Sightings, Sighting{Member: op.Member, Timeline: op.Timeline, Clock: op.Clock, Wrote: true})
	}
}

// Appended returns the acknowledged rows in the order of their acknowledgement.
func (h *History) Appended() []Op {
	var rows []Op
	for _, op := range h.Ops {
		if op.Kind == Append && op.Outcome == OK {
			rows = append(rows, op)
		}
	}
	slices.SortFunc(rows, func(a, b Op) int { return int(a.End - b.End) })
	return rows
}

// Gap is the longest time, from since on (CLOCK_BOOTTIME, 0: the first row), in which
// no client's row was acknowledged.
func (h *History) Gap(since int64) time.Duration {
	var gap int64
	last := since
	for _, op := range h.Appended() {
		if op.End < since {
			continue
		}
		if last != 0 {
			gap = max(gap, op.End-last)
		}
		last = op.End
	}
	return time.Duration(gap)
}

// Summary says how much was done.
func (h *History) Summary() string {
	count := map[string]int{}
	for _, op := range h.Ops {
		outcome := op.Outcome
		if outcome == "" {
			outcome = Unknown
		}
		count[op.Kind+"s "+outcome]++
	}
	words := []string{fmt.Sprintf("%d operations on registers judged", h.Judged)}
	for what, n := range count {
		words = append(words, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}
