package swarmmanager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarm"
)

// applications keeps the records of applications in line with what is observed.
type applications struct {
	m   *Manager
	log hclog.Logger

	news *news
	// What was read of Swarm. Docker's events say what to read again while following;
	// otherwise each look at everything lists all.
	services   *serviceView
	records    *store.Mirror[store.Application]
	operations *store.Mirror[store.Operation]
	following  atomic.Bool
	lost       atomic.Bool // what was read is of a former leadership, or events were missed

	mu    sync.Mutex
	known map[string]*known
}

func newApplications(m *Manager) *applications {
	return &applications{
		m: m, log: m.log.Named("applications"), news: newNews(), known: map[string]*known{},
		services:   &serviceView{cluster: m.cluster},
		records:    store.NewMirror[store.Application](m.store, store.KindApplication),
		operations: store.NewMirror[store.Operation](m.store, store.KindOperation),
	}
}

// observed is what is there at one moment.
type observed struct {
	services map[string][]dockerswarm.Service // by application
	// uses are by volume, of members that are not heard, and of volumes of nodes that
	// Swarm does not hear: nobody needs to know the others. See allUses.
	uses     map[string][]swarm.Use
	nodes    map[string]dockerswarm.Node
	volumes  map[string]store.Record[api.Volume]
	volumeOf map[string][]string // names of volumes, by application
	records  map[string]store.Record[store.Application]
	statuses map[string]liveStatus // by volume
	reports  map[string]api.Report // by node
	now      time.Time             // to the second, for records
	precise  time.Time
	again    bool            // something is under way: observe again soon
	busy     map[string]bool // applications of which something is
	// silence is for how long a node has not been renewed.
	silence func(node string) time.Duration
	// bar asks the other managers to promise a silent node nothing more; an error:
	// it may still run on what they have promised before.
	bar func(node string) error
	// revoke has the owner of a volume's epoch let go of it.
	revoke func(volume string, epoch uint64)
	// operating tells whether an operation of an application has not ended.
	operating func(application string) bool
	// allUses are those of all volumes.
	allUses func() (map[string][]swarm.Use, error)
	// steady: every living node has had the time to report to this leader, so
	// that a missing word means something.
	steady bool
}

// lookAgain has the next observation come soon.
func (o *observed) lookAgain() { o.again = true }

// gone tells whether the lease of a volume has run out by its owner's own clock,
// which ends before ours.
func (o *observed) gone(v api.Volume) bool {
	return o.silence(v.Owner.Node) > v.LeaseTime()
}

// expired tells whether the owner has also had the time to end what ran on it.
func (o *observed) expired(v api.Volume) bool {
	return o.silence(v.Owner.Node) > v.LeaseTime()+api.LeaseMargin
}

// relist is how old what Docker's events keep up to date may become before all of it is
// listed again.
const relist = 30 * time.Second

// reconcile looks at everything.
func (a *applications) reconcile(ctx context.Context) (*observed, error) {
	return a.look(ctx, subjects{everything: true})
}

// formingFor is how long after its last service an application is taken as whole.
const formingFor = time.Second

// forming tells whether an application is just being deployed: its services come one
// by one, and what is decided of a new application is decided of all its members.
func forming(o *observed, name string) bool {
	if r, exists := o.records[name]; exists && r.Value.Removed == nil {
		return false
	}
	for _, s := range o.services[name] {
		if age := o.precise.Sub(s.CreatedAt); age >= 0 && age < formingFor {
			return true
		}
	}
	return false
}

// look observes, writes what has changed, and returns what is there now. It plans for
// the applications that what names and reads those anew, or it plans for all.
func (a *applications) look(ctx context.Context, what subjects) (*observed, error) {
	o, names, err := a.observeFor(ctx, what)
	if err != nil {
		return nil, err
	}
	var changes []change
	var errs []error
	for _, name := range names {
		if forming(o, name) {
			o.busy[name] = true
			continue
		}
		o.again = false
		c := a.plan(o, name)
		if o.again {
			o.busy[name] = true
		}
		errs = append(errs, a.retainVolumes(ctx, o, c.next), a.lengthenLeases(ctx, o, c.next))
		if !a.settled(o, c) {
			changes = append(changes, c)
		}
	}
	errs = append(errs, a.write(ctx, o, changes))
	switch {
	case what.everything: // what follows is of no one application
		errs = append(errs, a.m.volumes.freeAbandoned(ctx, o), a.reconcileNodes(ctx, o), a.reconcilePins(ctx, o))
	case slices.ContainsFunc(changes, moves):
		errs = append(errs, a.reconcilePins(ctx, o))
	}
	return o, errors.Join(errs...)
}

func (a *applications) observe(ctx context.Context) (*observed, error) {
	o, _, err := a.observeFor(ctx, subjects{everything: true})
	return o, err
}

// observeFor observes for a look at what, and returns the applications to look at.
func (a *applications) observeFor(ctx context.Context, what subjects) (o *observed, names []string, err error) {
	o = &observed{
		reports: map[string]api.Report{}, busy: map[string]bool{}, precise: time.Now().UTC(), steady: a.m.leadership.steady(),
		silence: a.m.leases.silence, revoke: a.m.volumes.revoke,
	}
	o.now = o.precise.Truncate(time.Second)
	barred := map[string]error{}
	o.bar = func(node string) error {
		if _, asked := barred[node]; !asked {
			barred[node] = a.m.barNode(ctx, node)
		}
		return barred[node]
	}
	o.operating = func(application string) bool {
		busy, err := a.operating(ctx, application)
		if err != nil {
			a.log.Warn("operations are not known; no member is moved", "error", err)
		}
		return busy
	}
	o.allUses = sync.OnceValues(func() (map[string][]swarm.Use, error) { return a.m.cluster.Uses(ctx, api.PluginName) })
	if names, err = a.read(ctx, o, what); err != nil {
		return nil, nil, err
	}
	if o.nodes, err = a.m.nodes.get(ctx, time.Second); err != nil {
		return nil, nil, err
	}
	view, err := a.m.volumes.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	o.volumes, o.volumeOf = view.all, view.of
	o.statuses = a.m.leases.statuses()
	for id := range o.nodes {
		if r, age, ok := a.m.leases.last(id); ok && age < api.LeaseDuration {
			o.reports[id] = r
		}
	}
	o.uses, err = a.uses(ctx, o, names)
	return o, names, err
}

// read reads services and records, and returns the applications to look at: those that
// what names, which are read anew, or all.
func (a *applications) read(ctx context.Context, o *observed, what subjects) (names []string, err error) {
	changed := slices.Collect(maps.Keys(what.services))
	few := len(changed)+len(what.applications) <= rereadAtMost
	everything := what.everything || !few
	age := relist
	if a.lost.Swap(false) || everything && !a.following.Load() {
		age = 0
	}
	defer func() {
		if err != nil {
			a.lost.Store(true)
		}
	}()
	servicesAge := age
	if len(changed) > rereadAtMost {
		servicesAge, changed = 0, nil
	}
	if o.services, err = a.services.all(ctx, servicesAge); err != nil {
		return nil, err
	}
	looked := map[string]bool{}
	if len(changed) > 0 {
		of, err := a.services.read(ctx, changed)
		if err != nil {
			return nil, err
		}
		for _, name := range of {
			looked[name] = true
		}
	}
	if few {
		maps.Copy(looked, what.applications)
		for name := range looked {
			if err := a.services.readApplication(ctx, name); err != nil {
				return nil, err
			}
			a.records.Changed(name)
		}
	}
	if o.records, err = a.records.All(ctx, age); err != nil {
		return nil, err
	}
	if everything {
		for name := range o.services {
			looked[name] = true
		}
		for name := range o.records {
			looked[name] = true
		}
	}
	delete(looked, "")
	return slices.Sorted(maps.Keys(looked)), nil
}

// uses asks for the tasks of the services whose members are not heard, which is most
// often none: tasks are many, and no event tells of them.
func (a *applications) uses(ctx context.Context, o *observed, names []string) (map[string][]swarm.Use, error) {
	for _, r := range o.volumes {
		if owner := r.Value.Owner; owner != nil && !ready(o.nodes[owner.Node]) {
			return o.allUses()
		}
	}
	unheard := map[string]dockerswarm.Service{}
	for _, name := range names {
		for _, s := range o.services[name] {
			if status, ok := o.statuses[volumeName(s)]; (!ok || status.age > api.LeaseDuration) && replicas(s) > 0 {
				unheard[s.ID] = s
			}
		}
	}
	return a.m.cluster.UsesOf(ctx, api.PluginName, unheard)
}

// change is the record of an application as it is to be.
type change struct {
	name   string
	record store.Record[store.Application]
	exists bool
	next   store.Application
	events []store.Event
}

func (a *applications) plan(o *observed, name string) change {
	record, exists := o.records[name]
	next, events := planApplication(o, name, record.Value, exists)
	next.News = nil // writeOne says them
	return change{name: name, record: record, exists: exists, next: next, events: events}
}

// moves tells whether a change begins, goes on with or ends the move of a member, which
// the labels of nodes make.
func moves(c change) bool { return c.record.Value.Apart != nil || c.next.Apart != nil }

// settled tells whether there is nothing to write.
func (a *applications) settled(o *observed, c change) bool {
	waits := amidHandover(o, c)
	if !waits && (!c.exists || len(c.events) > 0 || c.next.Removed != nil && !a.hasVolumes(o, c.name) || !unchanged(c)) {
		return false
	}
	if a.m.leadership.acting() {
		a.know(c.record)
	}
	return true
}

// quietHandover is for how long the states of members are not recorded while the primary
// is being changed.
const quietHandover = 5 * time.Second

// amidHandover tells whether all there is to write can wait for the next step of a change
// of the primary, which would wait for the write.
func amidHandover(o *observed, c change) bool {
	h := c.record.Value.Handover
	if !c.exists || h == nil || c.next.Handover == nil || c.next.Removed != nil || c.next.Term != c.record.Value.Term {
		return false
	}
	// What byThisClock has put right has to be written, or it begins anew each time.
	return c.next.Handover.Since.Equal(h.Since) && o.precise.Sub(h.Since) < quietHandover
}

func unchanged(c change) bool {
	old := c.record.Value
	return sameApplication(old, c.next) || time.Since(c.record.Updated) < messagesEvery && onlyMessages(old, c.next)
}

// writers is how many records are written at once: Raft takes in one go what comes
// together, and the death of a node changes many applications.
const writers = 8

func (a *applications) write(ctx context.Context, o *observed, changes []change) error {
	errs := make([]error, len(changes))
	var group sync.WaitGroup
	slots := make(chan struct{}, writers)
	for i, c := range changes {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := a.writeOne(ctx, o, c); err != nil {
				a.records.Changed(c.name)
				errs[i] = fmt.Errorf("application %s: %w", c.name, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (a *applications) writeOne(ctx context.Context, o *observed, c change) error {
	name, record, old, next := c.name, c.record, c.record.Value, c.next
	if !a.m.leadership.acting() {
		return nil
	}
	// History first: a crash between the two writes then repeats an event, which
	// addEvents recognises, instead of losing it. For a step that members wait for, the
	// record itself carries what is to be said until that was.
	news, step := append(slices.Clone(old.News), c.events...), c.exists && old.Term != next.Term && next.Removed == nil
	if step {
		next.News = news
	} else if err := a.addEvents(ctx, name, news); err != nil {
		return err
	}
	failpoint.Hit("create:events-written")
	switch {
	case !c.exists:
		created, err := store.Create(ctx, a.m.store, store.KindApplication, name, next)
		if err != nil {
			return err
		}
		failpoint.Hit("create:application-recorded")
		a.wrote(o, created)
		a.know(created)
	case next.Removed != nil && !a.hasVolumes(o, name):
		return a.forgetApplication(ctx, record)
	case unchanged(c):
		a.know(record)
	default:
		updated, err := store.Update(ctx, a.m.store, store.KindApplication, record, next)
		if err != nil {
			return err
		}
		failpoint.Hit("create:application-updated")
		if old.Term != next.Term {
			failpoint.Hit("primary:recorded")
		}
		a.wrote(o, updated)
		a.know(updated)
	}
	if step {
		return a.addEvents(ctx, name, news)
	}
	return nil
}

// wrote notes a record that was written: operations and labels go by what is recorded
// now.
func (a *applications) wrote(o *observed, r store.Record[store.Application]) {
	a.records.Put(r)
	a.mu.Lock()
	defer a.mu.Unlock()
	o.records[r.Name] = r
}

// forget drops what was known in a former leadership.
func (a *applications) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.known)
	a.records.Forget()
	a.operations.Forget()
	a.lost.Store(true)
}

// planApplication works out the record of an application, and what has happened
// to it since the old one, from what is observed. It changes nothing.
func planApplication(o *observed, name string, old store.Application, exists bool) (store.Application, []store.Event) {
	var events []store.Event
	event := func(member, kind, format string, args ...any) {
		events = append(events, store.Event{Time: o.now, Member: member, Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	next := byThisClock(o, old)
	next.Name, next.Problems = name, nil
	services := o.services[name]
	if len(services) == 0 {
		if old.Removed == nil {
			now := o.now
			next.Removed, next.Apart, next.Crowded = &now, nil, nil
			for i := range next.Members {
				next.Members = slices.Clone(next.Members)
				next.Members[i] = store.Member{Name: old.Members[i].Name, Slot: old.Members[i].Slot, Volume: old.Members[i].Volume, Since: o.now}
			}
			event("", "removed", "services removed; volumes are kept")
		}
		return next, events
	}
	slices.SortFunc(services, func(x, y dockerswarm.Service) int { return cmp.Compare(slot(x), slot(y)) })
	first := services[0]
	if !exists {
		next.Created = o.now
		event("", "created", "created with %d members from %s", len(services), image(first))
	} else if old.Removed != nil {
		event("", "created", "taken up again with %d members", len(services))
	}
	next.Removed, next.Type = nil, first.Spec.Labels[api.LabelType]
	next.Image = image(first)
	if next.NoRoles = first.Spec.Labels[api.LabelRoles] == rolesNone; next.NoRoles {
		next.Primary, next.Initialized, next.Term = "", true, max(next.Term, 1)
	} else if next.Primary == "" {
		next.Primary, next.Term = first.Spec.Labels[api.LabelMember], 1
	}
	readPolicies(&next, first)
	next.Parameters = parameters(&next, first)
	if old.Parameters != "" && old.Parameters != next.Parameters {
		event("", "settings", "settings are to be %s", next.Parameters)
	}
	before := map[string]store.Member{}
	for _, m := range old.Members {
		before[m.Name] = m
	}
	next.Members = make([]store.Member, 0, len(services))
	for _, s := range services {
		was, known := before[s.Spec.Labels[api.LabelMember]]
		is := observeMember(o, s, was)
		if known && old.Removed == nil {
			memberEvents(event, was, is, next)
		}
		next.Members = append(next.Members, is)
		if st, ok := o.statuses[is.Volume]; ok && is.Name == next.Primary && st.Initialized && st.SystemID != "" && !next.Initialized {
			next.Initialized, next.SystemID = true, st.SystemID
			event(is.Name, "state", "database initialized, system identifier %s", st.SystemID)
		}
	}
	planDisks(o, old, &next, first, event)
	if !next.NoRoles {
		planPrimary(o, old, &next, event)
		forgetFormerPrimary(o, &next)
	}
	planLeaving(o, &next, event)
	planApart(o, &next, event)
	return next, events
}

// forgetFormerPrimary takes the role from a member that was the primary when it was
// heard last, and that another has replaced since: people would see two.
func forgetFormerPrimary(o *observed, app *store.Application) {
	for i := range app.Members {
		m := &app.Members[i]
		if _, heard := o.word(*m); !heard && m.Role == api.RolePrimary && m.Name != app.Primary {
			m.Role = ""
		}
	}
}

func memberEvents(event func(member, kind, format string, args ...any), was, is store.Member, app store.Application) {
	if was.Node != "" && is.Node != "" && was.Node != is.Node {
		event(is.Name, "moved", "moved from %s to %s with its volume %s", was.Hostname, is.Hostname, is.Volume)
	}
	if was.Healthy != is.Healthy {
		switch {
		case is.Healthy && is.Name == app.Primary:
			event(is.Name, "state", "healthy as primary on %s", is.Hostname)
		case is.Healthy:
			event(is.Name, "state", "healthy as %s on %s", is.Role, is.Hostname)
		default:
			event(is.Name, "state", "no longer healthy: %s", is.Message)
		}
	}
	if !was.Pinned && is.Pinned {
		event(is.Name, "state", "pinned to %s: its data is in a folder of that node alone", is.Hostname)
	}
}

func image(s dockerswarm.Service) string {
	if s.Spec.TaskTemplate.ContainerSpec == nil {
		return ""
	}
	return s.Spec.TaskTemplate.ContainerSpec.Image
}

func memberName(s dockerswarm.Service) string { return s.Spec.Labels[api.LabelMember] }
func volumeName(s dockerswarm.Service) string { return s.Spec.Labels[api.LabelVolume] }

func slot(s dockerswarm.Service) int {
	n, _ := strconv.Atoi(s.Spec.Labels[api.LabelSlot])
	return n
}

// observeMember works out the state of one member.
func observeMember(o *observed, s dockerswarm.Service, was store.Member) store.Member {
	is := store.Member{
		Name: s.Spec.Labels[api.LabelMember], Slot: slot(s), Service: s.Spec.Name, Volume: s.Spec.Labels[api.LabelVolume],
		Node: was.Node, Hostname: was.Hostname, Role: was.Role, Address: was.Address, Since: was.Since,
		Fenced: was.Fenced, Aside: was.Aside, Rebuild: was.Rebuild,
	}
	volume, hasVolume := o.volumes[is.Volume]
	status, hasStatus := o.statuses[is.Volume]
	if hasStatus && status.age > api.LeaseDuration {
		hasStatus = false
	}
	if hasVolume && volume.Value.Owner != nil {
		is.Node, is.Hostname = volume.Value.Owner.Node, volume.Value.Owner.Hostname
	}
	if hasVolume {
		is.Pinned = pinned(o, volume.Value, was.Pinned)
	}
	switch {
	case hasStatus:
		is.Node, is.Hostname = status.node, o.nodes[status.node].Description.Hostname
		is.Role, is.State, is.Healthy, is.Message = status.Role, status.State, status.Healthy, status.Message
		if status.Address != "" {
			is.Address = status.Address
		}
		is.Leaving, is.Left = status.Leaving, status.Leaving && was.Left
		is.PendingRestart = status.PendingRestart
	case !o.steady && was.Name != "":
		return was // this leader has not heard everybody yet
	default:
		is.State, is.Message = api.StateWaiting, why(o, s, is, volume.Value, hasVolume)
	}
	if is.Fenced != nil && is.State != api.StateFenced {
		is.Message = strings.TrimSuffix(is.Fenced.String()+"; "+is.Message, "; ")
	}
	if was.Node != is.Node || was.Role != is.Role || was.State != is.State || was.Healthy != is.Healthy || is.Since.IsZero() {
		is.Since = o.now
	}
	return is
}

// why says in words why a member does not run.
func why(o *observed, s dockerswarm.Service, is store.Member, v api.Volume, hasVolume bool) string {
	uses := o.uses[is.Volume]
	if len(uses) == 0 {
		if s.Spec.Mode.Replicated != nil && s.Spec.Mode.Replicated.Replicas != nil && *s.Spec.Mode.Replicated.Replicas == 0 {
			return fmt.Sprintf("service %s is scaled to 0", s.Spec.Name)
		}
		return "Swarm has made no task for it yet"
	}
	u := uses[len(uses)-1]
	switch {
	case u.NodeID == "" && is.Pinned:
		return fmt.Sprintf("its data is on node %s alone, which is not available; start that node", o.nodes[v.LastNode].Description.Hostname)
	case u.Err != "":
		return fmt.Sprintf("task %s: %s", u.Task, u.Err)
	case u.NodeID == "":
		return fmt.Sprintf("Swarm finds no node for task %s; see `docker service ps %s`", u.Task, s.Spec.Name)
	case !ready(o.nodes[u.NodeID]) || !reports(o, u.NodeID):
		return fmt.Sprintf("node %s does not answer", o.nodes[u.NodeID].Description.Hostname)
	case hasVolume && v.Owner != nil && v.Owner.Node != u.NodeID:
		return fmt.Sprintf("waits on node %s for volume %s, which node %s holds (epoch %d)", o.nodes[u.NodeID].Description.Hostname, v.Name, v.Owner.Hostname, v.Epoch)
	}
	return fmt.Sprintf("task %s is %s on node %s", u.Task, u.State, o.nodes[u.NodeID].Description.Hostname)
}

func reports(o *observed, node string) bool {
	_, ok := o.reports[node]
	return ok
}

// messagesEvery is how often a record is written if nothing but what busy members
// say of their progress has changed.
const messagesEvery = 5 * time.Second

func onlyMessages(old, next store.Application) bool {
	if len(old.Members) != len(next.Members) {
		return false
	}
	next.Members = slices.Clone(next.Members)
	for i := range next.Members {
		next.Members[i].Message = old.Members[i].Message
	}
	next.Problems = old.Problems // they quote messages
	return sameApplication(old, next)
}

// sameApplication tells whether a record need not be written.
func sameApplication(old, next store.Application) bool { return reflect.DeepEqual(old, next) }

// hasVolumes tells whether any volume of the application is left.
func (a *applications) hasVolumes(o *observed, name string) bool {
	return len(o.volumeOf[name]) > 0
}

// retainVolumes marks the free volumes of members that are no more as retained.
func (a *applications) retainVolumes(ctx context.Context, o *observed, app store.Application) error {
	if len(o.volumeOf[app.Name]) == 0 {
		return nil
	}
	used := map[string]bool{}
	if app.Removed == nil {
		for _, m := range app.Members {
			used[m.Volume] = true
		}
	}
	for _, name := range o.volumeOf[app.Name] {
		v := o.volumes[name].Value
		if used[name] || v.Retained || v.Purging || v.Owner != nil {
			continue
		}
		if err := a.m.volumes.retain(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// addEvents appends to the history of an application what is not in it yet.
func (a *applications) addEvents(ctx context.Context, name string, events []store.Event) error {
	if len(events) == 0 {
		return nil
	}
	var fresh []store.Event
	_, err := store.Modify(ctx, a.m.store, store.KindEvents, name, func(h *store.Events) (bool, error) {
		fresh = slices.DeleteFunc(slices.Clone(events), func(e store.Event) bool {
			return slices.ContainsFunc(h.Events, func(o store.Event) bool {
				return o.Member == e.Member && o.Kind == e.Kind && o.Text == e.Text && e.Time.Sub(o.Time) < sameEvent
			})
		})
		h.Events = append(h.Events, fresh...)
		h.Events = h.Events[max(0, len(h.Events)-store.MaxEvents):]
		return len(fresh) > 0, nil
	})
	if errors.Is(err, store.ErrNotFound) {
		fresh = events
		_, err = store.Create(ctx, a.m.store, store.KindEvents, name, store.Events{Events: events})
	}
	if err == nil {
		for _, e := range fresh {
			a.log.Info("event", "application", name, "member", e.Member, "kind", e.Kind, "text", e.Text)
		}
	}
	return err
}

// sameEvent is within which time an equal event is the same one, planned again
// by a leader that took over.
const sameEvent = 10 * time.Second
