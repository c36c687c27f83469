package swarmmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// switchover hands the primary over in order.
func (m *Manager) switchover(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	var req store.SwitchoverRequest
	if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil {
		return m.fail(ctx, op, "the request cannot be read: %v", err)
	}
	if ended, err := m.followChange(ctx, op, app, req.To); ended || err != nil {
		return err
	}
	if op.Value.Cancel {
		return m.end(ctx, op, store.OperationCancelled, "")
	}
	if req.To != "" && req.To == app.Primary {
		return m.end(ctx, op, store.OperationDone, "")
	}
	to, problem := successor(o, app, req.To)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	return m.handOver(ctx, o, op, app, to, "switchover")
}

// handOver hands over in order, for an operation, to a member that clients find: Swarm's
// DNS knows one that was just started some seconds later. what: that was asked for.
func (m *Manager) handOver(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, to, what string, edit ...func(*store.Operation)) error {
	if member, _ := memberOf(&app, to); !named(o, member) {
		_, err := m.step(ctx, op, fmt.Sprintf("waiting until clients find %s by its name", to))
		return err
	}
	op, err := m.step(ctx, op, fmt.Sprintf("handing over from %s to %s", app.Primary, to), edit...)
	if err != nil {
		return err
	}
	return m.apps.handOver(ctx, o, op, store.Handover{From: app.Primary, To: to, Orderly: true, Reason: what + " asked for by " + op.Value.By})
}

// promote makes a standby the primary though a voter is missing, or with the
// replication not synchronous. The former primary must be gone even so.
func (m *Manager) promote(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	var req store.SwitchoverRequest
	if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil {
		return m.fail(ctx, op, "the request cannot be read: %v", err)
	}
	if ended, err := m.followChange(ctx, op, app, req.To); ended || err != nil {
		return err
	}
	if op.Value.Cancel {
		return m.end(ctx, op, store.OperationCancelled, "")
	}
	if primary, ok := memberOf(&app, app.Primary); ok && primary.Healthy {
		return m.fail(ctx, op, "the primary %s is healthy; to change it: docker openmanage switchover %s", app.Primary, app.Name)
	}
	if to, ok := memberOf(&app, req.To); req.To != "" && (!ok || to.Name == app.Primary) {
		return m.fail(ctx, op, "%s has no standby %s", app.Name, req.To)
	}
	op, err := m.step(ctx, op, "making a standby the primary, without the members that are missing")
	if err != nil {
		return err
	}
	return m.apps.handOver(ctx, o, op, store.Handover{From: app.Primary, To: req.To, Force: true, Reason: "forced by " + op.Value.By})
}

// followChange ends an operation whose change of the primary is over. ended is also
// true while the change goes on, or another one does.
func (m *Manager) followChange(ctx context.Context, op store.Record[store.Operation], app store.Application, to string) (ended bool, err error) {
	h := app.Handover
	switch {
	case h != nil && h.Operation == op.Name:
		return true, nil
	case h != nil:
		_, err := m.step(ctx, op, "waits for the change of the primary that is under way")
		return true, err
	case app.LastChange != op.Name:
		return false, nil // not begun yet
	case gaveUp(app, op.Name):
		return true, m.fail(ctx, op, "%s", whyGivenUp(app))
	case to != "" && app.Primary != to:
		return true, m.fail(ctx, op, "%s became the primary instead of %s; see why: docker openmanage events %s", app.Primary, to, app.Name)
	}
	if p, ok := memberOf(&app, app.Primary); !ok || !p.Healthy {
		_, err := m.step(ctx, op, fmt.Sprintf("waiting until %s takes writes", app.Primary))
		return true, err
	}
	return true, m.end(ctx, op, store.OperationDone, "")
}

// handOver begins a change of the primary for an operation.
func (a *applications) handOver(ctx context.Context, o *observed, op store.Record[store.Operation], h store.Handover) error {
	h.Operation = op.Name
	r, err := store.Modify(ctx, a.m.store, store.KindApplication, op.Value.Target, func(app *store.Application) (bool, error) {
		if app.Handover != nil || app.Primary != h.From {
			return false, errors.New("another change of the primary has begun")
		}
		beginHandover(o, app, h)
		return true, nil
	})
	if err != nil {
		return err
	}
	failpoint.Hit("handover:recorded")
	a.records.Put(r)
	a.know(r)
	return a.addEvents(ctx, r.Name, []store.Event{{Time: o.now, Member: h.From, Kind: "switchover", Text: "hands over: " + h.Reason}})
}
