package swarmmanager

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarm"
)

// Sizes that a volume can have, in bytes. XFS refuses to be smaller than 300 MiB.
const (
	defaultSize = 1 << 30
	minSize     = 64 << 20
	minSizeXFS  = 300 << 20
)

// volumes are the volume records and the rules by which they change. A change is
// a compare-and-swap in Raft; the copy in memory only spares reads. It is safe
// for concurrent use.
type volumes struct {
	store      *store.Store
	cluster    *swarm.Cluster
	leases     *leases
	leadership *leadership
	nodes      *nodeView
	// leaseWanted is how long the leases of a volume shall be, as its application asks.
	leaseWanted func(v api.Volume) time.Duration
	barNode     func(ctx context.Context, node string) error
	now         clock
	log         hclog.Logger

	mu      sync.Mutex
	cache   map[string]store.Record[api.Volume] // nil: not loaded
	view    *volumeView                         // of cache; nil: it has changed since
	doubt   map[string]bool                     // to be read again
	broken  store.Unreadable                    // what cache lacks, since it cannot be read
	revoked map[string]uint64                   // volume: epoch whose owner is to let go
	absent  map[string]absence
	locks   map[string]*sync.Mutex // by volume, for changes
}

// absence is since when the owner of a volume reports without it.
type absence struct {
	epoch uint64
	since time.Duration
}

// absenceToRelease is how long an owner must have reported without a volume
// before it counts as released. A report can be older than the attach and be the
// last that gets through: by then the lease that came with the attach is over.
func absenceToRelease(v api.Volume) time.Duration { return v.LeaseTime() + api.LeaseMargin }

// forget drops what was learned in a former leadership.
func (v *volumes) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cache, v.view, v.doubt, v.revoked, v.absent = nil, nil, nil, map[string]uint64{}, map[string]absence{}
}

// takeOver writes each record that has an owner once more before this manager
// answers anybody. What a former leader has decided but not written yet, because
// its process was paused, names a version that is no longer the record's then: it
// cannot take a volume from an owner whose lease this leader renews.
func (v *volumes) takeOver(ctx context.Context) error {
	v.forget()
	records, err := store.List[api.Volume](ctx, v.store, store.KindVolume)
	if unreadable := (store.Unreadable{}); err != nil && !errors.As(err, &unreadable) {
		return err
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, 8) // Raft writes in batches what comes together
	for _, r := range records {
		if r.Value.Owner == nil {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if _, err := store.Update(ctx, v.store, store.KindVolume, r, r.Value); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (v *volumes) lock(name string) func() {
	v.mu.Lock()
	if v.locks == nil {
		v.locks = map[string]*sync.Mutex{}
	}
	l := v.locks[name]
	if l == nil {
		l = &sync.Mutex{}
		v.locks[name] = l
	}
	v.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// volumeView is all volumes at one moment. Nobody changes it.
type volumeView struct {
	all     map[string]store.Record[api.Volume] // by name
	ownedBy map[string][]string                 // names, by node
	of      map[string][]string                 // names, by application
	purging []string
	former  []string // those with a former device that is to be deleted
}

func viewOf(records map[string]store.Record[api.Volume]) *volumeView {
	view := &volumeView{all: maps.Clone(records), ownedBy: map[string][]string{}, of: map[string][]string{}}
	for name, r := range records {
		if o := r.Value.Owner; o != nil {
			view.ownedBy[o.Node] = append(view.ownedBy[o.Node], name)
		}
		if r.Value.Application != "" {
			view.of[r.Value.Application] = append(view.of[r.Value.Application], name)
		}
		if r.Value.Purging {
			view.purging = append(view.purging, name)
		}
		if r.Value.Former != "" {
			view.former = append(view.former, name)
		}
	}
	return view
}

// all returns every volume by name, in a map that nobody changes.
func (v *volumes) all(ctx context.Context) (map[string]store.Record[api.Volume], error) {
	view, err := v.look(ctx)
	if err != nil {
		return nil, err
	}
	return view.all, nil
}

func (v *volumes) look(ctx context.Context) (*volumeView, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.load(ctx); err != nil {
		return nil, err
	}
	if v.view == nil {
		v.view = viewOf(v.cache)
	}
	return v.view, nil
}

// load reads all records if they are not known, and those again that are in doubt. It
// takes the time that this takes: at a caller that has lost patience all others would
// begin anew. The caller holds v.mu.
func (v *volumes) load(ctx context.Context) error {
	if v.cache != nil && len(v.doubt) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	v.view = nil
	if v.cache == nil {
		records, err := store.List[api.Volume](ctx, v.store, store.KindVolume)
		v.broken = nil // one that cannot be read must not stop the others
		if err != nil && !errors.As(err, &v.broken) {
			return err
		}
		v.cache, v.doubt = make(map[string]store.Record[api.Volume], len(records)), nil
		for _, r := range records {
			v.cache[r.Name] = r
		}
	}
	for name := range v.doubt {
		delete(v.cache, name)
		delete(v.broken, name)
		r, err := store.Get[api.Volume](ctx, v.store, store.KindVolume, name)
		switch {
		case err == nil:
			v.cache[name] = r
		case !errors.Is(err, store.ErrNotFound):
			if v.broken == nil {
				v.broken = store.Unreadable{}
			}
			v.broken[name] = err
			continue // stays in doubt
		}
		delete(v.doubt, name)
	}
	return nil
}

// loadTimeout bounds what a load may take.
const loadTimeout = 10 * time.Second

// know notes a record that was written.
func (v *volumes) know(r store.Record[api.Volume]) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cache != nil {
		v.cache[r.Name], v.view = r, nil
	}
}

// unknown has a record read again: it may have been written or not.
func (v *volumes) unknown(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.doubt == nil {
		v.doubt = map[string]bool{}
	}
	v.doubt[name], v.view = true, nil
}

func (v *volumes) get(ctx context.Context, name string) (store.Record[api.Volume], error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.load(ctx); err != nil {
		return store.Record[api.Volume]{}, err
	}
	r, ok := v.cache[name]
	if broken := v.broken[name]; !ok && broken != nil {
		return r, broken
	}
	if !ok {
		return r, refuse(api.ErrNotFound, "there is no volume %s; make it with `docker volume create -d %s -o size=1GiB %s`", name, api.PluginName, name)
	}
	return r, nil
}

// change writes what edit makes of the record, if it is still the one that was
// read and this manager leads.
func (v *volumes) change(ctx context.Context, r store.Record[api.Volume], edit func(*api.Volume)) (store.Record[api.Volume], error) {
	if !v.leadership.acting() {
		return r, refuse(api.ErrNotLeader, "this manager no longer leads; ask again")
	}
	value := r.Value
	edit(&value)
	next, err := store.Update(ctx, v.store, store.KindVolume, r, value)
	if err != nil {
		v.unknown(r.Name)
		return r, err
	}
	v.know(next)
	return next, nil
}

// create declares a volume, or takes a retained one up again.
func (v *volumes) create(ctx context.Context, req api.CreateRequest) (api.Volume, error) {
	spec, err := parseSpec(req)
	if err != nil {
		return api.Volume{}, err
	}
	defer v.lock(spec.Name)()
	r, err := v.get(ctx, spec.Name)
	var refused *api.Error
	switch {
	case errors.As(err, &refused) && refused.Code == api.ErrNotFound:
	case err != nil:
		return api.Volume{}, err
	default:
		return v.takeUp(ctx, r, spec, req)
	}
	if !v.leadership.acting() {
		return api.Volume{}, refuse(api.ErrNotLeader, "this manager no longer leads; ask again")
	}
	volume := api.Volume{
		VolumeSpec: spec, Phase: api.PhaseDeclared, UUID: newUUID(),
		Device: spec.Name + "-" + randomID(4) + ".img", Created: time.Now().UTC(),
	}
	r, err = store.Create(ctx, v.store, store.KindVolume, spec.Name, volume)
	if err != nil {
		v.unknown(spec.Name)
		return api.Volume{}, err
	}
	failpoint.Hit("create:volume-declared")
	v.know(r)
	v.log.Info("volume declared", "volume", spec.Name, "size", spec.Size, "fs", spec.Filesystem)
	return r.Value, nil
}

// takeUp answers a create of a volume that exists.
func (v *volumes) takeUp(ctx context.Context, r store.Record[api.Volume], want api.VolumeSpec, req api.CreateRequest) (api.Volume, error) {
	have := r.Value
	differs := func(option, has string) (api.Volume, error) {
		return have, refuse(api.ErrConflict, "volume %s exists with %s=%s; create it with that, or choose another name", have.Name, option, has)
	}
	switch {
	case have.Purging:
		return have, refuse(api.ErrConflict, "volume %s is being deleted on request; create it again when `docker openmanage volume ls` no longer shows it", have.Name)
	case req.Options[api.OptionSize] != "" && want.Size > have.Size: // it may have grown since
		return differs(api.OptionSize, units.BytesSize(float64(have.Size)))
	case req.Options[api.OptionFilesystem] != "" && want.Filesystem != have.Filesystem:
		return differs(api.OptionFilesystem, have.Filesystem)
	case req.Options[api.OptionOwner] != "" && want.Owners != have.Owners:
		return differs(api.OptionOwner, cmp.Or(have.Owners, "0:0"))
	case want.Application != have.Application:
		return differs(api.OptionApplication, have.Application)
	case want.Member != have.Member:
		return differs(api.OptionMember, have.Member)
	}
	if have.Retained {
		var err error
		if r, err = v.change(ctx, r, func(n *api.Volume) { n.Retained = false }); err != nil {
			return have, err
		}
		v.log.Info("volume taken up again", "volume", have.Name)
	}
	return r.Value, nil
}

func parseSpec(req api.CreateRequest) (api.VolumeSpec, error) {
	spec := api.VolumeSpec{Name: req.Name, Size: defaultSize, Filesystem: "ext4", Backend: "file"}
	if err := api.ValidateVolumeName(req.Name); err != nil {
		return spec, refuse(api.ErrInvalid, "%v", err)
	}
	if strings.HasSuffix(req.Name, api.RuntimeSuffix) {
		return spec, refuse(api.ErrInvalid, "volume %s: names that end in %s are for members' runtime volumes", req.Name, api.RuntimeSuffix)
	}
	known := []string{api.OptionSize, api.OptionFilesystem, api.OptionOwner}
	for key, value := range req.Options {
		switch key {
		case api.OptionSize:
			size, err := units.RAMInBytes(value)
			if err != nil {
				return spec, refuse(api.ErrInvalid, "volume %s: size %q is no size; write it like 500MiB or 10GiB", req.Name, value)
			}
			spec.Size = size
		case api.OptionFilesystem:
			if value != "ext4" && value != "xfs" {
				return spec, refuse(api.ErrInvalid, "volume %s: fs %q is not known; choose ext4 or xfs", req.Name, value)
			}
			spec.Filesystem = value
		case api.OptionOwner:
			if _, _, err := api.ParseOwners(value); err != nil {
				return spec, refuse(api.ErrInvalid, "volume %s: %v", req.Name, err)
			}
			spec.Owners = value
		case api.OptionApplication:
			if err := api.ValidateApplicationName(value); err != nil {
				return spec, refuse(api.ErrInvalid, "volume %s: %v", req.Name, err)
			}
			spec.Application = value
		case api.OptionMember:
			if err := api.ValidateVolumeName(value); err != nil {
				return spec, refuse(api.ErrInvalid, "volume %s: its member: %v", req.Name, err)
			}
			spec.Member = value
		default:
			return spec, refuse(api.ErrInvalid, "volume %s: option %q is not known; there are %s", req.Name, key, strings.Join(known, ", "))
		}
	}
	least := int64(minSize)
	if spec.Filesystem == "xfs" {
		least = minSizeXFS
	}
	if spec.Size < least {
		return spec, refuse(api.ErrInvalid, "volume %s: %s is too small, %s needs %s", req.Name, units.BytesSize(float64(spec.Size)), spec.Filesystem, units.BytesSize(float64(least)))
	}
	spec.Size = spec.Size / 4096 * 4096
	return spec, nil
}

// retain marks a volume as no longer used by a Docker volume or an application.
// Its data stays.
func (v *volumes) retain(ctx context.Context, name string) error {
	defer v.lock(name)()
	r, err := v.get(ctx, name)
	if err != nil {
		return err
	}
	if o := r.Value.Owner; o != nil {
		return refuse(api.ErrHeld, "volume %s is in use on node %s; remove the container or service first", name, o.Hostname)
	}
	if r.Value.Retained {
		return nil
	}
	_, err = v.change(ctx, r, func(n *api.Volume) { n.Retained = true })
	return err
}

// attach makes node the owner of a volume, if that is safe now.
func (v *volumes) attach(ctx context.Context, node string, req api.AttachRequest) (api.Attachment, error) {
	defer v.lock(req.Name)()
	r, err := v.get(ctx, req.Name)
	if err != nil {
		return api.Attachment{}, err
	}
	facts, err := v.facts(ctx, r.Value, node, req)
	if err != nil {
		return api.Attachment{}, err
	}
	d := decideAttach(facts)
	log := v.log.With("volume", req.Name, "node", facts.hostname, "decision", d.String(), "epoch", r.Value.Epoch)
	if d.revoke {
		v.revoke(req.Name, r.Value.Epoch)
	}
	if d.refuse != nil {
		log.Debug("attach", "reason", d.refuse.Message)
		return api.Attachment{}, d.refuse
	}
	if d.same {
		v.leases.touch(node)
		return api.Attachment{Volume: r.Value, Lease: r.Value.LeaseTime()}, nil
	}
	if d.fence {
		if err := v.barNode(ctx, r.Value.Owner.Node); err != nil {
			return api.Attachment{}, refuse(api.ErrNotYet, "%s and may still hold its lease: %v", holder(r.Value), err)
		}
		if !v.takeAway(r) {
			return api.Attachment{}, refuse(api.ErrHeld, "%s, which has just reported again", holder(r.Value))
		}
	}
	failpoint.Hit("attach:decided")
	owner := &api.Owner{Node: node, Hostname: facts.hostname, MountID: req.MountID, Tenure: req.Tenure, Task: d.task, Since: time.Now().UTC().Truncate(time.Second)}
	next, err := v.change(ctx, r, func(n *api.Volume) {
		n.Owner, n.LastNode, n.Retained = owner, node, false
		n.Fence = n.Fence || d.fence
		n.Lease = v.leaseWanted(r.Value)
		n.Epoch++
	})
	if err != nil {
		return api.Attachment{}, err
	}
	failpoint.Hit("attach:owner-written")
	v.leases.touch(node)
	v.mu.Lock()
	delete(v.revoked, req.Name)
	delete(v.absent, req.Name)
	v.mu.Unlock()
	log.Info("attached", "new_epoch", next.Value.Epoch, "fence", next.Value.Fence)
	return api.Attachment{Volume: next.Value, Lease: next.Value.LeaseTime()}, nil
}

// revoke has the owner of epoch let go of the volume with its next report.
func (v *volumes) revoke(name string, epoch uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revoked[name] = epoch
}

// takeAway makes sure that no report renews the lease of the present owner from
// here on; false: one has since the decision was made, for example because the
// owner's plugin has started again.
func (v *volumes) takeAway(r store.Record[api.Volume]) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.leases.renewed(r.Value.Owner.Node, r.Value.LeaseTime()) {
		return false
	}
	v.revoked[r.Name] = r.Value.Epoch
	return true
}

// facts gathers what decideAttach needs.
func (v *volumes) facts(ctx context.Context, vol api.Volume, node string, req api.AttachRequest) (attachFacts, error) {
	nodes, err := v.nodes.get(ctx, 0)
	if err != nil {
		return attachFacts{}, err
	}
	uses, err := v.cluster.Uses(ctx, api.PluginName)
	if err != nil {
		return attachFacts{}, err
	}
	f := attachFacts{
		volume: vol, node: node, hostname: nodes[node].Description.Hostname, mountID: req.MountID, tenure: req.Tenure, location: req.Location,
		uses: uses[vol.Name], settled: v.leadership.settled(vol.LeaseTime()), now: time.Now(),
	}
	if o := vol.Owner; o != nil {
		f.ownerReady = ready(nodes[o.Node])
		f.ownerExpired = !v.leases.renewed(o.Node, vol.LeaseTime())
		f.silence = v.leases.silence(o.Node)
	}
	if report, _, ok := v.leases.last(node); ok {
		f.reported = slices.ContainsFunc(report.Volumes, func(h api.HeldVolume) bool { return h.Name == vol.Name && h.Epoch == vol.Epoch })
	}
	var where []string
	for id, n := range nodes {
		if report, _, ok := v.leases.last(id); ok && report.Storage.Location == vol.Location {
			where = append(where, n.Description.Hostname)
		}
	}
	slices.Sort(where)
	if f.where = strings.Join(where, ", "); f.where == "" {
		f.where = "node " + nodes[vol.LastNode].Description.Hostname
	}
	return f, nil
}

// owned returns the record if node owns it with epoch.
func (v *volumes) owned(ctx context.Context, name, node string, epoch uint64) (store.Record[api.Volume], error) {
	r, err := v.get(ctx, name)
	if err != nil {
		return r, err
	}
	if r.Value.Epoch != epoch || r.Value.Owner == nil || r.Value.Owner.Node != node {
		return r, refuse(api.ErrEpoch, "volume %s is no longer held by this node with epoch %d; it is at epoch %d", name, epoch, r.Value.Epoch)
	}
	return r, nil
}

var phases = []api.Phase{api.PhaseDeclared, api.PhaseProvisioned, api.PhaseFormatting, api.PhaseReady}

// progress records how far the owner has come.
func (v *volumes) progress(ctx context.Context, node string, req api.ProgressRequest) error {
	defer v.lock(req.Name)()
	r, err := v.owned(ctx, req.Name, node, req.Epoch)
	if err != nil {
		return err
	}
	from, to := slices.Index(phases, r.Value.Phase), slices.Index(phases, req.Phase)
	if to < from {
		return refuse(api.ErrInvalid, "volume %s is %s already and does not become %q", req.Name, r.Value.Phase, req.Phase)
	}
	if from > 0 && req.Location != "" && req.Location != r.Value.Location {
		return refuse(api.ErrConflict, "volume %s lies in folder %s, not %s", req.Name, r.Value.Location, req.Location)
	}
	if _, err := v.change(ctx, r, func(n *api.Volume) {
		n.Phase = req.Phase
		if req.Location != "" {
			n.Location = req.Location
		}
		if req.Device != "" {
			n.Device = req.Device
		}
		if req.Fenced {
			n.Fence = false
		}
	}); err != nil {
		return err
	}
	failpoint.Hit("attach:" + string(req.Phase))
	return nil
}

// release makes a volume free.
func (v *volumes) release(ctx context.Context, node string, req api.ReleaseRequest) error {
	defer v.lock(req.Name)()
	return v.free(ctx, node, req)
}

// free is release for who has the volume's lock.
func (v *volumes) free(ctx context.Context, node string, req api.ReleaseRequest) error {
	r, err := v.owned(ctx, req.Name, node, req.Epoch)
	var refused *api.Error
	if errors.As(err, &refused) && (refused.Code == api.ErrEpoch || refused.Code == api.ErrNotFound) {
		return nil // it was given back before
	}
	if err != nil {
		return err
	}
	failpoint.Hit("release:decided")
	_, err = v.change(ctx, r, func(n *api.Volume) { n.Owner = nil })
	if err == nil {
		v.log.Info("released", "volume", req.Name, "epoch", req.Epoch)
	}
	return err
}

// renew answers for the volumes of a report: which leases go on, and which the
// node must fence.
func (v *volumes) renew(ctx context.Context, node string, report api.Report) (renewed, lost []string, err error) {
	view, err := v.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	owned := 0 // of what is reported, each once: reports are in the order of names
	for _, h := range report.Volumes {
		r, ok := view.all[h.Name]
		if !ok && v.broken[h.Name] != nil {
			continue // nothing is known of it: its lease is neither renewed nor lost
		}
		owns := ok && r.Value.Owner != nil && r.Value.Owner.Node == node
		if owns {
			owned++
		}
		mine := owns && r.Value.Epoch == h.Epoch
		switch {
		case mine && v.revoked[h.Name] == h.Epoch && h.Epoch != 0:
			lost = append(lost, h.Name)
		case mine:
			renewed = append(renewed, h.Name)
			delete(v.absent, h.Name)
		default:
			lost = append(lost, h.Name)
		}
	}
	if len(renewed) > 0 {
		v.leases.touch(node) // under v.mu: see takeAway
	}
	if report.Rebuilding || owned == len(view.ownedBy[node]) {
		return renewed, lost, nil
	}
	held := make(map[string]bool, len(report.Volumes))
	for _, h := range report.Volumes {
		held[h.Name] = true
	}
	for _, name := range view.ownedBy[node] {
		if absent := view.all[name].Value; !held[name] && v.longAbsent(absent) {
			go v.releaseAbsent(name, node, absent.Epoch)
		}
	}
	return renewed, lost, nil
}

// longAbsent notes that an owner has reported without its volume and tells whether
// it has done so for long enough. The caller holds v.mu.
func (v *volumes) longAbsent(vol api.Volume) bool {
	a, ok := v.absent[vol.Name]
	if !ok || a.epoch != vol.Epoch {
		a = absence{epoch: vol.Epoch, since: v.now()}
		v.absent[vol.Name] = a
	}
	return v.now()-a.since > absenceToRelease(vol) && v.leadership.settled(vol.LeaseTime())
}

// releaseAbsent frees a volume whose owner does not know of it any more: its
// plugin was killed before it could say so.
func (v *volumes) releaseAbsent(name, node string, epoch uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	defer v.lock(name)()
	v.mu.Lock()
	still := v.absent[name].epoch == epoch
	v.mu.Unlock()
	if !still {
		return // it has reported it since
	}
	v.log.Info("owner reports without the volume", "volume", name, "epoch", epoch)
	if err := v.free(ctx, node, api.ReleaseRequest{Name: name, Epoch: epoch}); err != nil {
		v.log.Warn("release failed", "volume", name, "error", err)
	}
}

// remove deletes a volume's record; its device is gone.
func (v *volumes) remove(ctx context.Context, r store.Record[api.Volume]) error {
	if err := store.Delete(ctx, v.store, store.KindVolume, r); err != nil {
		v.unknown(r.Name)
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.cache, r.Name)
	v.view = nil
	return nil
}

// newUUID draws a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
