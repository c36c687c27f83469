package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Lost compares the rows that are there with what the clients were told about them.
func (h *History) Lost(present map[int64]bool) (problems []string) {
	for _, op := range h.Ops {
		switch {
		case op.Kind != Append:
		case op.Outcome == OK && !present[op.ID]:
			problems = append(problems, "lost though acknowledged: "+op.String())
		case op.Outcome == Failed && present[op.ID]:
			problems = append(problems, "there though it failed: "+op.String())
		}
	}
	slices.Sort(problems)
	return problems
}

// A register starts with 0 and knows three operations.
var register = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, _ any) (bool, any) {
		value, op := state.(int64), input.(Op)
		known := op.Outcome == OK
		switch op.Kind {
		case Write:
			return true, op.ID
		case Swap:
			if value == op.Old {
				return !known || op.Seen == value, op.ID
			}
		}
		return !known || op.Seen == value, value
	},
}

// judgeTime is how long the search for an order of the operations may take.
const judgeTime = time.Minute

// Registers tells of the registers for which there is no order of the operations
// that explains what clients saw: each at one instant between its begin and its end.
// An operation whose outcome is not known may have its instant at any time after its
// begin, or never.
//
// Of registers that were used after since (CLOCK_BOOTTIME) nothing is said yet.
// What was judged is forgotten.
func (h *History) Registers(since int64) (problems []string) {
	keys := map[int][]Op{}
	busy := map[int]bool{}
	for _, op := range h.Ops {
		if op.Kind == Append {
			continue
		}
		keys[op.Key] = append(keys[op.Key], op)
		busy[op.Key] = busy[op.Key] || max(op.Begin, op.End) > since
	}
	for key, ops := range keys {
		if busy[key] {
			continue
		}
		if problem := judgeRegister(ops); problem != "" {
			problems = append(problems, fmt.Sprintf("register %d: %s", key, problem))
		}
		for _, op := range ops {
			delete(h.Ops, op.ID)
		}
		h.Judged += len(ops)
	}
	return problems
}

func judgeRegister(ops []Op) string {
	slices.SortFunc(ops, func(a, b Op) int { return cmp.Compare(a.Begin, b.Begin) })
	// Of what is unknown, only a value that somebody saw matters: values are unique,
	// so one that nobody saw was overwritten unseen, or never written, and it is all
	// the same. One that was seen was written before it was seen. Without these two
	// the search would not end: each open operation doubles it.
	seen := map[int64]int64{}
	for _, op := range ops {
		if op.Outcome == OK && op.Kind != Write {
			seen[op.Seen] = min(op.End, cmp.Or(seen[op.Seen], math.MaxInt64))
		}
	}
	var all []porcupine.Operation
	for _, op := range ops {
		switch end, was := seen[op.ID]; {
		case op.Outcome == OK:
			all = append(all, porcupine.Operation{Input: op, Call: op.Begin, Return: op.End})
		case op.Outcome != Failed && op.Kind != Read && was:
			all = append(all, porcupine.Operation{Input: op, Call: op.Begin, Return: max(end, op.Begin)})
		}
	}
	switch porcupine.CheckOperationsTimeout(register, all, judgeTime) {
	case porcupine.Ok:
		return ""
	case porcupine.Illegal:
		var b strings.Builder
		fmt.Fprintf(&b, "no order explains these %d operations:", len(ops))
		for _, op := range ops {
			b.WriteString("\n  " + op.String())
		}
		return b.String()
	}
	return fmt.Sprintf("no order of the %d operations was found in %s: it is not known whether there is one", len(ops), judgeTime)
}

// String is for people.
func (op Op) String() string {
	what := op.Kind
	switch op.Kind {
	case Swap:
		what += fmt.Sprintf(" %d for %d", op.Old, op.ID)
	case Write, Append:
		what += fmt.Sprintf(" %d", op.ID)
	}
	if op.Outcome == OK && (op.Kind == Read || op.Kind == Swap) {
		what += fmt.Sprintf(" saw %d", op.Seen)
	}
	return fmt.Sprintf("%.3f–%.3f %s on %s: %s: %s %s", float64(op.Begin)/1e9, float64(op.End)/1e9, op.Worker, op.Member, what, cmp.Or(op.Outcome, "cut off"), op.Error)
}

// lingers is for how long a primary that was paused may still call itself one after
// it woke: until its agent has looked at the clock (0.05 s) and its processes are
// gone. It acknowledges nothing meanwhile.
const lingers = 500 * time.Millisecond

// reign is the time in which a member was the primary on one timeline.
type reign struct {
	member   string
	timeline int
	seen     []Sighting
}

// TwoPrimaries tells of members that were the primary at the same time. The reign
// of a member on one timeline begins with its first sighting. Once another's has
// begun it may accept no row, and say that it is the primary for a moment only.
// spoke is the longest such moment.
func TwoPrimaries(sightings []Sighting) (problems []string, spoke time.Duration) {
	by := map[string]*reign{}
	for _, s := range sightings {
		name := fmt.Sprintf("%s/%d", s.Member, s.Timeline)
		if by[name] == nil {
			by[name] = &reign{member: s.Member, timeline: s.Timeline}
		}
		by[name].seen = append(by[name].seen, s)
	}
	var reigns []*reign
	for _, r := range by {
		slices.SortFunc(r.seen, func(a, b Sighting) int { return cmp.Compare(a.Clock, b.Clock) })
		reigns = append(reigns, r)
	}
	slices.SortFunc(reigns, func(a, b *reign) int { return cmp.Compare(a.seen[0].Clock, b.seen[0].Clock) })
	for i, former := range reigns {
		if i+1 == len(reigns) {
			break
		}
		next := reigns[i+1]
		begun := next.seen[0].Clock
		first, _ := slices.BinarySearchFunc(former.seen, begun, func(s Sighting, at int64) int { return cmp.Compare(s.Clock, at) })
		late := former.seen[first:]
		if len(late) == 0 {
			continue
		}
		span := time.Duration(late[len(late)-1].Clock-late[0].Clock) * time.Microsecond
		spoke = max(spoke, span)
		where := fmt.Sprintf("%s (timeline %d), after %s (timeline %d) had become the primary at %d", former.member, former.timeline, next.member, next.timeline, begun)
		if w := slices.IndexFunc(late, func(s Sighting) bool { return s.Wrote }); w >= 0 {
			problems = append(problems, fmt.Sprintf("two primaries: %s, accepted a row at %d", where, late[w].Clock))
		}
		if span > lingers {
			problems = append(problems, fmt.Sprintf("two primaries: %s, called itself the primary for %s, from %d on", where, span, late[0].Clock))
		}
	}
	return problems, spoke
}
