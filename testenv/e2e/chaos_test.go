package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
)

// shortRounds are those of `make test`: what is most likely to go wrong, on random
// nodes at random times. With `make chaos` all faults are drawn.
var shortRounds = [][]string{
	{"node paused", "leading manager killed"},
	{"node cut from its peers but not from the leader", "switchover"},
	{"disk full", "container killed"},
	{"node killed", "plugin killed"},
}

// fromEnvironment returns a number that repeats or shortens a run.
func fromEnvironment(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// Whatever happens to nodes, links, containers, servers, disks and our own parts, two
// things at a time, and whatever users do meanwhile: no row that was acknowledged is
// lost, registers are registers, and there is one primary at a time. Clients work on
// all nodes; those that are cut off, paused or killed count too.
//
// OPENMANAGE_SEED repeats the plans of a run, as far as members are where they were;
// OPENMANAGE_ROUNDS says how many rounds are drawn.
func TestChaos(t *testing.T) {
	s, ctx := swarm(t)
	drawn := uint64(0)
	if long() {
		drawn = 100
	}
	drawn = fromEnvironment("OPENMANAGE_ROUNDS", drawn)
	rounds, longest := int(drawn), 25*time.Second
	if drawn == 0 {
		rounds, longest = len(shortRounds), 9*time.Second
	}
	seed := fromEnvironment("OPENMANAGE_SEED", uint64(time.Now().UnixNano()))
	t.Logf("OPENMANAGE_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s.database(t, ctx, 100)
	c := s.startClients(t, ctx, 2)
	for round := range rounds {
		var names []string
		if drawn == 0 {
			names = shortRounds[round]
		}
		began := boottime()
		strokes := plan(random, s.situation(t, ctx), longest, names...)
		s.lookAway(strokes)
		var group sync.WaitGroup
		for _, st := range strokes {
			t.Logf("round %d: %s", round, st)
			group.Go(func() {
				if err := s.strike(ctx, st); err != nil {
					t.Logf("round %d: %s: %v", round, st.fault, err)
				}
			})
		}
		group.Wait()
		_, err := s.settle(ctx, strokes)
		assert.NilError(t, err)
		c.lostNothing(t, ctx)
		t.Logf("round %d: %s, longest time without an acknowledged row %s", round, time.Duration(boottime()-began).Round(time.Second), c.Gap(began).Round(time.Millisecond))
	}
	s.sameDatabase(t, ctx, 100)
	c.finish(t, ctx)
	t.Logf("%d rounds, longest time without an acknowledged row %s: %s", rounds, c.Gap(0).Round(time.Millisecond), c.Summary())
}

// situation waits until all is well and says how it is.
func (s *suite) situation(t *testing.T, ctx context.Context) situation {
	t.Helper()
	members, err := s.WaitHealthy(ctx, "pg", 3, 5*time.Minute)
	assert.NilError(t, err)
	members, err = s.spread(ctx, members)
	assert.NilError(t, err)
	leader, err := s.c.Leader(ctx)
	assert.NilError(t, err)
	at := situation{leader: leader.Name, primary: primary(t, members).Member, on: map[string]string{}}
	for _, m := range members {
		at.on[m.Member] = m.Node
	}
	for _, n := range s.c.Nodes() {
		at.nodes = append(at.nodes, n.Name)
	}
	return at
}

// lookAway has commands go through a node that none of the strokes takes away.
func (s *suite) lookAway(strokes []stroke) {
	for _, n := range s.c.Nodes() {
		if !slices.ContainsFunc(strokes, func(st stroke) bool { return st.node == n.Name }) {
			s.Via = n
			return
		}
	}
}

func TestPlansAreRepeatedBySeedAndHitEverything(t *testing.T) {
	at := situation{leader: "node1", primary: "pg-2", on: map[string]string{"pg-1": "node1", "pg-2": "node2", "pg-3": "node3"}, nodes: []string{"node1", "node2", "node3"}}
	draw := func(seed uint64) (plans string, hit map[string]int) {
		random := rand.New(rand.NewPCG(seed, 0))
		hit = map[string]int{}
		for range 300 {
			strokes := plan(random, at, 25*time.Second)
			assert.Assert(t, is.Len(strokes, 2))
			for _, st := range strokes {
				hit[st.fault]++
				assert.Assert(t, st.lasts > api.LeaseDuration, st.String())
				assert.Assert(t, st.other == "" || st.other != st.node, st.String())
			}
			if faults[strokes[0].fault].whole && faults[strokes[1].fault].whole {
				assert.Assert(t, strokes[0].node != strokes[1].node, "%v", strokes)
			}
			plans += fmt.Sprintln(strokes)
		}
		return plans, hit
	}
	plans, hit := draw(7)
	again, _ := draw(7)
	assert.Equal(t, plans, again)
	others, _ := draw(8)
	assert.Assert(t, plans != others)
	for name := range faults {
		assert.Check(t, hit[name] > 0, "%s never happens", name)
	}
	for _, names := range shortRounds {
		for i, st := range plan(rand.New(rand.NewPCG(1, 0)), at, 9*time.Second, names...) {
			assert.Equal(t, st.fault, names[i])
		}
	}
}
