package swarmmanager

import (
	"fmt"
	"slices"

	"github.com/openmanage/openmanage/internal/store"
)

// planLeaving decides whose turn it is of the members that were asked to stop, by
// whatever changes their services or drains their nodes: one at a time, while all
// others are healthy, and the primary when another has taken its place. So what
// Swarm would do to all at once becomes a rolling change. Who waits for too long is
// killed by Swarm at the end of its stop grace period; that is a failover then.
func planLeaving(o *observed, app *store.Application, event eventFunc) {
	if app.Handover != nil {
		return
	}
	var waiting []store.Member
	for _, m := range app.Members {
		if m.Leaving && !m.Left {
			waiting = append(waiting, m)
		}
	}
	if len(waiting) == 0 {
		return
	}
	o.lookAgain()
	for _, m := range waiting {
		if outOfRoom(m) {
			setLeft(app, m.Name) // it waits for room itself, and could not hand over
			return
		}
	}
	next := waiting[0]
	if next.Name == app.Primary && len(waiting) > 1 {
		next = waiting[1]
	}
	if isLast(o, app) {
		for i := range app.Members {
			app.Members[i].Left = app.Members[i].Leaving
		}
		return
	}
	for _, m := range app.Members {
		if m.Name != next.Name && !m.Leaving && stays(o, app.Name, m) && !m.Healthy && m.Fenced == nil || m.Left {
			return // one at a time
		}
	}
	if next.Name != app.Primary {
		setLeft(app, next.Name)
		return
	}
	var leaving []string
	for _, m := range waiting {
		leaving = append(leaving, m.Name)
	}
	to, problem := successor(o, *app, "", leaving...)
	if problem != "" {
		setLeft(app, next.Name) // nobody can take its place: it comes back as the primary
		return
	}
	if m, _ := memberOf(app, to); !named(o, m) {
		return // clients would not find it yet
	}
	reason := fmt.Sprintf("%s is to stop", next.Name)
	event(next.Name, "switchover", "hands over to %s: it was asked to stop", to)
	beginHandover(o, app, store.Handover{From: next.Name, To: to, Orderly: true, Reason: reason})
}

// named tells whether Swarm's DNS knows a member, as far as its agent knows.
func named(o *observed, m store.Member) bool {
	s, heard := o.word(m)
	return heard && s.Named
}

func setLeft(app *store.Application, name string) {
	i := slices.IndexFunc(app.Members, func(m store.Member) bool { return m.Name == name })
	app.Members[i].Left = true
}

// stays tells whether Swarm is to run the member.
func stays(o *observed, app string, m store.Member) bool {
	s, ok := service(o, app, m.Name)
	return ok && replicas(s) > 0
}

// isLast tells whether the application as a whole is stopping: no member is to
// run, so that there is nobody for whom to keep an order.
func isLast(o *observed, app *store.Application) bool {
	return !slices.ContainsFunc(app.Members, func(m store.Member) bool { return stays(o, app.Name, m) })
}
