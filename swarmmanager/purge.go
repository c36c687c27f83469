package swarmmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// purge deletes a volume and its data. Every step can be repeated by a leader
// that takes over: mark the record, have a node delete the device, delete the record.
func (m *Manager) purge(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	name := op.Value.Target
	defer m.volumes.lock(name)()
	r, err := m.volumes.get(ctx, name)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code == api.ErrNotFound {
		if op.Value.State == store.OperationRunning {
			return m.end(ctx, op, store.OperationDone, "")
		}
		return m.end(ctx, op, store.OperationFailed, refused.Message)
	}
	if err != nil {
		return err
	}
	v := r.Value
	if !v.Purging {
		uses, err := o.allUses()
		if err != nil {
			return err
		}
		switch {
		case v.Owner != nil:
			return m.end(ctx, op, store.OperationFailed, fmt.Sprintf("volume %s is in use on node %s; remove its application or container first", name, v.Owner.Hostname))
		case len(uses[name]) > 0:
			return m.end(ctx, op, store.OperationFailed, fmt.Sprintf("volume %s is wanted by task %s; remove its service first", name, uses[name][0].Task))
		case v.Former != "":
			_, err := m.step(ctx, op, "waiting until a node has deleted the device that its own has taken the place of")
			return err
		}
		if _, err := m.step(ctx, op, "deleting the data"); err != nil {
			return err
		}
		failpoint.Hit("purge:running")
		if r, err = m.volumes.change(ctx, r, func(n *api.Volume) { n.Purging = true }); err != nil {
			return err
		}
		m.log.Info("purging", "volume", name, "asked_by", op.Value.By)
		failpoint.Hit("purge:marked")
	}
	if v.Phase == api.PhaseDeclared { // the backend has nothing
		return m.volumes.remove(ctx, r)
	}
	if len(m.purgers(v)) == 0 {
		_, err := m.step(ctx, m.reread(ctx, op), "waiting for a node that has the folder of the volume")
		return err
	}
	return nil
}

// purgers are the living nodes that can delete the device of v.
func (m *Manager) purgers(v api.Volume) []string {
	var nodes []string
	m.leases.each(func(node string, r api.Report) {
		if r.Storage.Location == v.Location {
			nodes = append(nodes, node)
		}
	})
	slices.Sort(nodes)
	return nodes
}

// purgeOrders tells the caller's node which devices to delete: those of volumes that
// are deleted, and those that others have taken the place of.
func (m *Manager) purgeOrders(ctx context.Context, r api.Report) ([]api.PurgeOrder, error) {
	view, err := m.volumes.look(ctx)
	if err != nil {
		return nil, err
	}
	var orders []api.PurgeOrder
	for _, name := range view.purging {
		if v := view.all[name].Value; v.Phase != api.PhaseDeclared && v.Location == r.Storage.Location {
			orders = append(orders, api.PurgeOrder{Name: v.Name, Device: v.Device, Location: v.Location})
		}
	}
	for _, name := range view.former {
		if v := view.all[name].Value; !v.Purging && v.Location == r.Storage.Location {
			orders = append(orders, api.PurgeOrder{Name: v.Name, Device: v.Former, Location: v.Location})
		}
	}
	return orders, nil
}

// purged removes the records of volumes whose devices the caller has deleted, and
// forgets former devices.
func (m *Manager) purged(ctx context.Context, report api.Report) {
	var applications []string
	for _, o := range report.Purged {
		name := o.Name
		unlock := m.volumes.lock(name)
		r, err := m.volumes.get(ctx, name)
		if err == nil && r.Value.Purging && r.Value.Location == o.Location && r.Value.Device == o.Device {
			failpoint.Hit("purge:deleted")
			if err = m.volumes.remove(ctx, r); err == nil {
				applications = append(applications, r.Value.Application)
				m.log.Info("purged", "volume", name)
			}
		}
		if err == nil && r.Value.Former == o.Device && r.Value.Location == o.Location {
			_, err = m.volumes.change(ctx, r, func(n *api.Volume) { n.Former = "" })
		}
		unlock()
		var refused *api.Error
		if err != nil && !errors.As(err, &refused) {
			m.log.Warn("purge incomplete; it is repeated", "volume", name, "error", err)
		}
	}
	m.apps.news.about(applications...)
	m.apps.news.asked()
}
