package swarmmanager

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// A rebuild by a snapshot copies nothing through the network: another standby's node
// makes a snapshot of its volume, the member stops, the snapshot takes the place of its
// device, and the member starts on it. Where no node can, the member copies the
// database by itself (rebuild.go).
//
// Each step shows in the records: the operation's Reseed, the service's replicas, the
// volume's Device. Until the device was exchanged, all can be taken back.

// seedFor is the standby whose snapshot m can begin with: it lies where m's volume does.
func seedFor(o *observed, app store.Application, m store.Member) (store.Member, bool) {
	others := app
	others.Members = nil
	for _, other := range app.Members {
		if other.Name != m.Name && other.Fenced == nil {
			others.Members = append(others.Members, other)
		}
	}
	source, ok := sourceOf(o, others)
	mine, known := o.volumes[m.Volume]
	return source, ok && known && o.volumes[source.Volume].Value.Location == mine.Value.Location && mine.Value.Former == ""
}

// reseedFrom begins a rebuild by a snapshot. The member stays aside until it follows.
func reseedFrom(source, m store.Member, op memberOperation) verdict {
	v := keepAside(m, op)
	v.step = fmt.Sprintf("replacing the data of %s by a snapshot of %s's", m.Name, source.Name)
	v.reseed = &store.Reseed{Device: deviceName(m.Volume), Source: source.Volume}
	return v
}

// keepAside has commits wait for others as long as the operation lasts.
func keepAside(m store.Member, op memberOperation) verdict {
	if m.Aside == op.name {
		return verdict{}
	}
	return verdict{}.with("", func(m *store.Member) { m.Aside = op.name })
}

// rebuild has a member's data replaced, by a snapshot if one was decided for.
func (m *Manager) rebuild(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	if r := op.Value.Reseed; r == nil || r.Device == "" {
		return m.onMember(planRebuild)(ctx, o, op)
	}
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	var req store.MemberRequest
	if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil {
		return m.fail(ctx, op, "the request cannot be read: %v", err)
	}
	member, ok := memberOf(&app, req.Member)
	if _, there := service(o, app.Name, req.Member); !ok || !there {
		m.snapshots.forget(op.Value.Reseed.Device)
		return m.fail(ctx, op, "the service of %s is gone", req.Member)
	}
	if app.Handover != nil {
		return nil
	}
	switch {
	case o.volumes[member.Volume].Value.Device == op.Value.Reseed.Device:
		return m.reseeded(ctx, o, op, app, member)
	case member.Aside != op.Name && member.Name != app.Primary: // whoever led before died at that
		_, err := m.apps.changeMember(ctx, o, asked(o, op, req), app.Name, planRebuild)
		return err
	}
	return m.reseed(ctx, o, op, app, member)
}

// reseed makes the snapshot, stops the member and exchanges the device.
func (m *Manager) reseed(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, member store.Member) error {
	state := *op.Value.Reseed
	s, _ := service(o, app.Name, member.Name)
	back := func() error {
		m.snapshots.forget(state.Device)
		return m.scale(ctx, s, 1)
	}
	switch {
	case op.Value.Cancel:
		if err := back(); err != nil {
			return err
		}
		return m.end(ctx, op, store.OperationCancelled, member.Name+" goes on with the data it has")
	case member.Name == app.Primary:
		if err := back(); err != nil {
			return err
		}
		return m.fail(ctx, op, "%s has become the primary", member.Name)
	}
	made, problem := m.snapshots.made(o, state.Source, state.Device, state.Since)
	switch {
	case problem != "":
		if err := back(); err != nil {
			return err
		}
		_, err := m.step(ctx, op, problem+": "+member.Name+" copies the database", func(v *store.Operation) { v.Reseed = &store.Reseed{} })
		return err
	case !made:
		return nil
	}
	failpoint.Hit("rebuild:snapshot")
	if replicas(s) != 0 {
		if _, err := m.step(ctx, op, "stopping "+member.Name); err != nil {
			return err
		}
		return m.scale(ctx, s, 0)
	}
	if o.volumes[member.Volume].Value.Owner != nil {
		return nil
	}
	if err := m.volumes.exchange(ctx, member.Volume, state.Device, o.volumes[state.Source].Value); err != nil {
		return err
	}
	failpoint.Hit("rebuild:exchanged")
	m.snapshots.forget(state.Device)
	return nil
}

// reseeded starts the member on its new device and waits until it follows.
func (m *Manager) reseeded(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, member store.Member) error {
	s, _ := service(o, app.Name, member.Name)
	if err := m.scale(ctx, s, 1); err != nil {
		return err
	}
	status, heard := o.word(member)
	follows := heard && status.Healthy && (status.Streaming || member.Name == app.Primary)
	if !follows && !op.Value.Cancel && o.now.Sub(op.Value.Reseed.Since) < snapshotPatience+rollPatience {
		_, err := m.step(ctx, op, fmt.Sprintf("waiting until %s follows %s", member.Name, app.Primary))
		return err
	}
	own := memberOperation{name: op.Name, kind: op.Value.Kind, req: store.MemberRequest{Member: member.Name}, by: op.Value.By}
	_, err := m.apps.changeMember(ctx, o, own, app.Name, func(_ *observed, _ *store.Application, member store.Member, _ memberOperation) verdict {
		if member.Aside != op.Name {
			return verdict{}
		}
		return verdict{}.with("its data is that of a snapshot", dropAside)
	})
	switch {
	case err != nil:
		return err
	case follows:
		return m.end(ctx, op, store.OperationDone, "")
	case op.Value.Cancel:
		return m.end(ctx, op, store.OperationCancelled, member.Name+" has the data of a snapshot and comes back by itself")
	}
	return m.fail(ctx, op, "%s has the data of a snapshot and does not follow: %s", member.Name, member.Message)
}

// exchange puts a snapshot of source in the place of a free volume's device, which is
// to be deleted then.
func (v *volumes) exchange(ctx context.Context, name, device string, source api.Volume) error {
	defer v.lock(name)()
	if !v.leadership.acting() {
		return refuse(api.ErrNotLeader, "this manager no longer leads; ask again")
	}
	r, err := v.get(ctx, name)
	switch {
	case err != nil:
		return err
	case r.Value.Device == device:
		return nil
	case r.Value.Owner != nil:
		return refuse(api.ErrHeld, "volume %s is held by node %s", name, r.Value.Owner.Hostname)
	case r.Value.Purging || r.Value.Former != "" || r.Value.Location != source.Location:
		return refuse(api.ErrConflict, "volume %s cannot have another device: it is being deleted, or its former device is, or the snapshot lies elsewhere", name)
	}
	_, err = v.change(ctx, r, func(n *api.Volume) {
		n.Former, n.Device, n.UUID, n.Fence = n.Device, device, source.UUID, false
		n.Size, n.Filesystem = source.Size, source.Filesystem
	})
	if err == nil {
		v.log.Info("volume has the device of a snapshot", "volume", name, "source", source.Name, "device", device)
	}
	return err
}
