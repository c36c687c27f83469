package swarmmanager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
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

	triggered chan struct{}

	mu    sync.Mutex
	cache map[string]store.Application // as last written or read, for orders
}

func newApplications(m *Manager) *applications {
	return &applications{m: m, log: m.log.Named("applications"), triggered: make(chan struct{}, 1), cache: map[string]store.Application{}}
}

// trigger asks for an observation soon.
func (a *applications) trigger() {
	select {
	case a.triggered <- struct{}{}:
	default:
	}
}

// observed is what is there at one moment.
type observed struct {
	services map[string][]dockerswarm.Service // by application
	uses     map[string][]swarm.Use           // by volume
	nodes    map[string]dockerswarm.Node
	volumes  map[string]store.Record[api.Volume]
	records  map[string]store.Record[store.Application]
	statuses map[string]liveStatus // by volume
	reports  map[string]api.Report // by node
	now      time.Time             // to the second, for records
	precise  time.Time
	again    bool // something is under way: observe again soon
	// silence is for how long a node has not been renewed.
	silence func(node string) time.Duration
	// bar asks the other managers to promise a silent node nothing more; an error:
	// it may still run on what they have promised before.
	bar func(node string) error
	// revoke has the owner of a volume's epoch let go of it.
	revoke func(volume string, epoch uint64)
	// operating tells whether an operation of an application has not ended.
	operating func(application string) bool
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

// reconcile observes, writes what has changed, and returns what is there now.
func (a *applications) reconcile(ctx context.Context) (*observed, error) {
	o, err := a.observe(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	names := map[string]bool{}
	for name := range o.services {
		names[name] = true
	}
	for name := range o.records {
		names[name] = true
	}
	for name := range names {
		if err := a.reconcileOne(ctx, o, name); err != nil {
			errs = append(errs, fmt.Errorf("application %s: %w", name, err))
		}
	}
	errs = append(errs, a.m.volumes.freeAbandoned(ctx, o), a.reconcileNodes(ctx, o), a.reconcilePins(ctx, o))
	return o, errors.Join(errs...)
}

func (a *applications) observe(ctx context.Context) (*observed, error) {
	o := &observed{
		services: map[string][]dockerswarm.Service{}, records: map[string]store.Record[store.Application]{},
		reports: map[string]api.Report{}, precise: time.Now().UTC(), steady: a.m.leadership.steady(),
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
	services, err := a.m.cluster.Services(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		if name := s.Spec.Labels[api.LabelApplication]; name != "" && s.Spec.Labels[api.LabelMember] != "" {
			o.services[name] = append(o.services[name], s)
		}
	}
	records, err := store.List[store.Application](ctx, a.m.store, store.KindApplication)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		o.records[r.Name] = r
	}
	if o.nodes, err = a.m.nodes.get(ctx, time.Second); err != nil {
		return nil, err
	}
	if o.volumes, err = a.m.volumes.all(ctx); err != nil {
		return nil, err
	}
	if o.uses, err = a.m.cluster.Uses(ctx, api.PluginName); err != nil {
		return nil, err
	}
	o.statuses = a.m.leases.statuses()
	for id := range o.nodes {
		if r, age, ok := a.m.leases.last(id); ok && age < api.LeaseDuration {
			o.reports[id] = r
		}
	}
	return o, nil
}

func (a *applications) reconcileOne(ctx context.Context, o *observed, name string) error {
	record, exists := o.records[name]
	old := record.Value
	next, events := planApplication(o, name, old, exists)
	if err := a.retainVolumes(ctx, o, next); err != nil {
		return err
	}
	if err := a.lengthenLeases(ctx, o, next); err != nil {
		return err
	}
	if !a.m.leadership.acting() {
		return nil
	}
	// History first: a crash between the two writes then repeats an event, which
	// addEvents recognises, instead of losing it.
	if err := a.addEvents(ctx, name, events); err != nil {
		return err
	}
	failpoint.Hit("create:events-written")
	switch {
	case !exists:
		created, err := store.Create(ctx, a.m.store, store.KindApplication, name, next)
		if err != nil {
			return err
		}
		o.records[name] = created
		failpoint.Hit("create:application-recorded")
		a.know(next)
	case next.Removed != nil && !a.hasVolumes(o, name):
		return a.forgetApplication(ctx, record)
	case sameApplication(old, next):
		a.know(old)
	case onlyMessages(old, next) && time.Since(record.Updated) < messagesEvery:
		a.know(old)
	default:
		updated, err := store.Update(ctx, a.m.store, store.KindApplication, record, next)
		if err != nil {
			return err
		}
		o.records[name] = updated // operations and labels go by what is recorded now
		failpoint.Hit("create:application-updated")
		if old.Term != next.Term {
			failpoint.Hit("primary:recorded")
		}
		a.know(next)
	}
	return nil
}

// know notes what is recorded of an application: orders follow from that alone. A
// step that is planned and not recorded may never have been taken.
func (a *applications) know(app store.Application) {
	a.mu.Lock()
	old, known := a.cache[app.Name]
	a.cache[app.Name] = app
	a.mu.Unlock()
	if !known || old.Term != app.Term || !slices.Equal(old.Sync, app.Sync) || old.Parameters != app.Parameters || !reflect.DeepEqual(old.Restart, app.Restart) {
		a.m.nudge(app)
	}
}

// forget drops what was known in a former leadership.
func (a *applications) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.cache)
}

// planApplication works out the record of an application, and what has happened
// to it since the old one, from what is observed. It changes nothing.
func planApplication(o *observed, name string, old store.Application, exists bool) (store.Application, []store.Event) {
	var events []store.Event
	event := func(member, kind, format string, args ...any) {
		events = append(events, store.Event{Time: o.now, Member: member, Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	next := old
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
	if next.Primary == "" {
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
	planPrimary(o, old, &next, event)
	planLeaving(o, &next, event)
	planApart(o, &next, event)
	return next, events
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
	for _, r := range o.volumes {
		if r.Value.Application == name {
			return true
		}
	}
	return false
}

// retainVolumes marks the free volumes of members that are no more as retained.
func (a *applications) retainVolumes(ctx context.Context, o *observed, app store.Application) error {
	used := map[string]bool{}
	if app.Removed == nil {
		for _, m := range app.Members {
			used[m.Volume] = true
		}
	}
	for name, r := range o.volumes {
		v := r.Value
		if v.Application != app.Name || used[name] || v.Retained || v.Purging || v.Owner != nil {
			continue
		}
		if err := a.m.volumes.retain(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// orders tells a member what it is to be.
func (a *applications) orders(s api.MemberStatus) api.MemberOrders {
	a.mu.Lock()
	app, ok := a.cache[s.Application]
	a.mu.Unlock()
	o := api.MemberOrders{Member: s.Member}
	if !ok || app.Removed != nil {
		o.Reason = "the leading manager does not know application " + s.Application + " yet"
		a.trigger()
		return o
	}
	for _, m := range app.Members {
		o.Members = append(o.Members, m.Name)
	}
	if !slices.Contains(o.Members, s.Member) {
		o.Reason = s.Member + " is not a member of application " + app.Name
		return o
	}
	o.Term, o.Primary, o.Initialized, o.SystemID = app.Term, app.Primary, app.Initialized, app.SystemID
	o.Parameters = app.Parameters
	o.Restart = app.Restart != nil && *app.Restart == store.MemberRestart{Member: s.Member, Parameters: api.ParametersID(app.Parameters)}
	o.Role = api.RoleStandby
	if m, ok := memberOf(&app, s.Member); ok {
		o.Leave = m.Left
		if m.Fenced != nil {
			o.Fenced = m.Fenced.String()
		}
		if m.Name != app.Primary {
			o.Rebuild = m.Rebuild
		}
	}
	switch h := app.Handover; {
	case h != nil && s.Member == h.From:
		o.Primary, o.Immediate, o.Sync, o.Reason = "", !h.Orderly, app.Sync, "the primary is being changed"
	case h != nil && !h.Orderly:
		o.Primary, o.Sync, o.Reason = "", app.Sync, "the primary is being changed"
	case h != nil:
		o.Sync = app.Sync
	case s.Member == app.Primary:
		o.Role, o.Sync = api.RolePrimary, app.Sync
		if app.Promotion != nil {
			o.Timeline, o.Position = app.Promotion.Timeline, app.Promotion.Position
		}
	default:
		o.Sync = app.Sync
	}
	if p, ok := memberOf(&app, o.Primary); ok && p.Name != s.Member {
		o.PrimaryAddress = p.Address
	}
	return o
}

// addEvents appends to the history of an application what is not in it yet.
func (a *applications) addEvents(ctx context.Context, name string, events []store.Event) error {
	if len(events) == 0 {
		return nil
	}
	for _, e := range events {
		a.log.Info("event", "application", name, "member", e.Member, "kind", e.Kind, "text", e.Text)
	}
	_, err := store.Modify(ctx, a.m.store, store.KindEvents, name, func(h *store.Events) (bool, error) {
		fresh := slices.DeleteFunc(slices.Clone(events), func(e store.Event) bool {
			return slices.ContainsFunc(h.Events, func(o store.Event) bool {
				return o.Member == e.Member && o.Kind == e.Kind && o.Text == e.Text && e.Time.Sub(o.Time) < sameEvent
			})
		})
		h.Events = append(h.Events, fresh...)
		h.Events = h.Events[max(0, len(h.Events)-store.MaxEvents):]
		return len(fresh) > 0, nil
	})
	if errors.Is(err, store.ErrNotFound) {
		_, err = store.Create(ctx, a.m.store, store.KindEvents, name, store.Events{Events: events})
	}
	return err
}

// sameEvent is within which time an equal event is the same one, planned again
// by a leader that took over.
const sameEvent = 10 * time.Second
