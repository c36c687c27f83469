package swarmmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// Fencing and rebuilding a member.
//
// Both take a standby from those that commits wait for before anything is done to
// it, in the order in which a lost one is taken (planVoters): it is set aside, the
// primary is told, says so, and one that stays has all that the one that leaves may
// have acknowledged. From then on nobody needs what it has. Who forces it before that
// fences or rebuilds a voter, and a voter that does not run is missed: nobody can
// become the primary then without `promote --force`.

// aside tells whether commits are not to wait for a member, though it may follow.
func aside(m store.Member) bool { return m.Fenced != nil || m.Aside != "" || m.Rebuild != "" }

// whyAside is for people, after the member's name.
func whyAside(m store.Member) string {
	switch {
	case m.Fenced != nil:
		return " (fenced)"
	case m.Rebuild != "":
		return " (being rebuilt)"
	}
	return ""
}

// countable are the members but one that commits can wait for: who is aside only if
// there is nobody else, since there must be one.
func countable(app *store.Application, except string) []string {
	var names []string
	for _, m := range app.Members {
		if m.Name != except && !aside(m) {
			names = append(names, m.Name)
		}
	}
	if len(names) == 0 {
		return others(app, except)
	}
	return names
}

// counted tells whether the primary may wait for a member.
func counted(app *store.Application, member string) bool {
	return slices.Contains(app.Sync, member) || slices.Contains(app.Voters, member)
}

// fencedMembers says that no operation that needs all members can begin, or "".
func fencedMembers(app store.Application) string {
	var names []string
	for _, m := range app.Members {
		if m.Fenced != nil {
			names = append(names, m.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	verb := "is"
	if len(names) > 1 {
		verb = "are"
	}
	return fmt.Sprintf("%s %s fenced; take it back with docker openmanage fence %s off", strings.Join(names, ", "), verb, names[0])
}

// verdict is what comes next in an operation on one member. step is written first,
// then change, and then the end.
type verdict struct {
	step   string
	change func(*store.Member)
	event  string        // about the change
	reseed *store.Reseed // is written with step
	state  store.OperationState
	why    string // of an end that is not a success
}

func waitFor(format string, args ...any) verdict { return verdict{step: fmt.Sprintf(format, args...)} }

func refuseTo(format string, args ...any) verdict {
	return verdict{state: store.OperationFailed, why: fmt.Sprintf(format, args...)}
}

// with adds a change.
func (v verdict) with(event string, change func(*store.Member)) verdict {
	v.event, v.change = event, change
	return v
}

// memberOperation is an operation on one member, as its planners see it.
type memberOperation struct {
	name   string
	kind   string
	req    store.MemberRequest
	by     string
	cancel bool
	step   string        // that it is at
	reseed *store.Reseed // what was decided of a snapshot
	waited time.Duration // since then
}

// memberPlanner decides what comes next, from what is observed and recorded. It
// changes nothing.
type memberPlanner func(o *observed, app *store.Application, m store.Member, op memberOperation) verdict

// onMember executes an operation on one member.
func (m *Manager) onMember(plan memberPlanner) executor {
	return func(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
		_, problem := target(o, op.Value)
		if problem != "" {
			return m.fail(ctx, op, "%s", problem)
		}
		var req store.MemberRequest
		if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil {
			return m.fail(ctx, op, "the request cannot be read: %v", err)
		}
		// What was observed was written meanwhile: it is the newest record that counts.
		r, err := store.Get[store.Application](ctx, m.store, store.KindApplication, op.Value.Target)
		if err != nil {
			return err
		}
		v := planMember(o, &r.Value, asked(o, op, req), plan)
		if v.step != "" {
			var edits []func(*store.Operation)
			if v.reseed != nil {
				v.reseed.Since = o.now
				edits = append(edits, func(op *store.Operation) { op.Reseed = v.reseed })
			}
			if op, err = m.step(ctx, op, v.step, edits...); err != nil {
				return err
			}
		}
		if v.change != nil {
			if v, err = m.apps.changeMember(ctx, o, asked(o, op, req), op.Value.Target, plan); err != nil {
				return err
			}
		}
		if v.state != "" {
			return m.end(ctx, op, v.state, v.why)
		}
		return nil
	}
}

func asked(o *observed, op store.Record[store.Operation], req store.MemberRequest) memberOperation {
	result := memberOperation{name: op.Name, kind: op.Value.Kind, req: req, by: op.Value.By, cancel: op.Value.Cancel, step: op.Value.Step, reseed: op.Value.Reseed}
	if steps := op.Value.Steps; len(steps) > 0 {
		result.waited = o.now.Sub(steps[len(steps)-1].Time)
	}
	return result
}

// planMember has plan decide about a member that there is.
func planMember(o *observed, app *store.Application, op memberOperation, plan memberPlanner) verdict {
	m, ok := memberOf(app, op.req.Member)
	switch {
	case !ok && op.step != "":
		return refuseTo("the service of %s is gone", op.req.Member)
	case !ok:
		var names []string
		for _, m := range app.Members {
			names = append(names, m.Name)
		}
		return refuseTo("%s has no member %s; it has %s", app.Name, op.req.Member, strings.Join(names, ", "))
	case app.Handover != nil && op.step != "":
		return verdict{}
	case app.Handover != nil:
		return waitFor("waits for the change of the primary that is under way")
	}
	return plan(o, app, m, op)
}

// changeMember records what the plan wants changed. Term grows, so that orders from
// before are void.
func (a *applications) changeMember(ctx context.Context, o *observed, op memberOperation, name string, plan memberPlanner) (verdict, error) {
	var v verdict
	r, err := store.Modify(ctx, a.m.store, store.KindApplication, name, func(app *store.Application) (bool, error) {
		if v = planMember(o, app, op, plan); v.change == nil {
			return false, nil
		}
		return applyTo(app, op.req.Member, v.change), nil
	})
	if err != nil {
		return verdict{}, err
	}
	failpoint.Hit("member:recorded")
	a.records.Put(r)
	a.know(r)
	if v.change == nil || v.event == "" {
		return v, nil
	}
	return v, a.addEvents(ctx, name, []store.Event{{Time: o.now, Member: op.req.Member, Kind: strings.TrimPrefix(op.kind, "un"), Text: v.event}})
}

// applyTo changes a member, and tells whether that made a difference.
func applyTo(app *store.Application, member string, change func(*store.Member)) bool {
	i := slices.IndexFunc(app.Members, func(m store.Member) bool { return m.Name == member })
	before := app.Members[i]
	app.Members = slices.Clone(app.Members)
	change(&app.Members[i])
	if app.Members[i] == before {
		return false
	}
	app.Term++
	return true
}

// spare says why commits could not go on without a standby that they are counted on,
// or "": another follows.
func spare(o *observed, app *store.Application, member string) string {
	primary, _ := memberOf(app, app.Primary)
	if s, heard := o.word(primary); !heard || !s.Healthy || s.Role != api.RolePrimary {
		return fmt.Sprintf("the primary %s is not healthy, and %s may have acknowledged what no other has", app.Primary, member)
	}
	for _, m := range app.Members {
		if s, heard := o.word(m); m.Name != app.Primary && m.Name != member && !aside(m) && heard && s.Streaming {
			return ""
		}
	}
	return fmt.Sprintf("no other standby follows %s: commits would wait until %s, or another, is back", app.Primary, member)
}

func dropAside(m *store.Member) { m.Aside = "" }

// planFence has the server of a member stop and not start again.
func planFence(o *observed, app *store.Application, m store.Member, op memberOperation) verdict {
	fence := func(m *store.Member) {
		m.Fenced, m.Aside = &store.Fence{By: op.by, Since: o.now, Operation: op.name}, ""
	}
	stopping := fmt.Sprintf("stopping the server of %s", m.Name)
	fencing := waitFor("%s", stopping).with("fenced by "+op.by, fence)
	why := spare(o, app, m.Name)
	switch {
	case m.Fenced != nil && stopped(o, app, m):
		return verdict{state: store.OperationDone}
	case m.Fenced != nil && m.Fenced.Operation == op.name && op.cancel:
		return verdict{state: store.OperationCancelled, why: m.Name + " is not fenced and comes back"}.with("taken back by "+op.by, func(m *store.Member) { m.Fenced = nil })
	case m.Fenced != nil:
		return waitFor("%s", stopping)
	case op.cancel:
		return verdict{state: store.OperationCancelled, why: m.Name + " was not fenced"}.with("", dropAside)
	case m.Name == app.Primary && !op.req.Force:
		return refuseTo("%s is the primary of %s, and nobody would take its place; hand over first: docker openmanage switchover %s; or stop all writes: docker openmanage fence %s on --force", m.Name, app.Name, app.Name, m.Name)
	case m.Name == app.Primary, !counted(app, m.Name), why != "" && op.req.Force:
		return fencing
	case why != "":
		return refuseTo("%s; to fence it all the same: docker openmanage fence %s on --force", why, m.Name).with("", dropAside)
	}
	return setAside(m, op)
}

// setAside has commits wait for others, and then waits until they do.
func setAside(m store.Member, op memberOperation) verdict {
	v := waitFor("having commits wait for others than %s", m.Name)
	if m.Aside == "" {
		return v.with("", func(m *store.Member) { m.Aside = op.name })
	}
	return v
}

// stopped tells whether no server of a fenced member runs, nor will: it says so under
// the orders that fence it, or whoever runs it next has to ask for them.
func stopped(o *observed, app *store.Application, m store.Member) bool {
	v, ok := o.volumes[m.Volume]
	if !ok || v.Value.Owner == nil {
		return true
	}
	if s, heard := o.word(m); heard && s.node == v.Value.Owner.Node {
		return s.State == api.StateFenced && s.Term == app.Term
	}
	return formerIsGone(o, app, m)
}

// unfencePatience is how long a member that was taken back may take to be healthy.
const unfencePatience = rollPatience

// planUnfence has a fenced member start again.
func planUnfence(o *observed, app *store.Application, m store.Member, op memberOperation) verdict {
	s, heard := o.word(m)
	svc, ok := service(o, app.Name, m.Name)
	switch {
	case m.Fenced != nil && op.cancel:
		return verdict{state: store.OperationCancelled, why: m.Name + " stays fenced"}
	case m.Fenced != nil:
		return waitFor("waiting until %s is healthy", m.Name).with("taken back by "+op.by, func(m *store.Member) { m.Fenced = nil })
	case ok && replicas(svc) == 0:
		return verdict{state: store.OperationDone} // the application is stopped
	case heard && s.Healthy && s.State == api.StateRunning && s.Term == app.Term && (m.Name == app.Primary || s.Streaming || app.NoRoles):
		return verdict{state: store.OperationDone}
	case op.cancel:
		return verdict{state: store.OperationCancelled, why: m.Name + " is not fenced any more and comes back by itself"}
	case op.step != "" && op.waited > unfencePatience:
		return refuseTo("%s is not fenced any more, and not healthy after %s: %s", m.Name, unfencePatience, m.Message)
	}
	return waitFor("waiting until %s is healthy", m.Name)
}
