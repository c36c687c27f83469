package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/testenv/product"
)

// With a longer lease the primary outlives a silence of its node that would cost it its
// place by default; with the default again, it does not.
func TestALongerLeaseOutlivesALongerSilence(t *testing.T) {
	onlyLong(t, "swarmmanager's TestANewLeaderWaitsForALongLeaseOfTheFormerOne and its neighbours")
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	members := s.apart(t, ctx)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := s.CLI(ctx, "config", "pg", "unset", "failover_lease")
		assert.Check(t, err)
	})
	_, err := s.CLI(ctx, "config", "pg", "set", "failover_lease=30s")
	assert.NilError(t, err)
	old := primary(t, members)
	err = product.Until(ctx, time.Minute, "longer leases", func(ctx context.Context) error {
		out, err := s.Docker(ctx, "config", "inspect", "openmanage.volume."+old.Volume, "--format", `{{index .Spec.Labels "openmanage.record"}}`)
		if err == nil && !strings.Contains(out, `"lease":30000000000`) {
			err = errors.New(out)
		}
		return err
	})
	assert.NilError(t, err)
	pass(ctx, 2*api.ReportInterval) // until the node has been given one
	silence := func() {
		node := s.node(t, old.Node)
		s.lookFrom(t, node)
		assert.NilError(t, node.Cut(ctx))
		pass(ctx, api.LeaseDuration+api.LeaseMargin+3*time.Second) // before Swarm gives the node up
		assert.NilError(t, node.Heal(ctx))
	}
	started := s.serverStarted(t, ctx, old)
	silence()
	after := s.sameDatabase(t, ctx, 100)
	assert.Equal(t, primary(t, after).Member, old.Member)
	assert.Equal(t, s.serverStarted(t, ctx, old), started, "the server was restarted")

	_, err = s.CLI(ctx, "config", "pg", "unset", "failover_lease")
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "restart", "pg") // a shorter one counts from the next mount on
	assert.NilError(t, err)
	old = primary(t, s.sameDatabase(t, ctx, 100))
	silence()
	after = s.sameDatabase(t, ctx, 100)
	assert.Check(t, primary(t, after).Member != old.Member)
	history, err := s.CLI(ctx, "events", "pg")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, "node "+old.Node+" does not answer"), history)
}
