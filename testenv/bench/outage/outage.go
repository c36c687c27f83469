// Package outage sees a database as a client does that connects anew whenever its
// connection is lost: when was there a primary that acknowledged a write. Client
// writes down what it sees, Parse reads that, and Log tells the time without.
package outage

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Interval is how often the client begins a transaction.
const Interval = 50 * time.Millisecond

// Notable is the time without an acknowledged write from which on it counts as an
// outage when several are added up: four transactions in a row.
const Notable = 4 * Interval

// What became of a transaction. One that found no primary to begin with is not
// written down.
const (
	acknowledged = "acknowledged"
	failed       = "failed"
)

// Event is one transaction. Its ID, which is also the row's, is the time at which
// it began, in ns.
type Event struct {
	ID    int64
	Ended time.Time
	// Failed says that a primary had taken it and did not acknowledge it.
	Failed bool
	// Reason is why it failed.
	Reason string
}

// Began is when the client began to connect.
func (e Event) Began() time.Time { return time.Unix(0, e.ID) }

func (e Event) String() string {
	outcome := acknowledged
	if e.Failed {
		outcome = failed
	}
	return strings.TrimSpace(fmt.Sprintf("%s %d %d %s", outcome, e.ID, e.Ended.UnixNano(), e.Reason))
}

// Log is what a client has seen, in the order in which transactions ended.
type Log []Event

// Parse reads a client's output. Lines that are no event, such as one that is
// written just now, are passed over.
func Parse(r io.Reader) (Log, error) {
	var log Log
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var outcome string
		var id, ended int64
		if n, _ := fmt.Sscan(lines.Text(), &outcome, &id, &ended); n != 3 || (outcome != acknowledged && outcome != failed) {
			continue
		}
		e := Event{ID: id, Ended: time.Unix(0, ended), Failed: outcome == failed}
		if fields := strings.SplitN(lines.Text(), " ", 4); len(fields) == 4 {
			e.Reason = fields[3]
		}
		log = append(log, e)
	}
	slices.SortStableFunc(log, func(a, b Event) int { return a.Ended.Compare(b.Ended) })
	return log, lines.Err()
}

// Acknowledged are the IDs of the rows that must be there.
func (l Log) Acknowledged() []int64 {
	var ids []int64
	for _, e := range l {
		if !e.Failed {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// AcknowledgedSince counts the writes that began after t and were acknowledged.
func (l Log) AcknowledgedSince(t time.Time) int {
	n := 0
	for _, e := range l {
		if !e.Failed && e.Began().After(t) {
			n++
		}
	}
	return n
}

// Gap is a time between two acknowledgements.
type Gap struct{ From, To time.Time }

// Length of the gap.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// Gaps are the times between two acknowledgements of which the later one came
// after t.
func (l Log) Gaps(t time.Time) []Gap {
	var gaps []Gap
	var last time.Time
	for _, e := range l {
		if e.Failed {
			continue
		}
		if !last.IsZero() && e.Ended.After(t) {
			gaps = append(gaps, Gap{last, e.Ended})
		}
		last = e.Ended
	}
	return gaps
}

// Longest is the longest gap that ends after t; the zero Gap if there is none.
func (l Log) Longest(t time.Time) Gap {
	var longest Gap
	for _, g := range l.Gaps(t) {
		if g.Length() > longest.Length() {
			longest = g
		}
	}
	return longest
}

// Total adds up the notable gaps that end after t.
func (l Log) Total(t time.Time) time.Duration {
	var total time.Duration
	for _, g := range l.Gaps(t) {
		if g.Length() >= Notable {
			total += g.Length()
		}
	}
	return total
}

// Failures are the transactions that failed after t.
func (l Log) Failures(t time.Time) Log {
	var failures Log
	for _, e := range l {
		if e.Failed && e.Ended.After(t) {
			failures = append(failures, e)
		}
	}
	return failures
}

// Outside are the events of the log whose transactions were not cut short by the
// gap: they had ended before it, or began after it.
func (l Log) Outside(gap Gap) Log {
	var outside Log
	for _, e := range l {
		if e.Ended.Before(gap.From) || e.Began().After(gap.To) {
			outside = append(outside, e)
		}
	}
	return outside
}
