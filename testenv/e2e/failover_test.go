package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/product"
)

// Invariant: a node that dies loses no member; each comes back elsewhere with its
// volume, its name and its rows. Where it was the primary's, a standby takes over long
// before Swarm gives the node up, and nothing acknowledged is lost.
func TestNodeKilledMembersComeBackElsewhereWithTheirData(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 500)

	// One member on the node, the primary.
	before := s.apart(t, ctx)
	old := primary(t, before)
	dead := s.node(t, old.Node)
	s.lookFrom(t, dead)
	c := s.startClient(t, ctx, s.other(t, dead))
	assert.NilError(t, dead.Kill(ctx))
	t.Logf("longest time without an acknowledged write: %s", c.lostNothing(t, ctx))
	moved := s.waitMoved(t, ctx, before, dead.Name)
	for i, m := range moved {
		assert.Equal(t, m.Volume, before[i].Volume)
	}
	assert.Assert(t, primary(t, moved).Member != old.Member)
	s.sameDatabase(t, ctx, 500)
	assert.NilError(t, dead.Start(ctx))
	assert.NilError(t, s.c.WaitReady(ctx))
	c.lostNothing(t, ctx)
	c.s.stopClients(ctx, "pg")
	history, err := s.CLI(ctx, "events", "pg")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, "primary instead of "+old.Member+": node "+dead.Name+" does not answer"), history)
	assert.Check(t, is.Contains(history, "moved from "+dead.Name), history)

	// Two members on one node: three members ran on two.
	crowded := ""
	on := map[string]int{}
	for _, m := range moved {
		if on[m.Node]++; on[m.Node] > 1 {
			crowded = m.Node
		}
	}
	assert.Assert(t, crowded != "", "no node has two members: %+v", moved)
	second := s.node(t, crowded)
	s.lookFrom(t, second)
	assert.NilError(t, second.Kill(ctx))
	s.waitMoved(t, ctx, moved, second.Name)
	s.sameDatabase(t, ctx, 500)
}

// waitMoved waits until every member that was on node is healthy elsewhere, and
// returns where all are.
func (s *suite) waitMoved(t *testing.T, ctx context.Context, before []product.Member, node string) []product.Member {
	t.Helper()
	var now []product.Member
	err := product.Until(ctx, 3*time.Minute, "members of "+node+" on other nodes", func(ctx context.Context) error {
		var err error
		if now, err = s.Members(ctx, "pg"); err != nil {
			return err
		}
		for i, m := range now {
			if m.Health != "healthy" || before[i].Node == node && m.Node == node {
				return fmt.Errorf("%s is %s on %s: %s", m.Member, m.State, m.Node, m.Message)
			}
		}
		return nil
	})
	assert.NilError(t, err)
	return now
}

// Two tasks for one member: one runs the engine, the other names who holds it.
func secondTaskOfAMemberSaysWhoHoldsTheVolume(t *testing.T) {
	s, ctx := swarm(t)
	before := s.database(t, ctx, 50)
	_, err := s.Docker(ctx, "service", "scale", "--detach", "pg_1=2")
	assert.NilError(t, err)
	defer func() {
		_, err := s.Docker(ctx, "service", "scale", "--detach", "pg_1=1")
		assert.Check(t, err)
	}()
	err = product.Until(ctx, 2*time.Minute, "the second task's reason", func(ctx context.Context) error {
		out, err := s.Docker(ctx, "service", "ps", "pg_1", "--no-trunc", "--format", "{{.Name}} {{.Error}}")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "is held by") || !strings.Contains(out, before[0].Node) {
			return fmt.Errorf("tasks: %s", out)
		}
		return nil
	})
	assert.NilError(t, err)
	// The first one was not disturbed.
	s.sameDatabase(t, ctx, 50)
	after, err := s.Members(ctx, "pg")
	assert.NilError(t, err)
	assert.Equal(t, after[0].Node, before[0].Node)
}

// kill -9 of the plugin under running databases: they do not even notice.
func TestPluginKilledWhileMountedDisturbsNoDatabase(t *testing.T) {
	s, ctx := swarm(t)
	members := s.database(t, ctx, 50)
	started := s.startTime(t, ctx)
	for range 2 {
		for _, n := range s.c.Nodes() {
			assert.NilError(t, n.KillPlugin(ctx, "openmanage"))
		}
		// Docker starts it again within 2 s, the lease lasts 5 s: a plugin that is
		// killed again before it has reported would be one that is absent for longer.
		s.pluginsReport(t, ctx)
		s.sameDatabase(t, ctx, 50)
	}
	assert.Equal(t, s.startTime(t, ctx), started, "the server was restarted")

	// And the plugin still knows what it holds: the member can be moved.
	node := s.node(t, members[0].Node)
	s.lookFrom(t, node) // a drained node has no manager to ask
	_, err := s.Docker(ctx, "node", "update", "--availability", "drain", node.Name)
	assert.NilError(t, err)
	s.waitMoved(t, ctx, members, node.Name)
	s.sameDatabase(t, ctx, 50)
}

// pluginsReport waits until each node's plugin has run for a while: it reports every
// second.
func (s *suite) pluginsReport(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, n := range s.c.Nodes() {
		err := product.Until(ctx, time.Minute, "plugin of "+n.Name+" running", func(ctx context.Context) error {
			out, _, err := n.Exec(ctx, "sh", "-c", "ps -eo etimes,args | grep '[v]olume-plugin' | sort -n | head -1")
			fields := strings.Fields(out)
			if err == nil && (len(fields) == 0 || len(fields[0]) == 1 && fields[0] < "5") {
				err = fmt.Errorf("processes: %q", out)
			}
			return err
		})
		assert.NilError(t, err)
	}
}

func (s *suite) startTime(t *testing.T, ctx context.Context) string {
	t.Helper()
	out, err := s.SQL(ctx, "pg", "SELECT pg_postmaster_start_time()")
	assert.NilError(t, err)
	return out
}

// A restart of dockerd, in order and by kill -9, needs no hand.
func TestEngineRestartBringsTheSameMembersBack(t *testing.T) {
	s, ctx := swarm(t)
	ways := []bool{true}
	if long() {
		ways = []bool{false, true}
	}
	for _, kill := range ways {
		members := s.database(t, ctx, 70)
		node := s.node(t, members[0].Node)
		assert.NilError(t, node.RestartDocker(ctx, kill))
		assert.NilError(t, s.c.WaitReady(ctx))
		s.sameDatabase(t, ctx, 70)
	}
}

// All nodes lose power at once.
func TestAllNodesAtOnceComeBackWithTheSameDatabase(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 90)
	for _, n := range s.c.Nodes() {
		assert.NilError(t, n.Kill(ctx))
	}
	for _, n := range s.c.Nodes() {
		assert.NilError(t, n.Start(ctx))
	}
	assert.NilError(t, s.c.WaitReady(ctx))
	s.sameDatabase(t, ctx, 90)
}
