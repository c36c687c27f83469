package swarmmanager

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// Members that share a node die together, and then nobody may be left who can take
// over. Swarm spreads the tasks of a service and knows nothing of members, and what
// has moved to a node stays there when the other node is back. So a standby that
// shares its node is moved while another node has no member: the nodes that have one
// get the label against it by which pins work too, Swarm's constraint enforcer stops
// its task in order, and starts it on a node without the label. Which node has the
// label follows from the application's record alone.

const (
	// apartAfter is how long members must have been well, two of them on a node and
	// another node without one, before a standby is moved.
	apartAfter = 30 * time.Second
	// apartPatience is how long Swarm may take for the move.
	apartPatience = 2 * time.Minute
	// apartPause is kept between two moves, and apartRetry after one that Swarm did
	// not make: it may have a reason that is not seen here, such as too little memory.
	apartPause = time.Minute
	apartRetry = time.Hour
)

// planApart decides whether a standby of app is to be moved, and when that is over. It
// changes nothing but app.
func planApart(o *observed, app *store.Application, event eventFunc) {
	if app.Apart != nil {
		followApart(o, app, event)
		return
	}
	if !o.steady {
		return
	}
	apart, with := nextApart(o, app)
	if with == "" {
		app.Crowded = nil
		return
	}
	if app.Crowded == nil {
		now := o.now
		app.Crowded = &now
	}
	switch {
	case app.Initialized && o.now.Sub(*app.Crowded) < apartAfter: // a new one has nothing to lose yet
	case app.ApartAfter != nil && o.now.Before(*app.ApartAfter):
	case o.operating(app.Name):
	default:
		app.Apart, app.Crowded, app.ApartAfter = &apart, nil, nil
		event(apart.Member, "moved", "leaves %s, which it shares with %s, for a node without a member", apart.From, with)
		o.lookAgain()
	}
}

// followApart ends the move of a member when it is done or can no longer be, and takes
// the labels back as soon as it sits elsewhere. A change of the primary ends it too:
// then every node may be needed.
func followApart(o *observed, app *store.Application, event eventFunc) {
	a := *app.Apart
	end := func(pause time.Duration) {
		after := o.now.Add(pause)
		app.Apart, app.ApartAfter = nil, &after
	}
	member, known := memberOf(app, a.Member)
	if !known || app.Primary == a.Member || app.Handover != nil || app.PrimaryDown != nil {
		end(apartPause)
		return
	}
	if !o.steady {
		return
	}
	o.lookAgain()
	waited := o.now.Sub(a.Since)
	if s, heard := o.word(member); heard && !slices.Contains(a.Away, s.node) {
		a.Away = nil
		app.Apart = &a
	}
	switch {
	case len(a.Away) == 0 && (member.Healthy || !app.Initialized):
		end(0)
	case len(a.Away) == 0 && waited > apartPatience:
		end(apartPause)
	case len(a.Away) == 0:
	case slices.ContainsFunc(a.Away, func(id string) bool { return !lives(o, id) }), len(freeNodes(o, app, member, a.Away)) == 0:
		end(apartPause)
	case waited > apartPatience:
		event(a.Member, "state", "stays on %s: Swarm has not moved it within %s; tried again in an hour", a.From, apartPatience)
		end(apartRetry)
	}
}

// nextApart returns the standby that is to move, and with whom it shares its node; ""
// if there is none.
func nextApart(o *observed, app *store.Application) (apart store.Apart, with string) {
	services := o.services[app.Name]
	if app.Handover != nil || app.PrimaryDown != nil || len(services) < 2 || services[0].Spec.Labels[api.LabelApart] == "false" {
		return apart, ""
	}
	on := map[string][]store.Member{}
	for _, m := range app.Members {
		node := place(o, m)
		if !lives(o, node) || app.Initialized && (!m.Healthy || m.Leaving || m.Left) {
			return apart, ""
		}
		on[node] = append(on[node], m)
	}
	var best store.Member
	besidePrimary := false
	for _, members := range on {
		if len(members) < 2 {
			continue
		}
		primary := slices.ContainsFunc(members, func(m store.Member) bool { return m.Name == app.Primary })
		for _, m := range members {
			better := best.Name == "" || primary && !besidePrimary || primary == besidePrimary && m.Slot > best.Slot
			if m.Name != app.Primary && better && len(freeNodes(o, app, m, slices.Collect(maps.Keys(on)))) > 0 {
				best, besidePrimary = m, primary
			}
		}
	}
	if best.Name == "" {
		return apart, ""
	}
	var sharing []string
	for _, m := range on[place(o, best)] {
		if m.Name != best.Name {
			sharing = append(sharing, m.Name)
		}
	}
	return store.Apart{
		Member: best.Name, From: o.nodes[place(o, best)].Description.Hostname, Away: slices.Sorted(maps.Keys(on)), Since: o.now,
	}, strings.Join(sharing, " and ")
}

// freeNodes are the nodes without a member, given those that have one, that the member
// can move to: its data can be reached there, and its service allows it.
func freeNodes(o *observed, app *store.Application, m store.Member, taken []string) []string {
	s, ok := service(o, app.Name, m.Name)
	if !ok || s.Spec.TaskTemplate.Placement == nil || !slices.ContainsFunc(s.Spec.TaskTemplate.Placement.Constraints, func(c string) bool { return isPin(c, m.Name) }) {
		return nil // no label would move it
	}
	location := o.volumes[m.Volume].Value.Location
	if location == "" { // it has no data yet
		location = o.reports[place(o, m)].Storage.Location
	}
	var free []string
	for id, n := range o.nodes {
		storage := o.reports[id].Storage
		if !slices.Contains(taken, id) && lives(o, id) && n.Spec.Availability == dockerswarm.NodeAvailabilityActive &&
			location != "" && storage.Location == location && storage.Error == "" && fits(n, s.Spec.TaskTemplate.Placement.Constraints, m.Name) {
			free = append(free, id)
		}
	}
	return free
}

// place is the node of a member: where it was heard, or where Swarm has its task.
func place(o *observed, m store.Member) string {
	if s, heard := o.word(m); heard {
		return s.node
	}
	if uses := o.uses[m.Volume]; len(uses) > 0 {
		return uses[len(uses)-1].NodeID
	}
	return ""
}

// lives tells whether Swarm and this leader hear the node.
func lives(o *observed, node string) bool {
	n, known := o.nodes[node]
	return known && ready(n) && reports(o, node) && o.silence(node) <= api.LeaseDuration
}

// apartPins are the labels of a node against members that are being moved off it. A
// member always keeps a node that it may run on.
func apartPins(o *observed, node string) map[string]bool {
	pins := map[string]bool{}
	for _, app := range o.records {
		a := app.Value.Apart
		if a == nil || app.Value.Removed != nil || !slices.Contains(a.Away, node) {
			continue
		}
		if m, ok := memberOf(&app.Value, a.Member); ok && len(freeNodes(o, &app.Value, m, a.Away)) > 0 {
			pins[api.PinLabel(a.Member)] = true
		}
	}
	return pins
}

// isPin tells whether a constraint is that of the member's pin label.
func isPin(constraint, member string) bool {
	key, value, equal, ok := readConstraint(constraint)
	return ok && !equal && key == "node.labels."+api.PinLabel(member) && value == api.PinElsewhere
}

// fits tells whether a node meets the constraints of the member's service, its pin
// left aside. One of a kind that is not known here is not met.
func fits(n dockerswarm.Node, constraints []string, member string) bool {
	for _, constraint := range constraints {
		key, want, equal, ok := readConstraint(constraint)
		if !ok {
			return false
		}
		if isPin(constraint, member) {
			continue
		}
		var is string
		switch {
		case key == "node.id":
			is = n.ID
		case key == "node.hostname":
			is = n.Description.Hostname
		case key == "node.role":
			is = string(n.Spec.Role)
		case strings.HasPrefix(key, "node.labels."):
			is = n.Spec.Labels[strings.TrimPrefix(key, "node.labels.")]
		case strings.HasPrefix(key, "engine.labels."):
			is = n.Description.Engine.Labels[strings.TrimPrefix(key, "engine.labels.")]
		default:
			return false
		}
		if strings.EqualFold(is, want) != equal {
			return false
		}
	}
	return true
}

// readConstraint reads KEY == VALUE or KEY != VALUE.
func readConstraint(constraint string) (key, value string, equal, ok bool) {
	if key, value, ok = strings.Cut(constraint, "!="); !ok {
		equal = true
		key, value, ok = strings.Cut(constraint, "==")
	}
	return strings.TrimSpace(key), strings.TrimSpace(value), equal, ok
}

// moving returns the member that an operation has to wait for while it is being moved;
// "" if there is none.
func moving(o *observed, op store.Operation) string {
	a := o.records[op.Target].Value.Apart
	if a == nil || op.Kind == store.OperationPromote || op.Kind == store.OperationPurge || op.Cancel {
		return ""
	}
	return a.Member
}

// operating tells whether an operation of the application has not ended.
func (a *applications) operating(ctx context.Context, application string) (bool, error) {
	records, err := store.List[store.Operation](ctx, a.m.store, store.KindOperation)
	if err != nil {
		return true, fmt.Errorf("operations of %s: %w", application, err)
	}
	return slices.ContainsFunc(records, func(r store.Record[store.Operation]) bool {
		claim := r.Value.Kind == store.OperationCreate || r.Value.Kind == store.OperationPurge
		return r.Value.Target == application && r.Value.Ended == nil && !claim
	}), nil
}
