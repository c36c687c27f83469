package history

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// of makes a history: each operation at its place begins and ends by itself unless
// it says otherwise.
func of(ops ...Op) *History {
	h := &History{Ops: map[int64]Op{}}
	for i, op := range ops {
		if op.ID == 0 {
			op.ID = int64(1000 + i)
		}
		if op.Begin == 0 {
			op.Begin = int64(10 * (i + 1))
		}
		if op.End == 0 && op.Outcome != "" {
			op.End = op.Begin + 5
		}
		h.add(op)
	}
	return h
}

func TestRegistersAreLinearizable(t *testing.T) {
	write := func(id int64, outcome string) Op { return Op{Kind: Write, ID: id, Outcome: outcome} }
	read := func(seen int64) Op { return Op{Kind: Read, Seen: seen, Outcome: OK} }
	swap := func(id, old, seen int64, outcome string) Op {
		return Op{Kind: Swap, ID: id, Old: old, Seen: seen, Outcome: outcome}
	}
	for _, tc := range []struct {
		doc string
		bad bool
		ops []Op
	}{
		{"what was written is read", false, []Op{read(0), write(1, OK), read(1), write(2, OK), read(2)}},
		{"a stale read", true, []Op{write(1, OK), write(2, OK), read(1)}},
		{"a lost write", true, []Op{write(1, OK), read(0)}},
		{"a read of what was never written", true, []Op{write(1, OK), read(7)}},
		{"a read while it is written may see either", false, []Op{{Kind: Write, ID: 1, Begin: 1, End: 100, Outcome: OK}, {Kind: Read, Seen: 0, Begin: 5, End: 6, Outcome: OK}, {Kind: Read, Seen: 1, Begin: 50, End: 60, Outcome: OK}}},
		{"and not the older after the newer", true, []Op{{Kind: Write, ID: 1, Begin: 1, End: 100, Outcome: OK}, {Kind: Read, Seen: 1, Begin: 5, End: 6, Outcome: OK}, {Kind: Read, Seen: 0, Begin: 50, End: 60, Outcome: OK}}},
		{"a swap", false, []Op{write(1, OK), swap(2, 1, 1, OK), read(2)}},
		{"a swap that found another value", false, []Op{write(1, OK), swap(2, 9, 1, OK), read(1)}},
		{"two swaps of one value", true, []Op{write(1, OK), swap(2, 1, 1, OK), swap(3, 1, 1, OK)}},
		{"an unknown write that happened later", false, []Op{write(1, OK), write(2, Unknown), read(1), read(1), read(2)}},
		{"an unknown write that never happened", false, []Op{write(1, OK), write(2, Unknown), read(1)}},
		{"an unknown write that came and went", true, []Op{write(1, OK), write(2, Unknown), read(2), read(1)}},
		{"a write of a client that died", false, []Op{write(1, OK), write(2, ""), read(2)}},
		{"an unknown swap", false, []Op{write(1, OK), swap(2, 1, 0, Unknown), read(1), read(2)}},
		{"an unknown swap of another value", true, []Op{write(1, OK), swap(2, 9, 0, Unknown), read(2)}},
		{"a write that failed and is seen", true, []Op{write(1, OK), write(2, Failed), read(2)}},
		{"a read that failed says nothing", false, []Op{write(1, OK), {Kind: Read, Seen: 9, Outcome: Unknown}}},
	} {
		problems := of(tc.ops...).Registers(1 << 60)
		assert.Check(t, is.Equal(len(problems) > 0, tc.bad), "%s: %v", tc.doc, problems)
	}
}

func TestRegistersInUseAreJudgedLater(t *testing.T) {
	h := of(Op{Kind: Write, ID: 1, Outcome: OK}, Op{Kind: Read, Seen: 0, Outcome: OK})
	assert.Equal(t, len(h.Registers(22)), 0)
	assert.Equal(t, len(h.Ops), 2)
	assert.Equal(t, len(h.Registers(25)), 1)
	assert.Equal(t, len(h.Ops), 0)
}

// As busy as a register ever is, with more unknown outcomes than a round has: the
// judge comes to an end, and sees one value that was swapped.
func TestManyUnknownOutcomesAreJudged(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var ops []Op
	value := int64(0)
	at := int64(0)
	for i := range 400 {
		at += 10
		op := Op{ID: int64(i + 1), Begin: at - random.Int64N(30), End: at + random.Int64N(30), Outcome: OK}
		switch random.IntN(3) {
		case 0:
			op.Kind, op.Seen = Read, value
		case 1:
			op.Kind, op.Old, op.Seen = Swap, value, value
			value = op.ID
		case 2:
			op.Kind = Write
			if random.IntN(4) == 0 {
				op.Outcome = Unknown
				if random.IntN(2) == 0 {
					ops = append(ops, op)
					continue
				}
			}
			value = op.ID
		}
		ops = append(ops, op)
	}
	assert.Equal(t, strings.Join(of(ops...).Registers(1<<60), "\n"), "")
	for i := 200; i < len(ops); i++ {
		if ops[i].Kind == Read {
			ops[i].Seen = ops[10].ID
			break
		}
	}
	assert.Equal(t, len(of(ops...).Registers(1<<60)), 1)
}

func TestLostRowsAreSeen(t *testing.T) {
	h := of(Op{Kind: Append, ID: 1, Outcome: OK}, Op{Kind: Append, ID: 2, Outcome: OK}, Op{Kind: Append, ID: 3, Outcome: Unknown}, Op{Kind: Append, ID: 4, Outcome: Failed}, Op{Kind: Append, ID: 5})
	assert.Equal(t, len(h.Lost(map[int64]bool{1: true, 2: true})), 0)
	assert.Equal(t, len(h.Lost(map[int64]bool{1: true, 2: true, 3: true, 5: true})), 0)
	assert.Equal(t, len(h.Lost(map[int64]bool{1: true})), 1)
	assert.Equal(t, len(h.Lost(map[int64]bool{1: true, 2: true, 4: true})), 1)
}

func TestTwoPrimariesAreSeen(t *testing.T) {
	says := func(member string, timeline int, ms int64) Sighting {
		return Sighting{member, timeline, ms * 1000, false}
	}
	wrote := func(member string, timeline int, ms int64) Sighting {
		return Sighting{member, timeline, ms * 1000, true}
	}
	for _, tc := range []struct {
		doc string
		bad int
		all []Sighting
	}{
		{"one after the other", 0, []Sighting{wrote("a", 1, 1000), says("a", 1, 1100), says("b", 2, 1800), wrote("b", 2, 1900), wrote("a", 3, 3000)}},
		{"a row beside the next primary", 1, []Sighting{wrote("a", 1, 1000), says("b", 2, 1050), wrote("a", 1, 1160), wrote("b", 2, 1200)}},
		{"a row at the same moment", 1, []Sighting{wrote("a", 1, 1000), wrote("a", 1, 1100), wrote("b", 2, 1100)}},
		{"one that wakes up says so for a moment", 0, []Sighting{wrote("a", 1, 1000), wrote("b", 2, 9000), says("a", 1, 20000), says("a", 1, 20050), wrote("b", 2, 30000)}},
		{"one that wakes up and stays", 1, []Sighting{wrote("a", 1, 1000), wrote("b", 2, 9000), says("a", 1, 20000), says("a", 1, 20600)}},
		{"both on one timeline", 1, []Sighting{wrote("a", 2, 1000), wrote("b", 2, 1100), wrote("a", 2, 1200)}},
		{"two that were promoted apart, one after the other", 0, []Sighting{says("a", 2, 1000), wrote("b", 2, 5000)}},
	} {
		problems, _ := TwoPrimaries(tc.all)
		assert.Check(t, is.Len(problems, tc.bad), tc.doc)
	}
}

func TestLogsAreReadInPieces(t *testing.T) {
	var h History
	begun, _ := json.Marshal(Line{Op: &Op{ID: 1, Kind: Append, Begin: 1}})
	ended, _ := json.Marshal(Line{Op: &Op{ID: 1, Kind: Append, Begin: 1, End: 2e9, Outcome: OK, Member: "a", Timeline: 1, Clock: 5}})
	next, _ := json.Marshal(Line{Op: &Op{ID: 2, Kind: Append, Begin: 3e9, End: 4e9, Outcome: OK, Member: "a", Timeline: 1, Clock: 7}})
	log := string(begun) + "\n" + string(ended) + "\n" + `{"op":{"id":` + string(next) + "\n" + string(next[:20])
	read := h.Add([]byte(log))
	assert.Equal(t, read, len(log)-20)
	assert.Equal(t, len(h.Ops), 2, "a line after a torn one counts")
	assert.Equal(t, h.Ops[1].Outcome, OK)
	assert.Equal(t, len(h.Sightings), 2)
	assert.Equal(t, h.Gap(0), 2*time.Second)
}
