package swarmmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// growPatience is how long a node may take to enlarge a volume that is in use.
const growPatience = 2 * time.Minute

// expand enlarges the volumes of all members while they are in use.
func (m *Manager) expand(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	var req store.ExpandRequest
	if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil || req.Size <= 0 {
		return m.fail(ctx, op, "the request cannot be read: %q", op.Value.Request)
	}
	for _, member := range app.Members {
		if v, ok := o.volumes[member.Volume]; ok && v.Value.Size > req.Size && op.Value.State == store.OperationRequested {
			return m.fail(ctx, op, "volume %s has %s already; volumes never become smaller", member.Volume, units.BytesSize(float64(v.Value.Size)))
		}
	}
	if op.Value.Roll != nil && op.Value.Roll.Member != "" {
		return m.rollOn(ctx, o, op, app, store.RollRequest{}, *op.Value.Roll)
	}
	if op.Value.State == store.OperationRequested {
		var err error
		if op, err = m.step(ctx, op, "enlarging the volumes to "+units.BytesSize(float64(req.Size))); err != nil {
			return err
		}
	}
	forced := map[string]uint64{}
	if op.Value.Roll != nil {
		forced = op.Value.Roll.Forced
	}
	var waiting, remount []string
	for _, member := range app.Members {
		v, ok := o.volumes[member.Volume]
		if !ok {
			continue
		}
		if v.Value.Size < req.Size {
			if err := m.volumes.enlarge(ctx, member.Volume, req.Size); err != nil {
				return err
			}
			waiting = append(waiting, member.Volume)
			continue
		}
		if v.Value.Owner == nil {
			if _, soon := forced[member.Name]; soon {
				waiting = append(waiting, member.Volume)
			}
			continue // at its next mount
		}
		held, known := heldVolume(o.reports[v.Value.Owner.Node], member.Volume)
		switch {
		case known && held.Problem != "":
			return m.fail(ctx, op, "%s; the size is recorded, and the volume grows at its next mount", held.Problem)
		case known && held.GrowsAtMount:
			remount = append(remount, member.Name)
		case !known || held.Size < req.Size:
			waiting = append(waiting, member.Volume)
		}
	}
	if down := cannotWait(app, op, remount); len(down) > 0 {
		return m.restartAtOnce(ctx, o, op, app, down)
	}
	switch {
	case len(waiting) == 0 && len(remount) > 0:
		return m.restartThen(ctx, o, op, app, remount)
	case len(waiting) == 0:
		return m.end(ctx, op, store.OperationDone, "")
	}
	if steps := op.Value.Steps; len(steps) > 0 && o.now.Sub(steps[len(steps)-1].Time) > growPatience {
		return m.fail(ctx, op, "%s not larger after %s; the size is recorded, and the volume grows at its next mount; see why: docker service logs openmanage_network", strings.Join(waiting, ", "), growPatience)
	}
	return nil
}

// cannotWait are those of members, whose filesystems can only grow before a mount,
// that are restarted without a look at the others: they do not run for want of room,
// or could not hand over for it.
func cannotWait(app store.Application, op store.Record[store.Operation], members []string) []string {
	var names []string
	for _, m := range app.Members {
		stuck := m.Name == app.Primary && gaveUp(app, op.Name) && m.Disk != store.DiskFine
		if slices.Contains(members, m.Name) && (outOfRoom(m) || stuck) {
			names = append(names, m.Name)
		}
	}
	return names
}

// restartAtOnce restarts members that do not run for want of room, all together:
// there is nothing to keep up and nobody to hand over to. Their volumes have grown
// when they are mounted again.
func (m *Manager) restartAtOnce(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, members []string) error {
	var state store.Roll
	if op.Value.Roll != nil {
		state = *op.Value.Roll
	}
	forced := maps.Clone(state.Forced)
	if forced == nil {
		forced = map[string]uint64{}
	}
	var begun []string
	for _, name := range members {
		if s, ok := service(o, app.Name, name); ok && forced[name] == 0 {
			forced[name] = s.Spec.TaskTemplate.ForceUpdate + 1
			begun = append(begun, name)
		}
	}
	if len(begun) > 0 {
		state.Forced = forced
		var err error
		// First the record, so that who takes over knows what was begun.
		if op, err = m.step(ctx, op, "restarting "+strings.Join(begun, ", ")+", whose volumes have no room", func(v *store.Operation) { v.Roll = &state }); err != nil {
			return err
		}
	}
	for _, name := range members {
		s, ok := service(o, app.Name, name)
		if !ok || forced[name] == 0 {
			continue
		}
		if err := m.updateService(ctx, s, store.RollRequest{}, forced[name]); err != nil {
			return err
		}
	}
	if steps := op.Value.Steps; o.now.Sub(steps[len(steps)-1].Time) > growPatience {
		return m.fail(ctx, op, "%s not larger after %s; the size is recorded, and the volume grows at its next mount; see docker openmanage ps %s", strings.Join(members, ", "), growPatience, app.Name)
	}
	return nil
}

// restartThen restarts the members whose filesystems can only grow before a mount,
// one at a time, as a restart does.
func (m *Manager) restartThen(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, members []string) error {
	var state store.Roll
	if op.Value.Roll != nil {
		state = *op.Value.Roll
	}
	state.Done = nil
	for _, member := range app.Members {
		if !slices.Contains(members, member.Name) {
			state.Done = append(state.Done, member.Name)
		}
	}
	return m.rollOn(ctx, o, op, app, store.RollRequest{}, state)
}

// enlarge records the new size of a volume.
func (v *volumes) enlarge(ctx context.Context, name string, size int64) error {
	defer v.lock(name)()
	r, err := v.get(ctx, name)
	if err != nil || r.Value.Size >= size {
		return err
	}
	_, err = v.change(ctx, r, func(n *api.Volume) { n.Size = size })
	if err == nil {
		v.log.Info("volume is to grow", "volume", name, "from", r.Value.Size, "to", size)
		failpoint.Hit("expand:recorded")
	}
	return err
}

// heldVolume finds a volume in a report, whose lists are in the order of names (package delta).
func heldVolume(r api.Report, name string) (api.HeldVolume, bool) {
	i, found := slices.BinarySearchFunc(r.Volumes, name, func(h api.HeldVolume, name string) int { return strings.Compare(h.Name, name) })
	if !found {
		return api.HeldVolume{}, false
	}
	return r.Volumes[i], true
}

// snapshots are those that executors want and what nodes have said of them. It is a
// leader's memory: who takes over wants them again. Safe for concurrent use.
type snapshots struct {
	mu      sync.Mutex
	wanted  map[string]string // device: volume
	results map[string]api.SnapshotResult
}

// want has the owner of volume make a snapshot, and returns what it has said.
func (s *snapshots) want(volume, device string) (api.SnapshotResult, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted == nil {
		s.wanted, s.results = map[string]string{}, map[string]api.SnapshotResult{}
	}
	s.wanted[device] = volume
	r, ok := s.results[device]
	return r, ok
}

// made tells whether the snapshot that was begun at since is there; problem: it will not
// be.
func (s *snapshots) made(o *observed, volume, device string, since time.Time) (made bool, problem string) {
	result, said := s.want(volume, device)
	switch {
	case said && result.Error != "":
		return false, "no snapshot (" + result.Error + ")"
	case !said && (o.volumes[volume].Value.Owner == nil || o.now.Sub(since) > snapshotPatience):
		return false, "no snapshot in time"
	}
	return said, ""
}

func (s *snapshots) forget(device string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.wanted, device)
	delete(s.results, device)
}

// volumeOrders are the orders about the volumes that a report's node holds.
func (m *Manager) volumeOrders(r api.Report, renewed []string, all map[string]store.Record[api.Volume]) (grow []api.GrowOrder, snapshot []api.SnapshotOrder) {
	m.snapshots.mu.Lock()
	defer m.snapshots.mu.Unlock()
	// Rarely asked: most often there is nothing to order.
	goesOn := func(name string) bool { return slices.Contains(renewed, name) }
	for _, result := range r.Snapshots {
		volume, wanted := m.snapshots.wanted[result.Device]
		if wanted && goesOn(volume) {
			m.snapshots.results[result.Device] = result
		}
	}
	for _, held := range r.Volumes {
		if !held.Mounted {
			continue
		}
		if want := all[held.Name].Value.Size; held.Size != 0 && held.Size < want && goesOn(held.Name) {
			grow = append(grow, api.GrowOrder{Name: held.Name, Epoch: held.Epoch, Size: want})
		}
		for device, volume := range m.snapshots.wanted {
			if _, done := m.snapshots.results[device]; volume == held.Name && !done && goesOn(held.Name) {
				snapshot = append(snapshot, api.SnapshotOrder{Name: held.Name, Epoch: held.Epoch, Device: device})
			}
		}
	}
	return grow, snapshot
}

// sourceOf chooses the standby whose volume a new member's is copied from: one that
// follows closely, on a node that can copy in O(1).
func sourceOf(o *observed, app store.Application) (store.Member, bool) {
	var best store.Member
	lag := int64(-1)
	for _, member := range app.Members {
		s, heard := o.word(member)
		if member.Name == app.Primary || !heard || !s.Healthy || s.LagBytes < 0 || !o.reports[s.node].Storage.Reflink {
			continue
		}
		if lag < 0 || s.LagBytes < lag {
			best, lag = member, s.LagBytes
		}
	}
	return best, lag >= 0
}

func deviceName(volume string) string { return fmt.Sprintf("%s-%s.img", volume, randomID(4)) }
