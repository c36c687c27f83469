package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/testenv/product"
)

// swarmPort is where Swarm's managers speak with each other and with the nodes.
const swarmPort = 2377

// Swarm has no leader and OpenManage no manager: the primary goes on, and nobody
// notices. One link cut on top of that, and it stops: nobody can be asked any more
// whether another may be made the primary.
func TestWithoutALeaderThePrimaryGoesOnAndStopsAtACut(t *testing.T) {
	s, ctx := swarm(t)
	alone := 3 * api.LeaseDuration
	if long() {
		alone = 10 * time.Minute
	}
	s.database(t, ctx, 100)
	before := primary(t, s.apart(t, ctx))
	node := s.node(t, before.Node)
	c := s.startClients(t, ctx, 1)
	started := s.serverStarted(t, ctx, before)

	for _, n := range s.c.Nodes() {
		assert.NilError(t, n.CutPort(ctx, swarmPort))
	}
	err := product.Until(ctx, 2*time.Minute, "a Swarm without a leader", func(ctx context.Context) error {
		if out, err := s.Docker(ctx, "node", "ls"); err == nil {
			return fmt.Errorf("it still lists its nodes: %s", out)
		}
		return nil
	})
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "ps", "pg")
	assert.Assert(t, err != nil)
	assert.Check(t, is.Contains(err.Error(), "leader"))
	t.Logf("ps: %v", err)
	for _, n := range s.c.Nodes() { // nobody starts another
		_, _, err := n.Exec(ctx, "sh", "-c", "docker kill "+managerContainer)
		assert.NilError(t, err)
	}

	began := boottime()
	pass(ctx, alone)
	c.writesOn(t, ctx)
	gap := c.Gap(began)
	t.Logf("longest time without an acknowledged row in %s without a leader: %s", alone, gap)
	assert.Assert(t, gap < api.LeaseDuration, gap)
	assert.Equal(t, s.serverStarted(t, ctx, before), started, "the server was restarted")

	assert.NilError(t, node.Cut(ctx, s.other(t, node)))
	cut := boottime()
	err = product.Until(ctx, 30*time.Second, "no primary", func(ctx context.Context) error {
		if err := c.hear(ctx); err != nil {
			return err
		}
		if _, err := s.serverStartedAt(ctx, before); err == nil {
			return errors.New("its server still runs")
		}
		return nil
	})
	assert.NilError(t, err)
	assert.NilError(t, c.hear(ctx)) // what was seen until then
	t.Logf("the server is gone %s after the cut", time.Duration(boottime()-cut).Round(100*time.Millisecond))
	seen := len(c.Sightings)
	pass(ctx, 2*api.LeaseDuration) // what must not happen
	assert.NilError(t, c.hear(ctx))
	assert.Assert(t, is.Len(c.Sightings[seen:], 0), "somebody is the primary")

	assert.NilError(t, s.c.Heal(ctx))
	s.sameDatabase(t, ctx, 100)
	c.lostNothing(t, ctx)
	c.finish(t, ctx)
}

// serverStarted asks a member's own server since when it runs, on its node: Swarm may
// have no leader to ask.
func (s *suite) serverStarted(t *testing.T, ctx context.Context, m product.Member) string {
	t.Helper()
	out, err := s.serverStartedAt(ctx, m)
	assert.NilError(t, err)
	return out
}

func (s *suite) serverStartedAt(ctx context.Context, m product.Member) (string, error) {
	n, err := s.named(m.Node)
	if err != nil {
		return "", err
	}
	out, _, err := n.Exec(ctx, "sh", "-c", "timeout 3 docker exec "+containerOf(m.Member)+" psql -U postgres -XAtc 'SELECT pg_postmaster_start_time()'")
	return strings.TrimSpace(out), err
}

// The primary is lost together with a standby that may have acknowledged what the
// other has not: nobody is promoted. ps says what to do, and promote --force does it
// after it has said what can be lost.
func TestNobodyIsPromotedWhileAVoterIsMissing(t *testing.T) {
	s, ctx := swarm(t)
	if long() {
		s.withFailpoints(t, ctx)
	}
	s.database(t, ctx, 100)
	members := s.sameDatabase(t, ctx, 100)
	former := primary(t, members)
	var standbys []product.Member
	for _, m := range members {
		if m.Role == "standby" {
			standbys = append(standbys, m)
		}
	}
	assert.Assert(t, is.Len(standbys, 2))
	missing, left := standbys[0], standbys[1]
	// Nodes that take no new tasks: what is killed stays away.
	nodes := func(ctx context.Context, availability string) {
		for _, n := range s.c.Nodes() {
			err := product.Until(ctx, time.Minute, n.Name+" "+availability, func(ctx context.Context) error {
				_, err := s.Docker(ctx, "node", "update", "--availability", availability, n.Name)
				return err
			})
			assert.Check(t, err)
		}
	}
	nodes(ctx, "pause")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		nodes(ctx, "active")
	})
	// Both at once, before the primary stops to count on the standby.
	for _, m := range []product.Member{missing, former} {
		_, _, err := s.node(t, m.Node).Exec(ctx, "sh", "-c", "docker kill "+containerOf(m.Member))
		assert.NilError(t, err)
	}

	says := func(ctx context.Context) (string, error) {
		stdout, stderr, err := s.Input(ctx, nil, "openmanage", "ps", "pg")
		return stdout + stderr, err
	}
	const advice = "docker openmanage promote pg --force"
	err := product.Until(ctx, 2*time.Minute, "ps says what to do", func(ctx context.Context) error {
		out, err := says(ctx)
		if err == nil && (!strings.Contains(out, advice) || !strings.Contains(out, missing.Member+" may have acknowledged writes that no other has")) {
			err = errors.New(out)
		}
		return err
	})
	assert.NilError(t, err)
	standby := func() {
		t.Helper()
		out, _, err := s.node(t, left.Node).Exec(ctx, "sh", "-c", "docker exec "+containerOf(left.Member)+" psql -U postgres -XAtc 'SELECT pg_is_in_recovery()'")
		assert.NilError(t, err)
		assert.Equal(t, strings.TrimSpace(out), "t", "a standby was promoted that may lack acknowledged writes")
	}
	standby()

	for _, args := range [][]string{{"promote", "pg"}, {"promote", "pg", "--force"}} {
		_, err := s.CLI(ctx, args...)
		assert.ErrorContains(t, err, "would be lost, for good")
		assert.Check(t, is.Contains(err.Error(), former.Member))
		assert.Check(t, is.Contains(err.Error(), missing.Member))
	}
	pass(ctx, 2*api.LeaseDuration) // what must not happen
	standby()

	if long() { // the leading manager dies at each of its steps
		died := s.killAt(t, ctx, "handover:recorded", "primary:recorded", "operation:ending", "operation:ended")
		defer func() {
			assert.DeepEqual(t, died(), []string{"handover:recorded", "operation:ended", "operation:ending", "primary:recorded"})
		}()
		go func() { // Swarm starts no manager again on nodes that take no tasks
			_ = product.Until(ctx, time.Minute, "a manager that died", func(ctx context.Context) error {
				out, _, err := s.node(t, left.Node).Exec(ctx, "ls", failpoints)
				if err == nil && strings.Contains(out, "handover:recorded") {
					err = errors.New("not yet")
				}
				return err
			})
			nodes(ctx, "active")
		}()
	}
	out, err := s.CLI(ctx, "promote", "pg", "--force", "--yes")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(out, left.Member))
	standing, err := s.Members(ctx, "pg")
	assert.NilError(t, err)
	assert.Equal(t, primary(t, standing).Member, left.Member)
	nodes(ctx, "active")
	after := s.sameDatabase(t, ctx, 100)
	assert.Equal(t, primary(t, after).Member, left.Member)
}
