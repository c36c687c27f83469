package delta

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

// A node changes what it has to say at random, and reports; reports and answers are
// lost, come late, twice and in another order, and leaders change. Whenever a leader
// adds a report, it knows what the node would have said in full.
func TestWhatTheLeaderMakesOfReportsIsWhatTheNodeHasToSay(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 0))
		node := &Sender{}
		leaders := [2]State{}
		now := api.Report{Boot: "a", Volumes: []api.HeldVolume{}, Members: []api.MemberStatus{}}
		full := map[uint64]api.Report{}
		var sent []api.Report
		added, small := 0, 0
		for range 200 {
			mutate(random, &now)
			r := overTheWire(t, node.Next(now))
			full[r.Seq] = now
			sent = append(sent, r)
			for len(sent) > 0 && random.IntN(3) > 0 {
				i := random.IntN(len(sent))
				r := sent[i]
				if random.IntN(10) > 0 { // else it comes once more
					sent = append(sent[:i], sent[i+1:]...)
				}
				if random.IntN(10) == 0 {
					continue // lost
				}
				leader := &leaders[0]
				if random.IntN(20) == 0 {
					leaders[0], leaders[1] = leaders[1], leaders[0]
				}
				if random.IntN(40) == 0 {
					*leader = State{}
				}
				answer := api.ReportAnswer{Seq: r.Seq}
				if leader.Newer(r) {
					next, whole := leader.Add(r)
					if answer.Again = !whole; whole {
						*leader = next
						want, _ := State{}.Add(full[r.Seq])
						assert.Assert(t, slices.Equal(next.Report.Volumes, want.Report.Volumes), "seed %d: %v, not %v", seed, next.Report.Volumes, want.Report.Volumes)
						assert.Assert(t, slices.Equal(next.Report.Members, want.Report.Members), "seed %d: %v, not %v", seed, next.Report.Members, want.Report.Members)
						added++
						if r.Since != 0 {
							small++
						}
					}
				}
				if random.IntN(10) > 0 {
					node.Answered(r, answer)
				}
			}
		}
		assert.Assert(t, added > 20 && small > 5, "%d reports were added, %d of them in part", added, small)
	}
}

func overTheWire(t *testing.T, r api.Report) (out api.Report) {
	t.Helper()
	doc, err := json.Marshal(r)
	assert.NilError(t, err)
	assert.NilError(t, json.Unmarshal(doc, &out))
	return out
}

// mutate has things come, go, change and change back.
func mutate(random *rand.Rand, r *api.Report) {
	var volumes []api.HeldVolume
	var members []api.MemberStatus
	for i := range 6 {
		name := fmt.Sprintf("v%d", i)
		if random.IntN(8) > 0 {
			volumes = append(volumes, api.HeldVolume{Name: name, Epoch: uint64(random.IntN(2))})
		}
		if random.IntN(8) > 0 {
			members = append(members, api.MemberStatus{Volume: name, Position: uint64(random.IntN(2))})
		}
	}
	random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	r.Volumes, r.Members = volumes, members
}

func TestWhatDoesNotChangeIsNotSentAgain(t *testing.T) {
	node := &Sender{}
	full := api.Report{Boot: "a", Volumes: []api.HeldVolume{{Name: "x"}}, Members: []api.MemberStatus{{Volume: "x"}}}
	r := node.Next(full)
	assert.Equal(t, len(r.Members), 1)
	assert.Assert(t, !node.Answered(r, api.ReportAnswer{Seq: r.Seq}))
	r = node.Next(full)
	assert.Equal(t, r.Since, uint64(1))
	assert.Equal(t, len(r.Members)+len(r.Volumes), 0)
}

func TestAnOlderManagerIsToldAll(t *testing.T) {
	node := &Sender{}
	full := api.Report{Boot: "a", Volumes: []api.HeldVolume{{Name: "x"}}}
	r := node.Next(full)
	node.Answered(r, api.ReportAnswer{Seq: r.Seq})
	r = node.Next(full)
	node.Answered(r, api.ReportAnswer{}) // its answers have no number
	r = node.Next(full)
	assert.Equal(t, r.Since, uint64(0))
	assert.Equal(t, len(r.Volumes), 1, "it would take what is left out for released")
}

func TestAnotherLeaderAsksForAll(t *testing.T) {
	node := &Sender{}
	full := api.Report{Boot: "a", Volumes: []api.HeldVolume{{Name: "x"}}}
	r := node.Next(full)
	node.Answered(r, api.ReportAnswer{Seq: r.Seq})
	r = node.Next(full)
	_, whole := State{}.Add(r)
	assert.Assert(t, !whole)
	assert.Assert(t, node.Answered(r, api.ReportAnswer{Seq: r.Seq, Again: true}))
	r = node.Next(full)
	_, whole = State{}.Add(r)
	assert.Assert(t, whole)
}
