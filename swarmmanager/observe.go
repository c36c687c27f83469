package swarmmanager

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/moby/moby/api/types/events"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

const (
	// resync is how often a leader looks at everything, whatever it was told, and
	// resyncSoon while something is under way.
	resync     = 5 * time.Second
	resyncSoon = 200 * time.Millisecond
	// gather is for how long changed services are gathered before they are looked at.
	gather = 50 * time.Millisecond
	// silenceTick is how often it looks for nodes that have fallen silent.
	silenceTick = 250 * time.Millisecond
)

// watch observes and acts while this manager leads: at once when Docker or a
// member says that something changed, at what has changed, and every resync at
// everything.
func (m *Manager) watch(ctx context.Context) {
	go m.followEvents(ctx)
	all := time.NewTimer(resync)
	defer all.Stop()
	soon := time.NewTimer(resync)
	defer soon.Stop()
	silence := time.NewTicker(silenceTick)
	defer silence.Stop()
	var busy subjects // what is under way
	for {
		everything := false
		select {
		case <-ctx.Done():
			return
		case <-silence.C:
			if everything = m.leases.newlySilent(); !everything {
				continue
			}
		case <-all.C:
			everything = true
		case <-soon.C:
		case <-m.apps.news.wake:
			// The services of one stack come together. What a member says others may wait
			// for, such as clients for the next step of a change of the primary.
			if m.apps.news.ofServices() && !pause(ctx, gather) {
				return
			}
		}
		what := m.apps.news.take()
		what.join(busy)
		if what.everything = what.everything || everything; what.everything {
			all.Reset(resync)
		}
		if !m.leadership.acting() {
			m.apps.lost.Store(true) // the next look is at everything
			continue
		}
		if busy = m.lookOnce(ctx, what); !busy.empty() {
			soon.Reset(resyncSoon)
		}
	}
}

// lookOnce looks, acts, and returns what is to be looked at again soon.
func (m *Manager) lookOnce(ctx context.Context, what subjects) (busy subjects) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	busy, err := m.lookAt(ctx, what)
	if err != nil && !errors.Is(err, context.Canceled) {
		m.log.Warn("observation incomplete; it is repeated", "error", err)
	}
	return busy
}

func (m *Manager) lookAt(ctx context.Context, what subjects) (busy subjects, err error) {
	operating := what.everything || what.operations
	if operating {
		operations, err := m.readOperations(ctx)
		if err != nil {
			return subjects{operations: what.operations}, err
		}
		what.add(targets(operations)...)
	}
	o, err := m.apps.look(ctx, what)
	if o == nil {
		return subjects{operations: what.operations}, err
	}
	if operating {
		o.again = false
		err = errors.Join(err, m.operate(ctx, o))
		busy.operations = o.again
	}
	busy.add(slices.Collect(maps.Keys(o.busy))...)
	return busy, err
}

// followEvents has a look come soon when Docker reports a change of a service, of a
// node or of what a user asks for in the record of an operation. An application's
// record that somebody else has changed is read again.
func (m *Manager) followEvents(ctx context.Context) {
	filters := make(client.Filters).Add("type", string(events.ServiceEventType), string(events.NodeEventType), string(events.ConfigEventType))
	for ctx.Err() == nil {
		stream := m.docker.Events(ctx, client.EventsListOptions{Filters: filters})
		// What happened before is in no event.
		m.apps.lost.Store(true)
		m.apps.operations.Forget()
		m.apps.following.Store(true)
		m.apps.news.all()
	read:
		for {
			select {
			case e := <-stream.Messages:
				m.hearEvent(e)
			case err := <-stream.Err:
				m.log.Debug("event stream ended", "error", err)
				break read
			}
		}
		m.apps.following.Store(false)
		pause(ctx, 2*time.Second)
	}
}

func (m *Manager) hearEvent(e events.Message) {
	switch e.Type {
	case events.ServiceEventType:
		m.apps.news.service(e.Actor.ID)
	case events.NodeEventType:
		m.apps.news.all()
	case events.ConfigEventType:
		kind, name := store.NameOf(e.Actor.Attributes["name"])
		switch kind {
		case store.KindApplication:
			m.apps.records.Changed(name)
		case store.KindOperation:
			m.apps.operations.Changed(name)
			if e.Action == events.ActionCreate {
				m.apps.news.asked()
			}
		}
	}
}

// reconcileNodes keeps a record for each node: what its plugin offers and what is
// wrong with it. Free space is written when it has changed by a twentieth.
func (a *applications) reconcileNodes(ctx context.Context, o *observed) error {
	records, err := store.List[store.Node](ctx, a.m.store, store.KindNode)
	if err != nil {
		return err
	}
	known := map[string]store.Record[store.Node]{}
	for _, r := range records {
		known[r.Name] = r
	}
	var errs []error
	for id, n := range o.nodes {
		r, exists := known[id]
		next := planNode(o, n, r.Value, exists, a.m.leases.helper)
		switch {
		case !exists:
			_, err = store.Create(ctx, a.m.store, store.KindNode, id, next)
		case next != r.Value:
			_, err = store.Update(ctx, a.m.store, store.KindNode, r, next)
		default:
			continue
		}
		errs = append(errs, err)
	}
	for id, r := range known {
		if _, there := o.nodes[id]; !there {
			errs = append(errs, store.Delete(ctx, a.m.store, store.KindNode, r))
		}
	}
	return errors.Join(errs...)
}

func planNode(o *observed, n dockerswarm.Node, old store.Node, exists bool, helper func(string) (api.HelperReport, time.Duration, bool)) store.Node {
	next := old
	next.ID, next.Hostname = n.ID, n.Description.Hostname
	report, reporting := o.reports[n.ID]
	if reporting {
		storage := report.Storage
		if math.Abs(float64(storage.Free-old.Storage.Free)) < float64(storage.Total)/20 && storage.Total == old.Storage.Total {
			storage.Free = old.Storage.Free
		}
		next.Version, next.Storage = report.Version, storage
	}
	if reporting || o.steady {
		next.Reporting = reporting
	}
	if h, _, ok := helper(n.ID); ok {
		next.Plugin, next.Problem = h.Plugin, h.Problem
	}
	if !exists || next.Reporting != old.Reporting {
		next.Since = o.now
	}
	return next
}

// pinned tells whether only one node of the Swarm can reach the volume's data: as
// it was before, unless another node has it, or all that are up say they do not.
func pinned(o *observed, v api.Volume, was bool) bool {
	if v.Location == "" {
		return false
	}
	others, silent := 0, 0
	for id, n := range o.nodes {
		r, heard := o.reports[id]
		switch {
		case id == v.LastNode:
		case heard && r.Storage.Location == v.Location:
			return false
		case heard:
			others++
		case ready(n):
			silent++
		}
	}
	if others == 0 || silent > 0 {
		return was
	}
	return true
}

// reconcilePins labels the nodes that cannot reach a member's data, or that a member
// is being moved off, so that Swarm does not place the member there.
func (a *applications) reconcilePins(ctx context.Context, o *observed) error {
	if !o.steady {
		return nil
	}
	pins := pinsByLocation(o)
	for id, n := range o.nodes {
		report, ok := o.reports[id]
		if !ok {
			continue // nothing is known of a silent node's storage: leave its labels
		}
		want := wantedPins(pins, report.Storage.Location)
		maps.Copy(want, apartPins(o, id))
		if changed := setPins(&n.Spec, want); !changed {
			continue
		}
		_, err := a.m.docker.NodeUpdate(ctx, id, client.NodeUpdateOptions{Version: n.Version, Spec: n.Spec})
		if err != nil {
			return err
		}
		a.log.Info("pins written", "node", n.Description.Hostname, "pins", len(want))
	}
	return nil
}

// pinsByLocation are the pins of all members, by the folder in which their data is.
// What counts is the volume that the application's record names: any node may make a
// volume that claims to be a member's, and must not draw the member, with its secrets,
// to itself by it.
func pinsByLocation(o *observed) map[string][]string {
	pins := map[string][]string{}
	for _, app := range o.records {
		for _, m := range app.Value.Members {
			if v := o.volumes[m.Volume].Value; v.Member == m.Name && v.Location != "" {
				pins[v.Location] = append(pins[v.Location], api.PinLabel(m.Name))
			}
		}
	}
	return pins
}

// wantedPins are the labels of a node with that folder.
func wantedPins(pins map[string][]string, location string) map[string]bool {
	want := map[string]bool{}
	for where, labels := range pins {
		if where == location {
			continue
		}
		for _, label := range labels {
			want[label] = true
		}
	}
	return want
}

// setPins makes the pin labels of a node those that are wanted.
func setPins(spec *dockerswarm.NodeSpec, want map[string]bool) (changed bool) {
	prefix := api.PinLabel("")
	labels := map[string]string{}
	for key, value := range spec.Labels {
		if len(key) > len(prefix) && key[:len(prefix)] == prefix && !want[key] {
			changed = true
			continue
		}
		labels[key] = value
	}
	for key := range want {
		if labels[key] != api.PinElsewhere {
			labels[key], changed = api.PinElsewhere, true
		}
	}
	spec.Labels = labels
	return changed
}

// forgetApplication removes what is left of an application whose last volume was
// deleted: secrets, history, record.
func (a *applications) forgetApplication(ctx context.Context, r store.Record[store.Application]) error {
	secrets, err := a.m.docker.SecretList(ctx, client.SecretListOptions{
		Filters: make(client.Filters).Add("label", api.LabelApplication+"="+r.Name),
	})
	if err != nil {
		return err
	}
	for _, s := range secrets.Items {
		if _, err := a.m.docker.SecretRemove(ctx, s.ID, client.SecretRemoveOptions{}); err != nil {
			return err
		}
	}
	a.records.Drop(r.Name)
	history, err := store.Get[store.Events](ctx, a.m.store, store.KindEvents, r.Name)
	if err == nil {
		err = store.Delete(ctx, a.m.store, store.KindEvents, history)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	a.mu.Lock()
	delete(a.known, r.Name)
	a.mu.Unlock()
	a.log.Info("application forgotten with its last volume", "application", r.Name)
	return store.Delete(ctx, a.m.store, store.KindApplication, r)
}
