package swarmmanager

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// heldByW1 is a leader with a clock of the test whose volume data node w1 holds,
// and which Swarm wants on w2 because it does not hear w1.
func heldByW1(t *testing.T) (*served, *manual) {
	t.Helper()
	s := serveManager(t)
	c := &manual{t: bootClock()}
	m := s.manager
	m.leases.now, m.volumes.now, m.leadership.now = c.now, c.now, c.now
	m.leadership.lastBeat = c.t + 24*time.Hour
	m.volumes.barNode = func(context.Context, string) error { return nil }
	_, err := m.volumes.create(t.Context(), api.CreateRequest{Name: "data"})
	assert.NilError(t, err)
	_, err = m.volumes.attach(t.Context(), "w1", api.AttachRequest{Name: "data", MountID: "m", Location: "here"})
	assert.NilError(t, err)
	s.swarm.down, s.swarm.task = "w1", "w2"
	m.nodes.at = time.Time{} // look again
	return s, c
}

var fromW2 = api.AttachRequest{Name: "data", MountID: "m2", Location: "here"}

func held(epoch uint64) api.Report {
	return api.Report{Volumes: []api.HeldVolume{{Name: "data", Epoch: epoch}}}
}

// The owner's plugin starts again and reports while the volume is being given away.
func TestAVolumeIsNotGivenAwayFromAnOwnerThatWasRenewedMeanwhile(t *testing.T) {
	s, c := heldByW1(t)
	v := s.manager.volumes
	c.t += time.Minute
	v.barNode = func(ctx context.Context, node string) error {
		renewed, _, err := v.renew(ctx, "w1", held(1))
		assert.DeepEqual(t, renewed, []string{"data"})
		return err
	}
	_, err := v.attach(t.Context(), "w2", fromW2)
	assert.ErrorContains(t, err, "reported again")
	r, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	assert.Equal(t, r.Value.Owner.Node, "w1", "two may write")
}

func TestAnOwnerIsNotRenewedOnceItsVolumeIsBeingGivenAway(t *testing.T) {
	s, c := heldByW1(t)
	v := s.manager.volumes
	c.t += time.Minute
	reported := false
	s.configs.Fail = func(call string) error {
		if call == "update" && !reported { // the decision is made, the new owner not written
			reported = true
			renewed, lost, err := v.renew(context.Background(), "w1", held(1))
			assert.Check(t, err)
			assert.Check(t, len(renewed) == 0, "two may write")
			assert.Check(t, slices.Contains(lost, "data"))
		}
		return nil
	}
	a, err := v.attach(t.Context(), "w2", fromW2)
	assert.NilError(t, err)
	assert.Assert(t, reported)
	assert.Equal(t, a.Volume.Owner.Node, "w2")
	assert.Assert(t, a.Volume.Fence)
}

func TestAnAbandonedVolumeIsNotFreedUnderAnOwnerThatIsBack(t *testing.T) {
	s, c := heldByW1(t)
	s.swarm.task = ""
	v := s.manager.volumes
	c.t += time.Minute
	back := true
	v.barNode = func(context.Context, string) error {
		if back {
			_, _, err := v.renew(context.Background(), "w1", held(1))
			return err
		}
		return nil
	}
	free := func() bool {
		o, err := s.manager.apps.observe(t.Context())
		assert.NilError(t, err)
		assert.NilError(t, v.freeAbandoned(t.Context(), o))
		r, err := v.get(t.Context(), "data")
		assert.NilError(t, err)
		assert.Equal(t, r.Value.Fence, r.Value.Owner == nil, "whoever attaches next must fence the device")
		return r.Value.Owner == nil
	}
	assert.Assert(t, !free())
	back = false
	assert.Assert(t, !free(), "it was renewed a moment ago")
	c.t += time.Minute
	assert.Assert(t, free())
}

func TestAnOwnerThatReportsWithoutItsVolumeHasReleasedItOnceNoLeaseCanBeLeft(t *testing.T) {
	s, c := heldByW1(t)
	v := s.manager.volumes
	assert.Assert(t, !v.longAbsent(api.Volume{VolumeSpec: api.VolumeSpec{Name: "data"}, Epoch: 1}))
	c.t += api.LeaseDuration + api.LeaseMargin
	assert.Assert(t, !v.longAbsent(api.Volume{VolumeSpec: api.VolumeSpec{Name: "data"}, Epoch: 1}), "the lease that came with the attach may still hold")
	c.t++
	assert.Assert(t, !v.longAbsent(api.Volume{VolumeSpec: api.VolumeSpec{Name: "data"}, Epoch: 2}), "of another epoch nothing is known")
	assert.Assert(t, !v.longAbsent(api.Volume{VolumeSpec: api.VolumeSpec{Name: "data"}, Epoch: 1}))
	c.t += absenceToRelease(api.Volume{}) + 1
	assert.Assert(t, v.longAbsent(api.Volume{VolumeSpec: api.VolumeSpec{Name: "data"}, Epoch: 1}))
	s.manager.leadership.former = c.t
	assert.Assert(t, !v.longAbsent(api.Volume{VolumeSpec: api.VolumeSpec{Name: "data"}, Epoch: 1}), "a lease of a former leader may still hold")

	v.releaseAbsent("data", "w1", 1)
	r, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	assert.Assert(t, r.Value.Owner == nil)
}

func TestAnAbsenceThatIsOverReleasesNothing(t *testing.T) {
	s, c := heldByW1(t)
	v := s.manager.volumes
	for _, r := range []api.Report{{}, {Rebuilding: true}, held(1)} {
		_, _, err := v.renew(t.Context(), "w1", r)
		assert.NilError(t, err)
		c.t += absenceToRelease(api.Volume{})
	}
	v.releaseAbsent("data", "w1", 1) // decided before the report that names it
	r, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	assert.Assert(t, r.Value.Owner != nil, "freed under a mount")
}

func TestAPurgeIsOverOnlyWhenTheDeviceItNamesIsDeleted(t *testing.T) {
	s, _ := heldByW1(t)
	m, v := s.manager, s.manager.volumes
	assert.NilError(t, v.progress(t.Context(), "w1", api.ProgressRequest{Name: "data", Epoch: 1, Phase: api.PhaseReady, Location: "here"}))
	r, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	_, err = v.change(t.Context(), r, func(n *api.Volume) { n.Owner, n.Purging = nil, true })
	assert.NilError(t, err)
	report := api.Report{Storage: api.Storage{Location: "here"}}
	orders, err := m.purgeOrders(t.Context(), report)
	assert.NilError(t, err)
	assert.DeepEqual(t, orders, []api.PurgeOrder{{Name: "data", Device: r.Value.Device, Location: "here"}})

	for _, change := range []func(*api.PurgeOrder){
		func(o *api.PurgeOrder) { o.Location = "there" },
		func(o *api.PurgeOrder) { o.Device = "data-of-before.img" },
	} {
		report.Purged = []api.PurgeOrder{orders[0]}
		change(&report.Purged[0])
		m.purged(t.Context(), report)
		_, err = v.get(t.Context(), "data")
		assert.NilError(t, err, "forgotten, with its data still there")
	}
	report.Purged = orders
	m.purged(t.Context(), report)
	_, err = v.get(t.Context(), "data")
	assert.ErrorContains(t, err, "no volume data")
}

// Pitfall 15: one bad record must not cost the others their leases.
func TestARecordThatCannotBeReadStopsNoOther(t *testing.T) {
	s, _ := heldByW1(t)
	v := s.manager.volumes
	_, err := v.create(t.Context(), api.CreateRequest{Name: "bad"})
	assert.NilError(t, err)
	all, err := s.configs.ConfigList(t.Context(), client.ConfigListOptions{Filters: make(client.Filters).Add("name", "openmanage.volume.bad")})
	assert.NilError(t, err)
	spec := all.Items[0].Spec
	spec.Labels = map[string]string{"openmanage.kind": "volume", "openmanage.record": "{"}
	_, err = s.configs.ConfigUpdate(t.Context(), all.Items[0].ID, client.ConfigUpdateOptions{Version: all.Items[0].Version, Spec: spec})
	assert.NilError(t, err)

	assert.NilError(t, s.manager.takeOver(t.Context(), 0))
	report := held(1)
	report.Volumes = append(report.Volumes, api.HeldVolume{Name: "bad", Epoch: 1})
	renewed, lost, err := v.renew(t.Context(), "w1", report)
	assert.NilError(t, err)
	assert.DeepEqual(t, renewed, []string{"data"})
	assert.Equal(t, len(lost), 0, "nothing is known of the other: it keeps what it has")
	_, err = v.get(t.Context(), "bad")
	assert.ErrorContains(t, err, "docker config inspect openmanage.volume.bad")
	_, err = v.create(t.Context(), api.CreateRequest{Name: "bad"})
	assert.ErrorContains(t, err, "cannot be read", "it counts as absent")
	_, err = store.List[api.Volume](t.Context(), s.manager.store, store.KindVolume)
	assert.ErrorContains(t, err, "cannot be read")
}

// A write has failed in a way that does not tell whether it has happened.
func TestAVolumeInDoubtIsReadAgainAndHoldsUpNoOther(t *testing.T) {
	s := serveManager(t)
	v := s.manager.volumes
	for _, name := range []string{"data", "other"} {
		_, err := v.create(t.Context(), api.CreateRequest{Name: name})
		assert.NilError(t, err)
		_, err = v.attach(t.Context(), "w1", api.AttachRequest{Name: name, MountID: "m", Location: "here"})
		assert.NilError(t, err)
	}
	s.configs.Fail = func(call string) error {
		if call == "inspect" { // after the write
			return errors.New("timeout")
		}
		return nil
	}
	assert.ErrorContains(t, v.release(t.Context(), "w1", api.ReleaseRequest{Name: "data", Epoch: 1}), "timeout")

	s.configs.Fail = func(string) error { return errors.New("the Swarm has no leader") }
	report := api.Report{Volumes: []api.HeldVolume{{Name: "data", Epoch: 1}, {Name: "other", Epoch: 1}}}
	renewed, lost, err := v.renew(t.Context(), "w1", report)
	assert.NilError(t, err)
	assert.DeepEqual(t, renewed, []string{"other"})
	assert.Equal(t, len(lost), 0, "nothing is known of it")

	s.configs.Fail = nil
	renewed, lost, err = v.renew(t.Context(), "w1", report)
	assert.NilError(t, err)
	assert.DeepEqual(t, renewed, []string{"other"})
	assert.DeepEqual(t, lost, []string{"data"})
}
