package swarmmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// planRebuild has the data of a standby replaced by a fresh copy of the primary's.
// Once the order is recorded its data is nobody's: the agent may have begun.
func planRebuild(o *observed, app *store.Application, m store.Member, op memberOperation) verdict {
	s, heard := o.word(m)
	void := fmt.Sprintf("taking the order back from %s", m.Name)
	switch {
	case op.reseed != nil && op.reseed.Device != "":
		return keepAside(m, op)
	case m.Rebuild == op.name:
		return rebuilding(app, m, op, s, heard, void)
	case op.cancel && op.step == void && op.waited < voterPatience:
		return waitFor("%s", void) // an order that is under way may still be carried out
	case op.cancel:
		return verdict{state: store.OperationCancelled, why: m.Name + " goes on with the data it has, or with a copy if that was removed"}.with("", dropAside)
	case m.Name == app.Primary:
		return refuseTo("%s is the primary of %s, and the others are copies of it; hand over first: docker openmanage switchover %s", m.Name, app.Name, app.Name).with("", dropAside)
	case m.Fenced != nil:
		return refuseTo("%s is fenced; take it back first: docker openmanage fence %s off", m.Name, m.Name)
	case !heard:
		return refuseTo("the agent of %s does not answer: %s; see docker openmanage ps %s", m.Name, m.Message, app.Name).with("", dropAside)
	}
	primary, _ := memberOf(app, app.Primary)
	if p, heard := o.word(primary); primary.Fenced != nil || !heard || !p.Healthy || p.Role != api.RolePrimary {
		return refuseTo("the primary %s is not healthy, so that there is nothing to copy; see docker openmanage ps %s", app.Primary, app.Name).with("", dropAside)
	}
	switch why := spare(o, app, m.Name); {
	case !counted(app, m.Name), why != "" && op.req.Force:
		if source, ok := seedFor(o, *app, m); ok && op.reseed == nil {
			return reseedFrom(source, m, op)
		}
		return waitFor("%s", copying(app, m)).with("its data is replaced by a copy, as "+op.by+" wants", func(m *store.Member) { m.Aside, m.Rebuild = op.name, op.name })
	case why != "":
		return refuseTo("%s; to rebuild it all the same: docker openmanage rebuild %s --force", why, m.Name).with("", dropAside)
	}
	return setAside(m, op)
}

func copying(app *store.Application, m store.Member) string {
	return fmt.Sprintf("replacing the data of %s by a copy of %s's", m.Name, app.Primary)
}

// rebuilding looks after a member that was told to replace its data.
func rebuilding(app *store.Application, m store.Member, op memberOperation, s liveStatus, heard bool, void string) verdict {
	forget := func(m *store.Member) { m.Rebuild, m.Aside = "", "" }
	switch {
	case m.Name == app.Primary: // it was forced to be, and is no longer told to replace anything
		return refuseTo("%s has become the primary", m.Name).with("", forget)
	case heard && s.Rebuilt == op.name && s.Healthy && s.Streaming && s.Role == api.RoleStandby:
		return verdict{state: store.OperationDone}.with("has a fresh copy of "+app.Primary+"'s data", forget)
	case op.cancel && !slices.Contains(app.Voters, m.Name):
		return waitFor("%s", void).with("", func(m *store.Member) { m.Rebuild = "" })
	case heard && s.Rebuilt == op.name:
		return waitFor("waiting until %s follows %s", m.Name, app.Primary)
	}
	// A voter's goes on though it is cancelled: what it had may be gone.
	return waitFor("%s", copying(app, m))
}

// byItself is who has asked for what the leading manager has begun by itself.
const byItself = "OpenManage"

// copyPause is how long after a rebuild that nobody has asked for the next one of that
// member may begin. The member copies by itself before that (api.MemberOrders.CopyOnOrder).
const copyPause = 5 * time.Minute

// orderCopies has the data of members replaced that say that it can follow only so: by
// a snapshot where there can be one.
func (m *Manager) orderCopies(ctx context.Context, o *observed, records []store.Record[store.Operation]) error {
	if !o.steady {
		return nil
	}
	var errs []error
	for name, r := range o.records {
		for _, member := range r.Value.Members {
			s, heard := o.word(member)
			if !heard || s.NeedsCopy == "" || r.Value.Removed != nil || r.Value.Handover != nil || aside(member) || rebuiltLately(o, records, name, member.Name) {
				continue
			}
			errs = append(errs, m.orderCopy(ctx, o, name, member, s))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) orderCopy(ctx context.Context, o *observed, application string, member store.Member, s liveStatus) error {
	request, err := json.Marshal(store.MemberRequest{Member: member.Name, Force: true})
	if err != nil {
		return err
	}
	op := store.Operation{Kind: store.OperationRebuild, Target: application, By: byItself, State: store.OperationRequested, Request: string(request), Started: o.now}
	name := store.OperationName(application)
	if _, err := store.Create(ctx, m.store, store.KindOperation, name, op); err != nil {
		return err
	}
	failpoint.Hit("rebuild:ordered")
	m.apps.operations.Changed(name)
	o.lookAgain()
	return m.apps.addEvents(ctx, application, []store.Event{{Time: o.now, Member: member.Name, Kind: store.OperationRebuild, Text: "its data cannot be made to follow the primary: " + s.NeedsCopy}})
}

// rebuiltLately tells whether a rebuild of the member goes on, is asked for, or was
// begun by itself within copyPause.
func rebuiltLately(o *observed, records []store.Record[store.Operation], application, member string) bool {
	return slices.ContainsFunc(records, func(r store.Record[store.Operation]) bool {
		var req store.MemberRequest
		if r.Value.Kind != store.OperationRebuild || r.Value.Target != application || json.Unmarshal([]byte(r.Value.Request), &req) != nil {
			return false
		}
		return req.Member == member && (r.Value.Ended == nil || r.Value.By == byItself && o.now.Sub(r.Value.Started) < copyPause)
	})
}

// dropOrphans takes members back that an operation which is no more has left aside.
func (m *Manager) dropOrphans(ctx context.Context, o *observed, records []store.Record[store.Operation]) error {
	lives := func(operation string) bool {
		return slices.ContainsFunc(records, func(r store.Record[store.Operation]) bool { return r.Name == operation && r.Value.Ended == nil })
	}
	var errs []error
	for name, r := range o.records {
		for _, member := range r.Value.Members {
			if member.Aside == "" || lives(member.Aside) {
				continue
			}
			_, err := m.apps.changeMember(ctx, o, memberOperation{name: member.Aside, req: store.MemberRequest{Member: member.Name}}, name, orphaned)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// orphaned takes a member back unless its data is being replaced.
func orphaned(o *observed, _ *store.Application, m store.Member, op memberOperation) verdict {
	if s, heard := o.word(m); m.Aside != op.name || m.Rebuild != "" && (!heard || s.Rebuilt != m.Rebuild || !s.Streaming) {
		return verdict{}
	}
	return verdict{}.with("", func(m *store.Member) { m.Rebuild, m.Aside = "", "" })
}
