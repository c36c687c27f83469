package volumeplugin

import (
	"context"
	"errors"
	"math"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

const (
	// watchInterval is how often leases are compared with the clock. Timers stand
	// still while a machine is suspended, the clock does not.
	watchInterval = 100 * time.Millisecond
	// reportTimeout is how long one report may take with all managers together.
	reportTimeout = 2 * time.Second
	// hedgeAfter is when the next manager is asked too.
	hedgeAfter = 400 * time.Millisecond
	// statusKept is for how long an agent's word is passed on.
	statusKept = 3 * time.Second
)

// watchLeases fences every hold whose lease has run out.
func (p *plugin) watchLeases(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		p.checkLeases()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// checkLeases is the first thing that runs after a pause.
func (p *plugin) checkLeases() {
	now := p.now()
	for _, v := range p.all() {
		if h := v.holding(); h != nil && now >= h.until() {
			v.fence(h, "its lease ran out "+(now-h.until()).Round(time.Millisecond).String()+" ago: no leading manager answered", true)
		}
	}
}

// fence cuts this node off from the volume: first nothing can write any more, then
// everything else. It returns at once. flush: what was written before belongs on
// the device, since nobody else can have it yet.
func (v *heldVolume) fence(h *hold, reason string, flush bool) {
	if !h.beginFence(reason) {
		return
	}
	late := v.p.now() - h.until()
	v.mu.Lock()
	v.fencedAt = v.p.now()
	v.mu.Unlock()
	// In one goroutine from here: the ioctl can hang on a dead disk, and other
	// volumes must not wait for that.
	go func() {
		mounted := h.isMounted()
		v.log.Error("fencing", "reason", reason, "epoch", h.epoch, "mounted", mounted)
		if mounted {
			err := filesystem.Shutdown(v.p.target(v.name))
			if err == nil {
				h.setInert()
				if flush && late < api.LeaseMargin/2 {
					// Metadata that was committed must not reach the device later than now.
					if err := filesystem.Flush(h.device); err != nil {
						v.log.Debug("fenced device not flushed", "error", err)
					}
				}
			} else {
				v.log.Error("the filesystem could not be shut down; killing what uses it", "error", err)
			}
		}
		v.p.killUsers(v, h)
		v.work.Lock()
		defer v.work.Unlock()
		if v.holding() != h {
			return
		}
		if !mounted && !h.isMounted() {
			h.setInert()
		}
		if err := v.drop(h); err != nil {
			v.log.Error("fenced, but not cleaned up; it is tried again", "error", err)
		}
	}()
}

// killUsers kills the containers on a fenced volume, with Docker's help or
// without.
func (p *plugin) killUsers(v *heldVolume, h *hold) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	users := h.containers()
	// First what is known to be there, without Docker: while they live the device
	// stays, and the next owner does not wait.
	for _, u := range users {
		if err := killProcesses(u.ID); err != nil {
			v.log.Warn("processes of a container on a fenced volume not killed", "container", u.Name, "error", err)
		}
	}
	list, stop := context.WithTimeout(ctx, time.Second)
	if all, err := p.engine.Users(list, []string{v.name}); err == nil {
		users = all[v.name]
	}
	stop()
	var wait sync.WaitGroup
	for _, u := range users {
		if !u.Live {
			continue
		}
		wait.Go(func() {
			err := p.engine.Kill(ctx, u.ID)
			if err != nil {
				err = killProcesses(u.ID)
			}
			v.log.Warn("killed the container on a fenced volume", "container", u.Name, "error", err)
		})
	}
	wait.Wait()
}

// lateAfter is for how long after a fence containers are looked for that Docker was
// about to start then, and that nobody could kill yet.
const lateAfter = 2 * time.Minute

// afterFence tells whether the volume was fenced a moment ago, and nobody mounts it anew.
func (v *heldVolume) afterFence() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fencedAt != 0 && v.p.now()-v.fencedAt < lateAfter && v.hold == nil && v.job == nil
}

// killLate kills containers that run on a mount of a volume that was fenced: they have
// nothing to work on, and only a new container gets a new mount.
func (v *heldVolume) killLate(ctx context.Context, users []user) {
	for _, u := range users {
		if !u.Live || !v.afterFence() {
			continue
		}
		err := v.p.engine.Kill(ctx, u.ID)
		v.log.Warn("killed a container that started on a fenced volume", "container", u.Name, "error", err)
	}
}

// reportLoop renews the leases of this node every api.ReportInterval.
func (p *plugin) reportLoop(ctx context.Context) {
	tick := time.NewTicker(api.ReportInterval)
	defer tick.Stop()
	inRounds(ctx, tick.C, p.report, func() { p.noteLeader(p.reportOnce(ctx)) })
}

// inRounds calls do now, at every tick and whenever it is asked to. Two calls may be under
// way, so that one that hangs does not delay the next; what is asked for meanwhile is done
// as soon as one of them is over.
func inRounds(ctx context.Context, tick <-chan time.Time, ask chan struct{}, do func()) {
	var round sync.WaitGroup
	defer round.Wait()
	var owed atomic.Bool
	slots := make(chan struct{}, 2)
	for {
		owed.Store(true)
		select {
		case slots <- struct{}{}:
			owed.Store(false)
			round.Go(func() {
				do()
				<-slots
				if owed.Swap(false) {
					kick(ask)
				}
			})
		default: // who is under way sees that it is owed
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		case <-ask:
		}
	}
}

// noteLeader logs when the leader goes and comes.
func (p *plugin) noteLeader(err error) {
	if gone := err != nil; p.leaderless.Swap(gone) == gone {
		return
	}
	if err != nil {
		p.log.Warn("no leading manager answers", "error", err)
		return
	}
	p.log.Info("a leading manager answers again")
}

// reportOnce sends one report and does what the answer says.
func (p *plugin) reportOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	for {
		full, report := p.nextReport()
		sent := p.now()
		answer, err := p.callAny(ctx, report)
		if err != nil {
			if errors.Is(err, errNoLeader) {
				p.denied.Store(int64(sent))
			}
			return err
		}
		p.last.Store(int64(p.now()))
		// Taken before it counts as answered: what a later report leaves out because this
		// one has said it, the leader answers with "the same".
		if !answer.Again {
			p.take(full, answer, sent)
		}
		switch again := p.sender.Answered(report, answer); {
		case !again:
			return nil
		case report.Since == 0:
			return errors.New("the leading manager asks for what it was sent")
		}
		// A new leader: it has heard nothing from this node yet, and wants all of it.
	}
}

// nextReport returns what there is to report, and what of it is sent.
func (p *plugin) nextReport() (full, sent api.Report) {
	p.reporting.Lock() // what is numbered later is observed later
	defer p.reporting.Unlock()
	full = p.buildReport()
	return full, p.sender.Next(full)
}

func (p *plugin) buildReport() api.Report {
	r := api.Report{
		Boot: p.boot, Version: p.Version, Storage: p.backend.Storage(), Rebuilding: !p.rebuilt.Load(),
		Volumes: []api.HeldVolume{}, Members: []api.MemberStatus{},
	}
	for _, v := range p.all() {
		if h := v.holding(); h != nil {
			r.Volumes = append(r.Volumes, h.reported(p.target(v.name)))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, rt := range p.runtimes {
		if s, ok := rt.status(statusKept); ok {
			r.Members = append(r.Members, s)
		}
	}
	for _, o := range p.purged {
		r.Purged = append(r.Purged, o)
	}
	for _, s := range p.snapshots {
		r.Snapshots = append(r.Snapshots, s)
	}
	return r
}

// take does what the leader's answer to report says.
func (p *plugin) take(report api.Report, answer api.ReportAnswer, sent time.Duration) {
	lost, goesOn := setOf(answer.Lost), setOf(answer.Renewed)
	renewed := false
	for _, held := range report.Volumes {
		v := p.volume(held.Name)
		h := v.holding()
		if h == nil || h.epoch != held.Epoch {
			continue
		}
		switch {
		case lost[held.Name]:
			v.fence(h, "the leading manager says that this node no longer holds it", false)
		case goesOn[held.Name] && answer.Lease > 0:
			lease := answer.Lease
			if longer, ok := answer.Longer[held.Name]; ok {
				lease = longer
			}
			h.renew(sent+lease, p.now())
			renewed = true
		}
	}
	if renewed {
		p.noteTimes()
	}
	p.mu.Lock()
	if len(answer.Nodes) > 0 {
		p.nodes = answer.Nodes
	}
	news := false
	for _, o := range answer.Orders {
		// Two reports may be under way: the answer to the later one counts.
		old, known := p.orders[o.Member]
		if known && old.at > sent {
			continue
		}
		news = news || !known || !reflect.DeepEqual(old.MemberOrders, o)
		p.orders[o.Member] = sentOrders{o, sent}
	}
	for _, member := range answer.Same {
		if old, known := p.orders[member]; known && old.at < sent {
			old.at = sent // the leader says so again
			p.orders[member] = old
		}
	}
	if news {
		for _, r := range p.runtimes {
			r.changed()
		}
	}
	for name, o := range p.purged {
		if slices.Contains(report.Purged, o) && !slices.Contains(answer.Purge, o) {
			delete(p.purged, name) // the leader knows
		}
	}
	for device, s := range p.snapshots {
		wanted := slices.ContainsFunc(answer.Snapshot, func(o api.SnapshotOrder) bool { return o.Device == device })
		if slices.Contains(report.Snapshots, s) && !wanted {
			delete(p.snapshots, device)
		}
	}
	p.mu.Unlock()
	for _, o := range answer.Purge {
		p.purge(o)
	}
	for _, o := range answer.Grow {
		go p.volume(o.Name).grow(o)
	}
	for _, o := range answer.Snapshot {
		go p.volume(o.Name).snapshot(o)
	}
}

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// purge deletes a volume's device as ordered.
func (p *plugin) purge(o api.PurgeOrder) {
	v := p.volume(o.Name)
	if !v.work.TryLock() {
		return // the order is repeated
	}
	defer v.work.Unlock()
	if v.busy() && !v.hasOther(o.Device) {
		p.log.Warn("a volume that is to be deleted is still in use here", "volume", o.Name)
		return
	}
	p.mu.Lock()
	done := p.purged[o.Name]
	p.mu.Unlock()
	if done == o {
		return
	}
	// Looked at before and after: a share can go or come at any moment.
	here := func() bool { return p.backend.Storage().Location == o.Location }
	if !here() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := p.backend.Delete(ctx, o.Device)
	if err == nil {
		err = p.backend.AbandonOlder(o.Device, math.MaxUint64)
	}
	if err == nil && !here() {
		err = errors.New("the folder has changed meanwhile")
	}
	if err != nil {
		p.log.Warn("volume not deleted yet", "volume", o.Name, "device", o.Device, "error", err)
		return
	}
	p.log.Info("deleted a volume's device as ordered", "volume", o.Name, "device", o.Device)
	p.mu.Lock()
	p.purged[o.Name] = o
	p.mu.Unlock()
}

// errNoLeader is an answer, unlike a silence: every manager was asked and none leads.
var errNoLeader = errors.New("no manager leads")

// callAny sends the report to the manager that answered last and, if that takes
// long, to the others as well. A report may arrive more than once. If all have answered
// that they do not lead, or their nodes that no manager runs, it is an errNoLeader.
func (p *plugin) callAny(ctx context.Context, report api.Report) (api.ReportAnswer, error) {
	addresses, err := p.leader.Addresses(ctx)
	if err != nil {
		return api.ReportAnswer{}, err
	}
	addresses = slices.Clone(addresses)
	if first := p.preferred.Load(); first != nil {
		if i := slices.Index(addresses, *first); i > 0 {
			addresses[0], addresses[i] = addresses[i], addresses[0]
		}
	}
	type result struct {
		answer  api.ReportAnswer
		address string
		err     error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, len(addresses))
	hedge := time.NewTimer(0)
	defer hedge.Stop()
	var errs []error
	silent := false
	for next, open := 0, 0; ; {
		select {
		case <-hedge.C:
			if next < len(addresses) {
				address := addresses[next]
				next, open = next+1, open+1
				go func() {
					var a api.ReportAnswer
					err := p.leader.CallOne(ctx, address, http.MethodPost, "/v1/report", report, &a)
					results <- result{a, address, err}
				}()
				hedge.Reset(hedgeAfter)
			}
		case r := <-results:
			if r.err == nil {
				p.preferred.Store(&r.address)
				return r.answer, nil
			}
			errs, silent = append(errs, r.err), silent || !saysNo(r.err)
			if open--; open == 0 && next == len(addresses) {
				if !silent {
					errs = append(errs, errNoLeader)
				}
				return api.ReportAnswer{}, errors.Join(errs...)
			}
			hedge.Reset(0)
		case <-ctx.Done():
			return api.ReportAnswer{}, errors.Join(append(errs, ctx.Err())...)
		}
	}
}

// saysNo tells whether err is the word of a manager that no leader can be asked through it,
// or of its node that no manager runs there.
func saysNo(err error) bool {
	var refused *api.Error
	return errors.As(err, &refused) && refused.Code == api.ErrNotLeader || errors.Is(err, unix.ECONNREFUSED)
}
