package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

// orderTimeout bounds what one order about a mounted volume may take.
const orderTimeout = time.Minute

// begin takes the volume for an order, if it is held and mounted with that epoch.
// The orders are repeated, so one that comes at a bad moment is dropped.
func (v *heldVolume) begin(epoch uint64) (h *hold, end func()) {
	if !v.work.TryLock() {
		return nil, nil
	}
	h = v.holding()
	if h == nil || h.epoch != epoch || !h.isMounted() || h.valid(v.p.now()) != nil {
		v.work.Unlock()
		return nil, nil
	}
	return h, v.work.Unlock
}

// grow enlarges device and filesystem while they are in use.
func (v *heldVolume) grow(o api.GrowOrder) {
	h, end := v.begin(o.Epoch)
	if h == nil {
		return
	}
	defer end()
	if r := h.state(); r.Size >= o.Size || r.GrowsAtMount {
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, orderTimeout)
	defer cancel()
	if err := v.enlarge(ctx, h, o.Size); errors.Is(err, filesystem.ErrMounted) {
		v.log.Info("volume grows at its next mount", "size", o.Size, "reason", err)
		h.setGrowsAtMount()
	} else if err != nil {
		v.log.Warn("volume has not grown", "size", o.Size, "error", err)
		h.setProblem(err.Error())
	} else {
		v.log.Info("volume has grown", "size", o.Size)
	}
	v.p.kick()
}

func (v *heldVolume) enlarge(ctx context.Context, h *hold, size int64) error {
	rec := h.record()
	if err := v.p.backend.Grow(ctx, rec.Device, size); err != nil {
		return err
	}
	dev, err := v.p.backend.Attach(ctx, rec.Device) // shows the new size
	if err != nil {
		return err
	}
	defer dev.Close()
	if _, err := filesystem.Grow(ctx, dev.Path, rec.Filesystem, v.p.target(v.name), dev.Size); err != nil {
		return err
	}
	h.setRecord(func(r *api.Volume) { r.Size = size })
	h.setSize(dev.Size)
	return v.p.saveHolds()
}

// snapshot makes a point-in-time copy of the device. Nothing is frozen: the copy is
// what a power cut at that moment would have left, which journals and databases
// recover from.
func (v *heldVolume) snapshot(o api.SnapshotOrder) {
	p := v.p
	p.mu.Lock()
	_, done := p.snapshots[o.Device]
	p.mu.Unlock()
	if done {
		return
	}
	h, end := v.begin(o.Epoch)
	if h == nil {
		return
	}
	defer end()
	ctx, cancel := context.WithTimeout(h.ctx, orderTimeout)
	defer cancel()
	began := time.Now()
	err := p.backend.Snapshot(ctx, h.record().Device, o.Device)
	if errors.Is(err, blockstore.ErrBusy) {
		err = nil // an earlier try, before a kill
	}
	result := api.SnapshotResult{Device: o.Device}
	if err != nil {
		result.Error = fmt.Sprintf("volume %s: %v", v.name, err)
	}
	v.log.Info("snapshot", "device", o.Device, "took", time.Since(began).String(), "error", err)
	p.mu.Lock()
	p.snapshots[o.Device] = result
	p.mu.Unlock()
	p.kick()
}
