package swarmmanager

import (
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

func TestAFormerDeviceIsDeletedAndForgotten(t *testing.T) {
	s, _ := heldByW1(t)
	m, v := s.manager, s.manager.volumes
	r, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	_, err = v.change(t.Context(), r, func(n *api.Volume) { n.Former, n.Location = "data-of-before.img", "here" })
	assert.NilError(t, err)
	report := api.Report{Storage: api.Storage{Location: "here"}}
	orders, err := m.purgeOrders(t.Context(), report)
	assert.NilError(t, err)
	assert.DeepEqual(t, orders, []api.PurgeOrder{{Name: "data", Device: "data-of-before.img", Location: "here"}})
	elsewhere, err := m.purgeOrders(t.Context(), api.Report{Storage: api.Storage{Location: "there"}})
	assert.NilError(t, err)
	assert.Equal(t, len(elsewhere), 0)

	former := func() string {
		r, err := v.get(t.Context(), "data")
		assert.NilError(t, err)
		return r.Value.Former
	}
	report.Purged = []api.PurgeOrder{{Name: "data", Device: r.Value.Device, Location: "here"}}
	m.purged(t.Context(), report)
	assert.Equal(t, former(), "data-of-before.img")
	report.Purged = orders
	m.purged(t.Context(), report)
	assert.Equal(t, former(), "")
}

func TestOnlyAFreeVolumeGetsAnotherDevice(t *testing.T) {
	s, _ := heldByW1(t)
	v := s.manager.volumes
	source := api.Volume{VolumeSpec: api.VolumeSpec{Name: "other", Size: 2 << 30, Filesystem: "xfs"}, UUID: "of the other", Location: "here"}
	assert.ErrorContains(t, v.exchange(t.Context(), "data", "new.img", source), "held by node")
	change := func(edit func(*api.Volume)) {
		r, err := v.get(t.Context(), "data")
		assert.NilError(t, err)
		_, err = v.change(t.Context(), r, edit)
		assert.NilError(t, err)
	}
	change(func(n *api.Volume) { n.Owner, n.Location = nil, "there" })
	assert.ErrorContains(t, v.exchange(t.Context(), "data", "new.img", source), "lies elsewhere")
	change(func(n *api.Volume) { n.Location, n.Former = "here", "older.img" })
	assert.ErrorContains(t, v.exchange(t.Context(), "data", "new.img", source), "its former device is")
	change(func(n *api.Volume) { n.Former, n.Fence = "", true })
	before, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	for range 2 { // it can be repeated
		assert.NilError(t, v.exchange(t.Context(), "data", "new.img", source))
		r, err := v.get(t.Context(), "data")
		assert.NilError(t, err)
		now := r.Value
		assert.Equal(t, now.Device, "new.img")
		assert.Equal(t, now.Former, before.Value.Device)
		assert.Equal(t, now.UUID, "of the other")
		assert.Equal(t, now.Size, int64(2<<30))
		assert.Equal(t, now.Filesystem, "xfs")
		assert.Equal(t, now.Fence, false)
		assert.Equal(t, now.Epoch, before.Value.Epoch)
	}
}

func TestAMemberBeginsWithASnapshotOnlyWhereItsVolumeLies(t *testing.T) {
	o := observation()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	m, _ := memberOf(&app, "pg-2")
	_, ok := seedFor(o, app, m)
	assert.Assert(t, !ok, "no node can make a snapshot")
	for node, r := range o.reports {
		r.Storage.Reflink = true
		o.reports[node] = r
	}
	source, ok := seedFor(o, app, m)
	assert.Assert(t, ok)
	assert.Equal(t, source.Name, "pg-3")
	v := o.volumes["pg-2"]
	v.Value.Location = "of another node"
	o.volumes["pg-2"] = v
	_, ok = seedFor(o, app, m)
	assert.Assert(t, !ok)
	v.Value.Location, v.Value.Former = "shared", "of-before.img"
	o.volumes["pg-2"] = v
	_, ok = seedFor(o, app, m)
	assert.Assert(t, !ok, "one is still to be deleted")
	v.Value.Former = ""
	o.volumes["pg-2"] = v
	s := o.statuses["pg-3"]
	s.Healthy = false
	o.statuses["pg-3"] = s
	_, ok = seedFor(o, app, m)
	assert.Assert(t, !ok, "never of the primary, whose data is not a standby's")
}

// Whatever goes wrong before the exchange leaves the member with the data it has, and
// running.
func TestARebuildWithoutASnapshotGoesOnByACopy(t *testing.T) {
	w := newWorld(t)
	w.deaf = true
	op := w.operation(store.OperationRebuild, store.MemberRequest{Member: "pg-2"})
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	assert.Equal(t, w.copies, 1)
	var steps []string
	for _, s := range op.Steps {
		steps = append(steps, s.Text)
	}
	assert.Check(t, is.Contains(steps, "no snapshot in time: pg-2 copies the database"))
}
