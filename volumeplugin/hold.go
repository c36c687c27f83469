package volumeplugin

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/diskusage"
)

// softFence is how long before the end of its lease an engine must have stopped,
// so that a clean stop comes before the fence.
const softFence = 1500 * time.Millisecond

// heldVolume is a volume that this node has had to do with.
type heldVolume struct {
	p    *plugin
	name string
	log  hclog.Logger

	// work is held over everything that touches the volume's device or mount, so
	// that one thing happens to it at a time. Reports, leases and the beginning
	// of a fence never wait for it.
	work sync.Mutex

	mu   sync.Mutex // guards the following, never held over I/O
	hold *hold      // nil: this node does not hold the volume
	job  *mountJob  // nil: nobody is mounting it
	// fencedAt is when a hold was fenced last, by the plugin's clock; 0: none was.
	fencedAt time.Duration
}

// hold is one tenure of this node: from the leader's grant until the volume is
// unmounted and its device gone.
type hold struct {
	epoch   uint64
	mountID string
	since   time.Time
	// ctx ends when the hold is fenced, and with it whatever is being done.
	ctx    context.Context
	cancel context.CancelFunc

	// begun is when it began, by the plugin's clock. Orders that the leader sent
	// before are void: the member may have another role since.
	begun time.Duration

	mu       sync.Mutex
	volume   api.Volume
	count    int           // how many times Docker has mounted mountID
	deadline time.Duration // of the lease, by the plugin's clock
	mounted  bool
	major    uint32
	minor    uint32
	device   string // path of the block device
	size     int64  // of the device and its filesystem, bytes; 0: not known
	problem  string // why an order about the volume could not be carried out
	remount  bool   // the filesystem can only grow before the next mount
	fenced   string // why; "" while it is not
	leaving  bool   // it is being given up: too late for another mount
	inert    bool   // fenced, and no write can reach the device any more
	// users are the containers on the volume as Docker listed them last.
	users    []user
	seenLive bool
	idle     time.Duration // since when no container lives; 0: one does, or it is not known
}

func newHold(v api.Volume, mountID string, deadline time.Duration) *hold {
	ctx, cancel := context.WithCancel(context.Background())
	return &hold{epoch: v.Epoch, mountID: mountID, since: time.Now(), ctx: ctx, cancel: cancel, volume: v, deadline: deadline}
}

// holding returns the current hold or nil.
func (v *heldVolume) holding() *hold {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hold
}

func (v *heldVolume) setHold(h *hold) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h != nil {
		h.begun = v.p.now()
	}
	v.hold = h
}

// busy says whether the volume is held here or about to be.
func (v *heldVolume) busy() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hold != nil || v.job != nil
}

// hasOther tells whether the volume is mounted here from another device than this one,
// which is a former one then.
func (v *heldVolume) hasOther(device string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.job == nil && v.hold != nil && v.hold.isMounted() && v.hold.record().Device != device
}

func (h *hold) saved() savedHold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return savedHold{Volume: h.volume, MountID: h.mountID, Count: h.count, Mounted: h.mounted, Since: h.since}
}

// restored is the hold that a plugin before this one had saved. Its deadline is
// the saved one, or a little from now if that is over, so that the leader can be
// asked before anything is fenced.
func (s savedHold) restored(until, now time.Duration, device string, major, minor uint32) *hold {
	h := newHold(s.Volume, s.MountID, max(min(until, now+s.Volume.LeaseTime()), now+restartGrace))
	h.since, h.count, h.seenLive = s.Since, s.Count, s.Count > 0
	h.setMounted(device, major, minor)
	return h
}

func (h *hold) until() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.deadline
}

// renew extends the lease, if it still holds. One that has run out is over, even
// if the fence has not come to it yet, as after a pause: from then on the leader
// and the witnesses may have given the volume away.
func (h *hold) renew(until, now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fenced == "" && now < h.deadline {
		h.deadline = max(h.deadline, until)
	}
}

// valid says why nothing may be written any more, or nil.
func (h *hold) valid(now time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.fenced != "":
		return fmt.Errorf("volume %s was fenced: %s", h.volume.Name, h.fenced)
	case now >= h.deadline:
		return fmt.Errorf("the lease of volume %s ran out before it was mounted: the leading manager did not answer in time", h.volume.Name)
	}
	return nil
}

// soft is what remains of the lease for an engine; 0: it must not run.
func (h *hold) soft(now time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fenced != "" || !h.mounted {
		return 0
	}
	return max(0, h.deadline-now-softFence)
}

func (h *hold) record() api.Volume {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.volume
}

func (h *hold) setRecord(change func(*api.Volume)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.volume)
}

func (h *hold) setMounted(device string, major, minor uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mounted, h.device, h.major, h.minor = true, device, major, minor
	h.size = sizeOf(device)
}

// sizeOf returns the size of a block device in bytes, 0 if it cannot be told.
func sizeOf(device string) int64 {
	f, err := os.Open(device)
	if err != nil {
		return 0
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0
	}
	return size
}

func (h *hold) setSize(size int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size, h.problem, h.remount = size, "", false
}

func (h *hold) setGrowsAtMount() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remount, h.problem = true, ""
}

func (h *hold) setProblem(problem string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problem = problem
}

// reported is the hold as the leader hears of it.
func (h *hold) reported(target string) api.HeldVolume {
	usage := h.usage(target) // not under the lock: it is a look at a filesystem
	r := h.state()
	r.Usage = usage
	return r
}

// usage measures the filesystem on target, if it is this hold's: what is mounted
// there may have come or gone meanwhile.
func (h *hold) usage(target string) api.Usage {
	h.mu.Lock()
	measured, device := h.mounted && h.fenced == "" && !h.leaving, unix.Mkdev(h.major, h.minor)
	h.mu.Unlock()
	var st unix.Stat_t
	if !measured {
		return api.Usage{}
	}
	usage, err := diskusage.Of(target)
	if err != nil || unix.Stat(target, &st) != nil || st.Dev != device {
		return api.Usage{}
	}
	return usage
}

// state is what is reported without a look at the filesystem.
func (h *hold) state() api.HeldVolume {
	h.mu.Lock()
	defer h.mu.Unlock()
	return api.HeldVolume{Name: h.volume.Name, Epoch: h.epoch, MountID: h.mountID, Mounted: h.mounted, Size: h.size, GrowsAtMount: h.remount, Problem: h.problem}
}

func (h *hold) isMounted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mounted
}

func (h *hold) isFenced() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fenced != ""
}

// enter counts one more of Docker's mounts; false: the hold is no longer good for it.
func (h *hold) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fenced != "" || h.leaving || !h.mounted {
		return false
	}
	h.count++
	return true
}

// exit counts one of Docker's mounts less and returns what is left.
func (h *hold) exit() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count = max(0, h.count-1)
	return h.count
}

// leave makes sure that nobody enters any more; false: somebody is in. force
// throws out mounts whose containers are gone.
func (h *hold) leave(force bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count > 0 && !force {
		return false
	}
	h.count, h.leaving = 0, true
	return true
}

// beginFence makes the hold useless from now on; false: it was fenced before.
func (h *hold) beginFence(reason string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fenced != "" {
		return false
	}
	h.fenced = reason
	h.cancel()
	return true
}

// setInert notes that no write can reach the device any more.
func (h *hold) setInert() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inert = true
}

func (h *hold) isInert() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inert
}

// containers returns the containers that were on the volume when Docker was last
// asked.
func (h *hold) containers() []user {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.users
}

// observe notes who uses the volume, and returns for how long nobody has.
func (h *hold) observe(users []user, now time.Duration) (idle time.Duration, seenLive bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users = users
	for _, u := range users {
		starting := u.Created && time.Since(h.since) < idleUnseen
		if u.Live || starting {
			h.seenLive, h.idle = h.seenLive || u.Live, 0
			return 0, true
		}
	}
	if h.idle == 0 {
		h.idle = now
	}
	return now - h.idle, h.seenLive
}

func (h *hold) isLeaving() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leaving
}
