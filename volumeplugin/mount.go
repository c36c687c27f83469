package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

// Times of a mount. Docker gives it two minutes.
const (
	// mountWait is how long a request waits for the job before it tells Docker to
	// come again; the job goes on.
	mountWait = 110 * time.Second
	// heldWait is how long a job waits for another holder to let go.
	heldWait = 15 * time.Second
	// leaderWait is how long a job waits for a leader to be there and ready.
	leaderWait = 60 * time.Second
	// detachWait is how long an unmounted volume's device may take to go away.
	detachWait = 20 * time.Second
	retryEvery = 250 * time.Millisecond
)

// mountJob is a mount in the making. Requests for the same mount ID join it.
type mountJob struct {
	mountID string
	done    chan struct{}
	err     error // valid once done is closed
}

// mount makes the volume appear for Docker's mount ID and returns its path.
func (v *heldVolume) mount(mountID string) (string, error) {
	deadline := time.NewTimer(mountWait)
	defer deadline.Stop()
	for tried := false; ; {
		v.mu.Lock()
		if h := v.hold; h != nil && h.mountID == mountID && v.job == nil && h.enter() {
			v.mu.Unlock()
			return v.path(), v.p.saveHolds()
		}
		job := v.job
		if job == nil {
			if tried {
				v.mu.Unlock()
				return "", fmt.Errorf("volume %s was mounted and lost again at once; see the plugin's log", v.name)
			}
			job = &mountJob{mountID: mountID, done: make(chan struct{})}
			v.job = job
			go v.runJob(job)
		}
		v.mu.Unlock()
		select {
		case <-job.done:
		case <-deadline.C:
			return "", fmt.Errorf("volume %s is still being mounted after %s; the work goes on, try again", v.name, mountWait)
		}
		if job.mountID != mountID {
			continue // it was another's; now it is our turn to try
		}
		tried = true
		if job.err != nil {
			return "", job.err
		}
	}
}

// path is what Docker mounts into the container: not the filesystem's root, so
// that lost+found is not seen and an empty volume is an empty folder.
func (v *heldVolume) path() string { return filepath.Join(v.p.target(v.name), "data") }

func (v *heldVolume) runJob(job *mountJob) {
	start := time.Now()
	var epoch uint64
	epoch, job.err = v.acquire(job.mountID)
	if job.err != nil {
		v.log.Warn("mount failed", "mount", job.mountID, "error", job.err)
	} else {
		v.log.Info("mounted", "mount", job.mountID, "epoch", epoch, "took", time.Since(start).Round(time.Millisecond).String())
	}
	v.mu.Lock()
	v.job = nil
	v.mu.Unlock()
	close(job.done)
}

// acquire makes this node hold the volume for mountID and mounts it. The hold may
// have been fenced and dropped by the time it returns.
func (v *heldVolume) acquire(mountID string) (epoch uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute) // mkfs and fsck take what they take
	defer cancel()
	if err := v.waitFree(ctx); err != nil {
		return 0, err
	}
	v.work.Lock()
	defer v.work.Unlock()
	h, err := v.attach(ctx, mountID)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(h.ctx, cancel)
	defer stop()
	if err := v.prepare(ctx, h); err != nil {
		if fenced := h.valid(v.p.now()); fenced != nil {
			err = errors.Join(fenced, err)
		}
		h.leave(true) // nobody enters what was not prepared, also if it cannot be dropped yet
		if e := v.drop(h); e != nil {
			v.log.Error("clean-up after a failed mount is not complete; it is tried again", "error", e)
		}
		return 0, err
	}
	return h.epoch, nil
}

// waitFree waits until no other mount ID holds the volume here and no promise
// not to mount it is left.
func (v *heldVolume) waitFree(ctx context.Context) error {
	until := time.Now().Add(heldWait)
	for {
		reason := v.p.promisedReason(v.name)
		if h := v.holding(); h != nil {
			reason = fmt.Sprintf("volume %s is in use on this node (%s) by %s; a volume has one container at a time", v.name, v.p.node.Hostname, holderName(h))
			v.reconcile(ctx, h)
		}
		if reason == "" {
			return nil
		}
		if time.Now().After(until) {
			return errors.New(reason)
		}
		if !sleep(ctx, retryEvery) {
			return ctx.Err()
		}
	}
}

// holderName names a container that uses h's volume.
func holderName(h *hold) string {
	for _, u := range h.containers() {
		if u.Live {
			return "container " + u.Name
		}
	}
	return "mount " + h.mountID[:min(12, len(h.mountID))]
}

// attach asks the leader for the volume until it is granted.
func (v *heldVolume) attach(ctx context.Context, mountID string) (*hold, error) {
	p := v.p
	storage := p.backend.Storage()
	if storage.Error != "" {
		return nil, fmt.Errorf("storage of node %s is not usable: %s", p.node.Hostname, storage.Error)
	}
	start := time.Now()
	req := api.AttachRequest{Name: v.name, MountID: mountID, Tenure: randomID(), Location: storage.Location}
	for {
		p.flushRelease(ctx, v.name)
		call, cancel := context.WithTimeout(ctx, 20*time.Second)
		sent := p.now()
		var grant api.Attachment
		err := p.leader.Call(call, http.MethodPost, "/v1/volumes/attach", req, &grant)
		cancel()
		if err == nil {
			h := newHold(grant.Volume, mountID, sent+grant.Lease)
			v.setHold(h)
			p.kick()
			return h, p.saveHolds()
		}
		var refused *api.Error
		patience := leaderWait
		if errors.As(err, &refused) {
			switch refused.Code {
			case api.ErrHeld:
				patience = heldWait
			case api.ErrNotYet, api.ErrNotLeader:
			default:
				return nil, err
			}
		}
		if time.Since(start) > patience {
			return nil, fmt.Errorf("volume %s cannot be mounted on node %s: %w", v.name, p.node.Hostname, err)
		}
		if !sleep(ctx, retryEvery) {
			return nil, ctx.Err()
		}
	}
}

// progress tells the leader how far the volume has come, and returns only when
// that is recorded. Nothing that the record must know of is done before.
func (v *heldVolume) progress(ctx context.Context, h *hold, req api.ProgressRequest) error {
	req.Name, req.Epoch = v.name, h.epoch
	for {
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := v.p.leader.Call(call, http.MethodPost, "/v1/volumes/progress", req, nil)
		cancel()
		if err == nil {
			h.setRecord(func(r *api.Volume) {
				r.Phase = req.Phase
				if req.Device != "" {
					r.Device = req.Device
				}
				if req.Location != "" {
					r.Location = req.Location
				}
				if req.Fenced {
					r.Fence = false
				}
			})
			return nil
		}
		var refused *api.Error
		if errors.As(err, &refused) && refused.Code != api.ErrNotYet && refused.Code != api.ErrNotLeader {
			return err
		}
		if !sleep(ctx, retryEvery) {
			return fmt.Errorf("tell the leading manager that volume %s is %s: %w", v.name, req.Phase, err)
		}
	}
}

// prepare takes the volume from the leader's grant to a checked, mounted
// filesystem. Before each step that writes it makes sure of the lease.
func (v *heldVolume) prepare(ctx context.Context, h *hold) error {
	p := v.p
	if err := v.provision(ctx, h); err != nil {
		return err
	}
	if err := v.fenceDevice(ctx, h); err != nil {
		return err
	}
	if err := v.cleanTarget(); err != nil {
		return err
	}
	rec := h.record()
	if err := p.backend.Grow(ctx, rec.Device, rec.Size); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, explainMissing(err))
	}
	dev, err := p.backend.Attach(ctx, rec.Device)
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.name, explainMissing(err))
	}
	// The mount keeps the device from then on; without one it goes.
	defer dev.Close()
	if err := v.makeFilesystem(ctx, h, dev.Path); err != nil {
		return err
	}
	content, err := filesystem.Probe(ctx, dev.Path)
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	if content.Type != rec.Filesystem || content.UUID != rec.UUID {
		return fmt.Errorf("volume %s: device %s should hold %s with UUID %s but holds %s: %w; nothing was written to it; restore the device or delete the volume with its data", v.name, rec.Device, rec.Filesystem, rec.UUID, content, filesystem.ErrForeign)
	}
	if err := h.valid(p.now()); err != nil {
		return err
	}
	if err := filesystem.Repair(ctx, dev.Path, rec.Filesystem); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	if _, err := filesystem.Grow(ctx, dev.Path, rec.Filesystem, "", dev.Size); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	return v.mountDevice(ctx, h, dev)
}

// provision makes the device of a volume that never had one.
func (v *heldVolume) provision(ctx context.Context, h *hold) error {
	rec := h.record()
	if rec.Phase != api.PhaseDeclared {
		return nil
	}
	if err := v.p.backend.Provision(ctx, rec.Device, rec.Size); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	return v.progress(ctx, h, api.ProgressRequest{Phase: api.PhaseProvisioned, Location: v.p.backend.Storage().Location})
}

// fenceDevice leaves a former owner that may still write behind, on the device of
// its epoch, if the backend can.
func (v *heldVolume) fenceDevice(ctx context.Context, h *hold) error {
	rec := h.record()
	if !rec.Fence {
		v.abandonOlder(h) // by an owner that was killed before it could
		return nil
	}
	device, err := v.p.backend.CopyForEpoch(ctx, rec.Device, h.epoch)
	if errors.Is(err, blockstore.ErrNoCopy) {
		v.log.Warn("the former owner did not hand over; its lease alone protects the volume", "reason", err)
		device, err = rec.Device, nil
	}
	if err != nil {
		return fmt.Errorf("volume %s: fence the former owner: %w", v.name, explainMissing(err))
	}
	if err := v.progress(ctx, h, api.ProgressRequest{Phase: rec.Phase, Device: device, Fenced: true}); err != nil {
		return err
	}
	v.abandonOlder(h)
	return nil
}

// abandonOlder removes the devices of older epochs, which only fenced writers can
// still have open. The leader's record of this epoch names the one that counts,
// and a later epoch's is made from that or is newer: none is removed that anybody
// will look for, even if this node has lost the volume meanwhile.
func (v *heldVolume) abandonOlder(h *hold) {
	device := h.record().Device
	if err := v.p.backend.AbandonOlder(device, h.epoch); err != nil {
		v.log.Warn("devices of older epochs are left behind; it is tried again with the next mount", "device", device, "error", err)
	}
}

// makeFilesystem formats the device if, and only if, the record says that it
// never was and the device itself says that it is blank (invariant 2).
func (v *heldVolume) makeFilesystem(ctx context.Context, h *hold, device string) error {
	rec := h.record()
	if rec.Phase == api.PhaseReady {
		return nil
	}
	content, err := filesystem.Probe(ctx, device)
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	foreign := func() error {
		return fmt.Errorf("volume %s: device %s was never formatted and yet holds %s: %w; nothing was written to it; look at whose it is, then delete the volume with its data or put back the right device", v.name, rec.Device, content, filesystem.ErrForeign)
	}
	again := false
	switch rec.Phase {
	case api.PhaseProvisioned:
		if !content.Blank {
			return foreign()
		}
		// Signatures are not all: raw data has none. The whole device must be blank.
		blank, err := v.p.backend.Blank(ctx, rec.Device)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.name, err)
		}
		if !blank {
			content.Blank = false
			return foreign()
		}
		if err := v.progress(ctx, h, api.ProgressRequest{Phase: api.PhaseFormatting}); err != nil {
			return err
		}
	case api.PhaseFormatting:
		// The record proves that it was blank and that nothing was ever mounted: what
		// is there is our own mkfs, cut short or not.
		own := content.Type == rec.Filesystem && content.UUID == rec.UUID
		if !own && content.Type != "" {
			return foreign()
		}
		if own {
			whole, err := filesystem.Complete(ctx, device, rec.Filesystem)
			if err != nil {
				return err
			}
			if whole {
				return v.progress(ctx, h, api.ProgressRequest{Phase: api.PhaseReady})
			}
		}
		again = true
	default:
		return fmt.Errorf("volume %s: the record says phase %q, which this plugin does not know; upgrade the plugin", v.name, rec.Phase)
	}
	if err := h.valid(v.p.now()); err != nil {
		return err
	}
	if err := filesystem.Make(ctx, device, rec.Filesystem, rec.UUID, again); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	v.log.Info("formatted", "fs", rec.Filesystem, "device", rec.Device)
	return v.progress(ctx, h, api.ProgressRequest{Phase: api.PhaseReady})
}

// mountDevice mounts the checked filesystem and looks whether it is what it
// should be.
func (v *heldVolume) mountDevice(ctx context.Context, h *hold, dev *blockstore.Attached) error {
	p, rec, target := v.p, h.record(), v.p.target(v.name)
	if err := os.MkdirAll(target, 0o711); err != nil {
		return err
	}
	if reason := p.promisedReason(v.name); reason != "" {
		return errors.New(reason)
	}
	if err := h.valid(p.now()); err != nil {
		return err
	}
	if err := filesystem.Mount(dev.Path, rec.Filesystem, target); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	h.setMounted(dev.Path, dev.Major, dev.Minor)
	mounts, err := filesystem.Mounts(target, false)
	if err != nil {
		return err
	}
	if len(mounts) != 1 || mounts[0].Major != dev.Major || mounts[0].Minor != dev.Minor || !mounts[0].Writable {
		return fmt.Errorf("volume %s: %s shows %+v instead of device %d:%d writable; the kernel's log says why", v.name, target, mounts, dev.Major, dev.Minor)
	}
	if _, err := filesystem.Grow(ctx, dev.Path, rec.Filesystem, target, dev.Size); err != nil {
		v.log.Warn("the filesystem has not grown", "error", err)
		h.setProblem(err.Error())
	} else {
		h.setSize(dev.Size)
	}
	if err := makeRoot(v.path(), rec.Owners); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	if err := p.saveHolds(); err != nil {
		return err
	}
	// A lease that ran out meanwhile was not fenced as long as nothing was mounted.
	if err := h.valid(p.now()); err != nil {
		return errors.Join(err, filesystem.Shutdown(target))
	}
	return nil
}

// cleanTarget removes what an earlier mount has left on the volume's mount point.
func (v *heldVolume) cleanTarget() error {
	target := v.p.target(v.name)
	mounts, err := filesystem.Mounts(target, false)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		v.log.Warn("removing a stale mount", "device", fmt.Sprintf("%d:%d", m.Major, m.Minor), "writable", m.Writable)
		if err := filesystem.Detach(target); err != nil {
			return err
		}
	}
	return nil
}

func explainMissing(err error) error {
	if errors.Is(err, blockstore.ErrMissing) {
		return fmt.Errorf("%w although it was made before: is the right folder mounted on this node? It is never made anew; restore it, or delete the volume", err)
	}
	return err
}

// unmount takes one of Docker's mounts back; with the last the volume is given up.
func (v *heldVolume) unmount(mountID string) error {
	h := v.holding()
	if h == nil || h.mountID != mountID {
		v.log.Debug("unmount of what is not mounted", "mount", mountID)
		return nil
	}
	if h.exit() > 0 {
		return v.p.saveHolds()
	}
	return v.giveUp(h, false)
}

// giveUp unmounts and releases a hold that Docker does not use any more; force:
// although it never said so.
func (v *heldVolume) giveUp(h *hold, force bool) error {
	if !h.leave(force) {
		return nil
	}
	v.p.memberEnded(v.name)
	v.work.Lock()
	defer v.work.Unlock()
	if v.holding() != h {
		return nil
	}
	return v.drop(h)
}

// drop ends a hold: unmount, wait for the device to go, forget, release. As long
// as anything can still write, the hold stays and is reported, so that nobody
// else gets the volume. The caller holds v.work.
func (v *heldVolume) drop(h *hold) error {
	target := v.p.target(v.name)
	unmount := filesystem.Unmount
	if h.isFenced() {
		unmount = filesystem.Detach // whoever still uses it gets errors
	}
	if err := unmount(target); err != nil {
		return fmt.Errorf("volume %s: %w", v.name, err)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		v.log.Debug("mount point stays", "error", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), detachWait)
	defer cancel()
	if h.isInert() {
		cancel() // one look is enough: what still has it cannot write
	}
	if err := v.p.backend.Detach(ctx, h.record().Device); err != nil {
		if !h.isInert() {
			return fmt.Errorf("volume %s is unmounted but still in use by another mount namespace: %w", v.name, err)
		}
		v.log.Info("the fenced device goes with the last process that has it open", "reason", err)
	}
	h.cancel()
	v.p.mu.Lock()
	v.p.releases[v.name] = h.epoch
	v.p.mu.Unlock()
	v.setHold(nil)
	if err := v.p.saveHolds(); err != nil {
		return err
	}
	v.p.flushRelease(context.Background(), v.name)
	v.log.Info("unmounted", "mount", h.mountID, "epoch", h.epoch)
	return nil
}

// flushRelease tells the leader that a volume is free. If that fails it is
// repeated later; the reports say the same by not naming the volume.
func (p *plugin) flushRelease(ctx context.Context, name string) {
	p.mu.Lock()
	epoch, pending := p.releases[name]
	p.mu.Unlock()
	if !pending {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	err := p.leader.Call(ctx, http.MethodPost, "/v1/volumes/release", api.ReleaseRequest{Name: name, Epoch: epoch}, nil)
	var refused *api.Error
	gone := errors.As(err, &refused) && (refused.Code == api.ErrEpoch || refused.Code == api.ErrNotFound)
	if err != nil && !gone {
		p.log.Debug("release not acknowledged yet", "volume", name, "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.releases[name] == epoch {
		delete(p.releases, name)
	}
}

// makeRoot makes the folder that containers see as the volume, of the owners that
// were asked for. One that exists is the containers' affair.
func makeRoot(path, owners string) error {
	uid, gid, err := api.ParseOwners(owners)
	if err != nil {
		return err
	}
	// Renamed when it is whole: a plugin that is killed between leaves no folder of root's.
	fresh := path + ".new"
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(fresh, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chown(fresh, uid, gid); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
