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

// Two members on one node would die together: the standby moves as soon as there is a
// node for it, and the primary notices nothing.
func TestMembersAreKeptApart(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 10) // other applications do not matter
	s.removeLeftovers(t, ctx, "two")
	nodes := s.c.Nodes()[:3]
	t.Cleanup(func() {
		for _, n := range nodes {
			assert.Check(t, s.Availability(context.WithoutCancel(ctx), n, "active"))
		}
	})
	assert.NilError(t, s.Availability(ctx, nodes[1], "pause"))
	assert.NilError(t, s.Availability(ctx, nodes[2], "pause"))
	_, err := s.CLI(ctx, "create", "postgresql", "two", "--replicas", "2", "--volume-size", "500MiB", "--yes")
	assert.NilError(t, err)
	defer s.removeApplication(t, ctx, "two")
	_, err = s.healthyApart(ctx, "two", 2)
	assert.ErrorContains(t, err, "are on "+nodes[0].Name, "there was one node for both")
	_, err = s.SQL(ctx, "two", "CREATE TABLE kept AS SELECT generate_series(1, 100) id")
	assert.NilError(t, err)
	started, err := s.SQL(ctx, "two", "SELECT pg_postmaster_start_time()")
	assert.NilError(t, err)

	assert.NilError(t, s.Availability(ctx, nodes[1], "active"))
	members := s.waitApart(t, ctx, "two", 2*time.Minute)
	for _, m := range members {
		assert.Check(t, !strings.Contains(m.Message, "pinned"), m.Message)
	}
	now, err := s.SQL(ctx, "two", "SELECT pg_postmaster_start_time()")
	assert.NilError(t, err)
	assert.Equal(t, now, started, "the primary was restarted")
	history, err := s.CLI(ctx, "events", "two")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, "leaves "+nodes[0].Name+", which it shares with two-1"), history)
	s.noLabels(t, ctx, "two")
}

// Swarm puts the tasks of a new stack where the fewest are, be it all on one node.
func TestMembersOfANewApplicationAreApart(t *testing.T) {
	onlyLong(t, "TestMembersAreKeptApart")
	s, ctx := swarm(t)
	s.removeLeftovers(t, ctx, "two")
	nodes := s.c.Nodes()[:3]
	_, _ = s.Docker(ctx, "service", "rm", "filler")
	_, err := s.Docker(ctx, "service", "create", "--name", "filler", "--detach=false", "--quiet", "--replicas", "20",
		"--constraint", "node.hostname!="+nodes[2].Name, "debian:trixie-slim", "sleep", "3600")
	assert.NilError(t, err)
	t.Cleanup(func() { _, _ = s.Docker(context.WithoutCancel(ctx), "service", "rm", "filler") })
	_, err = s.CLI(ctx, "create", "postgresql", "two", "--replicas", "2", "--volume-size", "500MiB", "--yes")
	assert.NilError(t, err)
	defer s.removeApplication(t, ctx, "two")
	// Sooner than what moves members that were healthy together.
	s.waitApart(t, ctx, "two", 20*time.Second)
	history, err := s.CLI(ctx, "events", "two")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, "leaves "+nodes[2].Name), history)
	s.noLabels(t, ctx, "two")
}

// waitApart waits until an application's two members are healthy on two nodes.
func (s *suite) waitApart(t *testing.T, ctx context.Context, application string, within time.Duration) (members []product.Member) {
	t.Helper()
	err := product.Until(ctx, within, "members apart", func(ctx context.Context) error {
		var err error
		members, err = s.healthyApart(ctx, application, 2)
		return err
	})
	assert.NilError(t, err)
	return members
}

// noLabels waits until no node has a label against a member of the application.
func (s *suite) noLabels(t *testing.T, ctx context.Context, application string) {
	t.Helper()
	err := product.Until(ctx, 30*time.Second, "no labels against members", func(ctx context.Context) error {
		for _, n := range s.c.Nodes() {
			labels, err := s.Docker(ctx, "node", "inspect", n.Name, "--format", "{{json .Spec.Labels}}")
			if err != nil {
				return err
			}
			if strings.Contains(labels, "openmanage.pin."+application+"-") {
				return fmt.Errorf("%s has the labels %s", n.Name, labels)
			}
		}
		return nil
	})
	assert.NilError(t, err)
}
