package volumeplugin

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

const (
	reconcileInterval = 3 * time.Second
	// A mount whose container is gone although Docker has not unmounted it (the
	// daemon was killed) is given up after idleSeen if the container was seen
	// alive before, else after idleUnseen: it may be about to start.
	idleSeen   = 3 * time.Second
	idleUnseen = 30 * time.Second
	// restartGrace is the lease that a plugin gives itself at its start for what it
	// finds mounted, so that it can ask the leader before it fences.
	restartGrace = 1500 * time.Millisecond
)

// takeUp makes holds of what the state file and the kernel's mounts agree on,
// without asking anybody.
func (p *plugin) takeUp(saved []savedHold, times savedTimes) {
	now := p.now()
	p.mu.Lock()
	for name, until := range times.Promises {
		p.promised[name] = min(until, now+api.LeaseDuration)
	}
	p.mu.Unlock()
	for _, s := range saved {
		name := s.Volume.Name
		target := p.target(name)
		mounts, err := filesystem.Mounts(target, false)
		if err != nil || len(mounts) == 0 {
			continue // rebuild looks for the device
		}
		m := mounts[0]
		v := p.volume(name)
		h := s.restored(times.Leases[name], now, blockDevice(m.Minor), m.Major, m.Minor)
		v.setHold(h)
		v.log.Info("found mounted", "epoch", h.epoch, "mount", s.MountID, "count", s.Count, "alive", filesystem.Alive(target))
		if !s.Mounted || !filesystem.Alive(target) {
			// Killed in the middle of a mount or of a fence: Docker was never, or
			// is no longer, to have it.
			h.leave(true)
		}
	}
}

// rebuild settles what takeUp could not: holds whose mount is not seen here, and
// mounts that nobody knows. Until it is done nothing is mounted anew.
func (p *plugin) rebuild(ctx context.Context) {
	holds, times, err := p.state.load()
	if err != nil {
		p.log.Error("state file cannot be read again", "error", err)
	}
	for _, s := range holds {
		if s.Mounted && p.volume(s.Volume.Name).holding() == nil {
			p.remount(ctx, s, times)
		}
	}
	mounts, err := filesystem.Mounts(p.Propagated, true)
	if err != nil {
		p.log.Error("mounts cannot be listed", "error", err)
	}
	for _, m := range mounts {
		name := strings.TrimPrefix(m.Target, p.Propagated+"/")
		if m.Target == p.Propagated || strings.Contains(name, "/") || p.volume(name).holding() != nil {
			continue
		}
		p.adopt(ctx, name, m)
	}
	if p.state.fresh() {
		for _, s := range p.recorded(ctx) {
			if p.volume(s.Volume.Name).holding() == nil {
				p.remount(ctx, s, times)
			}
		}
	}
	p.rebuilt.Store(true)
	if err := p.saveHolds(); err != nil {
		p.log.Error("state not saved", "error", err)
	}
	p.kick()
}

// recorded is what the leader's records say that this node holds. A plugin that
// was removed by force and installed again has neither state file nor mounts, while
// containers may still write through theirs: without asking, it would report that
// it holds nothing, and the leader would give the volumes to others. It asks until
// it is answered; nothing can be mounted without a leader anyway.
func (p *plugin) recorded(ctx context.Context) []savedHold {
	for {
		var all []api.Volume
		call, cancel := context.WithTimeout(ctx, askTimeout)
		err := p.leader.Call(call, http.MethodGet, "/v1/volumes", nil, &all)
		cancel()
		if err == nil {
			var held []savedHold
			for _, r := range all {
				if r.Owner != nil && r.Owner.Node == p.node.ID {
					held = append(held, savedHold{Volume: r, MountID: r.Owner.MountID, Count: 1, Mounted: true, Since: r.Owner.Since})
				}
			}
			return held
		}
		p.log.Warn("this node's plugin is new and asks the leading manager what is mounted here", "error", err)
		if !sleep(ctx, time.Second) {
			return nil
		}
	}
}

// remount gets back at a filesystem that containers have mounted, but this mount
// namespace does not show (a forced disable of the plugin took it away): the same
// device is mounted once more, which the kernel makes the same filesystem.
func (p *plugin) remount(ctx context.Context, s savedHold, times savedTimes) {
	v := p.volume(s.Volume.Name)
	v.work.Lock()
	defer v.work.Unlock()
	dev, err := p.backend.Attach(ctx, s.Volume.Device)
	if errors.Is(err, blockstore.ErrMissing) {
		return
	}
	if err != nil {
		v.log.Warn("device of a volume that was mounted here cannot be looked at", "device", s.Volume.Device, "error", err)
		return
	}
	defer dev.Close()
	if _, err := filesystem.Probe(ctx, dev.Path); !errors.Is(err, unix.EBUSY) {
		return // unused: the mount went with the node's restart
	}
	target := p.target(v.name)
	if err := os.MkdirAll(target, 0o711); err != nil {
		v.log.Error("mount point", "error", err)
		return
	}
	if err := filesystem.Mount(dev.Path, s.Volume.Filesystem, target); err != nil {
		v.log.Error("device is in use, but its filesystem cannot be reached", "error", err)
		return
	}
	h := s.restored(times.Leases[v.name], p.now(), dev.Path, dev.Major, dev.Minor)
	v.setHold(h)
	v.log.Info("mounted again what containers still use", "epoch", h.epoch)
}

// adopt decides about a mount of which the state file knows nothing: the leader's
// record may say that it is this node's; else it is fenced.
func (p *plugin) adopt(ctx context.Context, name string, m filesystem.Mounted) {
	v := p.volume(name)
	call, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var rec api.Volume
	sent := p.now()
	err := p.leader.Call(call, http.MethodGet, "/v1/volumes/"+name, nil, &rec)
	h := newHold(api.Volume{VolumeSpec: api.VolumeSpec{Name: name, Filesystem: m.Type}}, "", sent+restartGrace)
	if err == nil && rec.Owner != nil && rec.Owner.Node == p.node.ID {
		h = newHold(rec, rec.Owner.MountID, sent+restartGrace)
		h.count = 1
	}
	h.setMounted(blockDevice(m.Minor), m.Major, m.Minor)
	v.setHold(h)
	if h.mountID == "" {
		v.fence(h, "it is mounted here, but not by any record", false)
		return
	}
	v.log.Info("took up a mount by the leader's record", "epoch", h.epoch)
}

func (p *plugin) reconcileLoop(ctx context.Context) {
	for sleep(ctx, reconcileInterval) {
		p.reconcileAll(ctx)
	}
}

// reconcileAll compares the holds with Docker's containers.
func (p *plugin) reconcileAll(ctx context.Context) {
	var names []string
	p.mu.Lock()
	for name := range p.releases {
		defer p.flushRelease(ctx, name)
	}
	p.mu.Unlock()
	for _, v := range p.all() {
		if v.holding() != nil || v.afterFence() {
			names = append(names, v.name)
		}
	}
	if len(names) == 0 {
		p.cleanRuntimes(ctx)
		return
	}
	call, cancel := context.WithTimeout(ctx, 5*time.Second)
	users, err := p.engine.Users(call, names)
	cancel()
	if err != nil {
		p.log.Debug("Docker does not list its containers", "error", err)
		users = nil
	}
	for _, name := range names {
		v := p.volume(name)
		if h := v.holding(); h != nil {
			v.settle(h, users[name], err == nil)
			continue
		}
		v.killLate(ctx, users[name])
	}
	p.cleanRuntimes(ctx)
}

// reconcile does for one volume what reconcileAll does for all.
func (v *heldVolume) reconcile(ctx context.Context, h *hold) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	users, err := v.p.engine.Users(ctx, []string{v.name})
	v.settle(h, users[v.name], err == nil)
}

// settle ends a hold that is over. listed: users is what Docker says.
func (v *heldVolume) settle(h *hold, users []user, listed bool) {
	v.mu.Lock()
	busy := v.job != nil && !h.isMounted()
	v.mu.Unlock()
	if busy {
		return
	}
	var idle time.Duration
	var seen bool
	if listed {
		idle, seen = h.observe(users, v.p.now())
	}
	patience := idleUnseen
	if seen {
		patience = idleSeen
	}
	over := h.isFenced() || h.isLeaving() || listed && idle > patience
	if !over {
		return
	}
	// In the background: another volume's turn is next.
	if !v.work.TryLock() {
		return // something is being done about it
	}
	h.leave(true)
	go func() {
		defer v.work.Unlock()
		if v.holding() != h {
			return
		}
		if idle > 0 && !h.isFenced() {
			v.log.Warn("no container uses the volume and Docker has not unmounted it; giving it up", "mount", h.mountID, "idle", idle.Round(time.Millisecond).String())
		}
		if h.isFenced() && !h.isInert() && filesystem.Shutdown(v.p.target(v.name)) == nil {
			h.setInert()
		}
		if err := v.drop(h); err != nil {
			v.log.Error("volume not given up yet; it is tried again", "error", err)
		}
	}()
}
