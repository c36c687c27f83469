package swarmmanager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// operationKept is for how long the record of a finished operation is kept.
const operationKept = 24 * time.Hour

// keptSteps bounds the record of an operation that waits and waits.
const keptSteps = 50

// serviceAPI is what executors use of the Docker client to change the members'
// services. Whatever they write, here or in a record, has a failpoint behind it: who
// dies there has done it and no more.
type serviceAPI interface {
	ServiceCreate(ctx context.Context, options client.ServiceCreateOptions) (client.ServiceCreateResult, error)
	ServiceUpdate(ctx context.Context, id string, options client.ServiceUpdateOptions) (client.ServiceUpdateResult, error)
	ServiceRemove(ctx context.Context, id string, options client.ServiceRemoveOptions) (client.ServiceRemoveResult, error)
}

// executor takes the next step of an operation that is under way, if the state that
// was observed allows it. It is called again and again until the operation has
// ended, by whichever manager leads: every step can be repeated, and what has been
// done shows in the records and in Swarm, not in memory.
type executor func(ctx context.Context, o *observed, op store.Record[store.Operation]) error

func (m *Manager) executors() map[string]executor {
	return map[string]executor{
		store.OperationPurge:      m.purge,
		store.OperationSwitchover: m.switchover,
		store.OperationPromote:    m.promote,
		store.OperationRestart:    m.roll,
		store.OperationUpgrade:    m.roll,
		store.OperationStop:       m.stop,
		store.OperationStart:      m.start,
		store.OperationExpand:     m.expand,
		store.OperationScale:      m.scaleMembers,
		store.OperationFence:      m.onMember(planFence),
		store.OperationUnfence:    m.onMember(planUnfence),
		store.OperationRebuild:    m.rebuild,
		store.OperationConfig:     m.configure,
	}
}

// readOperations returns all operations in the order in which they were asked for.
func (m *Manager) readOperations(ctx context.Context) ([]store.Record[store.Operation], error) {
	age := relist
	if !m.apps.following.Load() {
		age = 0
	}
	all, err := m.apps.operations.All(ctx, age)
	records := slices.SortedFunc(maps.Values(all), func(a, b store.Record[store.Operation]) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	return records, err
}

// targets are the applications that operations are for which have not ended.
func targets(operations []store.Record[store.Operation]) []string {
	var names []string
	for _, r := range operations {
		if r.Value.Ended == nil && r.Value.Kind != store.OperationPurge && r.Value.Kind != store.OperationCreate {
			names = append(names, r.Value.Target)
		}
	}
	return names
}

// operate executes what users have asked for: one operation of an application at a
// time, in the order in which they were asked for.
func (m *Manager) operate(ctx context.Context, o *observed) error {
	records, err := m.readOperations(ctx)
	if err != nil {
		return err
	}
	executors := m.executors()
	busy, waiting := map[string]string{}, map[string]string{} // waiting: for their window
	begun := othersBegun(records)
	errs := []error{m.dropOrphans(ctx, o, records), m.orderCopies(ctx, o, records)}
	for _, r := range records {
		if r.Value.Ended == nil {
			// As it is now: what was read before may be from before our own last step.
			now, err := m.apps.operations.Read(ctx, r.Name)
			if err != nil {
				if !errors.Is(err, store.ErrNotFound) {
					errs = append(errs, err)
				}
				continue
			}
			r = now
		}
		op := r.Value
		execute, ours := executors[op.Kind]
		between := betweenMembers(op)
		switch {
		case op.Ended != nil:
			if time.Since(*op.Ended) > operationKept {
				errs = append(errs, store.Delete(ctx, m.store, store.KindOperation, r))
				m.apps.operations.Drop(r.Name)
			}
		case !ours: // a claim of the CLI
		case op.Cancel && op.State == store.OperationRequested:
			errs = append(errs, m.end(ctx, r, store.OperationCancelled, ""))
		case busy[op.Target] != "" && op.Kind != store.OperationPromote: // that is for when others are stuck
			errs = append(errs, m.waits(ctx, r, "waits for "+busy[op.Target]))
		case !o.steady && op.Kind != store.OperationPurge:
			// Who leads only since a moment has not heard everybody: who seems to be
			// missing may not have spoken yet, and is no reason to fail.
			busy[op.Target] = r.Name + " (" + op.Kind + ")"
			o.lookAgain()
		case moving(o, op) != "":
			errs = append(errs, m.waits(ctx, r, "waits until "+moving(o, op)+" has moved to another node"))
		case between && begun[op.Target] != "":
			errs = append(errs, m.waits(ctx, r, "waits for "+begun[op.Target]))
		case between && waiting[op.Target] != "":
			errs = append(errs, m.waits(ctx, r, "waits for "+waiting[op.Target]))
		case waitsForWindow(o, op) != "":
			// Only who restarts members too stays behind it.
			waiting[op.Target] = r.Name + " (" + op.Kind + ")"
			_, err := m.step(ctx, r, waitsForWindow(o, op))
			errs = append(errs, err)
		default:
			busy[op.Target] = r.Name + " (" + op.Kind + ")"
			o.lookAgain()
			errs = append(errs, execute(ctx, o, r))
		}
	}
	return errors.Join(errs...)
}

// end writes how an operation ended.
func (m *Manager) end(ctx context.Context, r store.Record[store.Operation], state store.OperationState, problem string) error {
	failpoint.Hit("operation:ending")
	op := r.Value
	now := time.Now().UTC().Truncate(time.Second)
	op.State, op.Error, op.Ended, op.Step = state, problem, &now, ""
	_, err := m.writeOperation(ctx, r, op)
	failpoint.Hit("operation:ended")
	m.log.Info("operation ended", "operation", r.Name, "kind", op.Kind, "target", op.Target, "state", state, "error", problem)
	return err
}

func (m *Manager) fail(ctx context.Context, r store.Record[store.Operation], format string, args ...any) error {
	return m.end(ctx, r, store.OperationFailed, fmt.Sprintf(format, args...))
}

// step notes what an operation does now. change edits what else its record keeps.
func (m *Manager) step(ctx context.Context, r store.Record[store.Operation], step string, change ...func(*store.Operation)) (store.Record[store.Operation], error) {
	if r.Value.Step == step && r.Value.State == store.OperationRunning && len(change) == 0 {
		return r, nil
	}
	op := r.Value
	op.State = store.OperationRunning
	if op.Step != step {
		op.Step = step
		op.Steps = append(slices.Clone(op.Steps), store.OperationStep{Time: time.Now().UTC().Truncate(time.Second), Text: step})
		op.Steps = op.Steps[max(0, len(op.Steps)-keptSteps):]
	}
	for _, edit := range change {
		edit(&op)
	}
	next, err := m.writeOperation(ctx, r, op)
	if err == nil {
		m.log.Info("operation", "operation", r.Name, "kind", op.Kind, "target", op.Target, "step", step)
		failpoint.Hit("operation:" + op.Kind)
	}
	return next, err
}

// waits notes why an operation has not begun.
func (m *Manager) waits(ctx context.Context, r store.Record[store.Operation], why string) error {
	if r.Value.Step == why {
		return nil
	}
	op := r.Value
	op.Step = why
	_, err := m.writeOperation(ctx, r, op)
	return err
}

func (m *Manager) writeOperation(ctx context.Context, r store.Record[store.Operation], op store.Operation) (store.Record[store.Operation], error) {
	m.apps.operations.Changed(r.Name)
	return store.Update(ctx, m.store, store.KindOperation, r, op)
}

// takesRoles are the operations that make no sense without a primary.
var takesRoles = map[string]bool{
	store.OperationSwitchover: true, store.OperationPromote: true, store.OperationRebuild: true, store.OperationScale: true, store.OperationConfig: true,
}

// target returns the application that an operation is for, as it is recorded; a
// string that is not empty says why nothing can be done with it.
func target(o *observed, op store.Operation) (app store.Application, problem string) {
	r, ok := o.records[op.Target]
	switch {
	case !ok:
		return app, "there is no application " + op.Target
	case r.Value.Removed != nil:
		return app, op.Target + " was removed"
	case !r.Value.Initialized:
		return app, op.Target + " has no database yet"
	case r.Value.NoRoles && takesRoles[op.Kind]:
		return app, fmt.Sprintf("%s has no primary: its members are equals, and there is nothing to %s", op.Target, op.Kind)
	}
	return r.Value, ""
}

// gaveUp tells whether the change of the primary that this operation asked for has
// ended without one.
func gaveUp(app store.Application, op string) bool {
	return app.Handover == nil && app.LastChange == op && app.LastFrom == app.Primary
}

func whyGivenUp(app store.Application) string {
	return fmt.Sprintf("%s did not hand over and stays the primary; see why: docker openmanage events %s", app.Primary, app.Name)
}

// unhealthy names the members of app that are not healthy.
func unhealthy(app store.Application) []string {
	var names []string
	for _, m := range app.Members {
		if !m.Healthy {
			names = append(names, m.Name)
		}
	}
	return names
}

// successor chooses who is to be the primary after an orderly change: the standby
// asked for, or of those that commits wait for one that clients find, and of these the
// one with the least lag.
func successor(o *observed, app store.Application, asked string, except ...string) (name, problem string) {
	if primary, _ := memberOf(&app, app.Primary); primary.Fenced != nil {
		return "", fmt.Sprintf("the primary %s is fenced and cannot hand over; take it back with docker openmanage fence %s off", app.Primary, app.Primary)
	}
	var best store.Member
	var its liveStatus
	for _, m := range app.Members {
		if m.Name == app.Primary || asked != "" && m.Name != asked || slices.Contains(except, m.Name) {
			continue
		}
		s, heard := o.word(m)
		why := ""
		switch {
		case m.Fenced != nil:
			why = "it is fenced; take it back with docker openmanage fence " + m.Name + " off"
		case m.Rebuild != "":
			why = "its data is being replaced"
		case !heard || !s.Healthy || !s.Streaming:
			why = "it does not follow the primary: " + cmp.Or(m.Message, string(m.State))
		case syncOn(&app) && !slices.Contains(app.Sync, m.Name):
			why = "commits do not wait for it yet"
		}
		if why != "" {
			if asked != "" {
				return "", fmt.Sprintf("%s cannot become the primary: %s", asked, why)
			}
			continue
		}
		if best.Name == "" || s.Named && !its.Named || s.Named == its.Named && s.Position > its.Position {
			best, its = m, s
		}
	}
	if best.Name == "" && asked != "" {
		return "", fmt.Sprintf("%s has no standby %s", app.Name, asked)
	}
	if best.Name == "" {
		return "", "no standby of " + app.Name + " is ready to become the primary; see `docker openmanage ps " + app.Name + "`"
	}
	return best.Name, ""
}

func (m *Manager) reread(ctx context.Context, op store.Record[store.Operation]) store.Record[store.Operation] {
	if r, err := store.Get[store.Operation](ctx, m.store, store.KindOperation, op.Name); err == nil {
		return r
	}
	return op
}
