package swarmmanager

import (
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/store"
)

func TestNobodyIsHandedOverToWhomClientsDoNotFind(t *testing.T) {
	w := newWorld(t)
	p := w.members["pg-3"]
	p.status.Named = false
	_, err := store.Create(t.Context(), w.store, store.KindOperation, "pg.one", store.Operation{
		Kind: store.OperationSwitchover, Target: "pg", By: "test", State: store.OperationRequested, Request: `{"to":"pg-3"}`, Started: w.now,
	})
	assert.NilError(t, err)
	m := w.manager()
	w.until(&m, "that it waits", func(app store.Application) bool {
		r, err := store.Get[store.Operation](t.Context(), w.store, store.KindOperation, "pg.one")
		assert.NilError(t, err)
		assert.Assert(t, app.Handover == nil)
		return r.Value.Step == "waiting until clients find pg-3 by its name"
	})
	p.status.Named = true
	w.until(&m, "the change", func(app store.Application) bool { return app.Primary == "pg-3" && app.Handover == nil })
}

// A step and the story of it are two writes; a manager that dies between them leaves
// neither a step without a word nor one that is told twice.
func TestTheStoryOfAStepIsToldOnceWhoeverDies(t *testing.T) {
	run := func(doom int, after bool) *world {
		w := newWorld(t)
		w.writes, w.writer, w.doom, w.after = 0, nil, doom, after
		op := w.operation(store.OperationSwitchover, store.SwitchoverRequest{To: "pg-3"})
		assert.Equal(t, op.State, store.OperationDone, op.Error)
		h, err := store.Get[store.Events](t.Context(), w.store, store.KindEvents, "pg")
		assert.NilError(t, err)
		told := 0
		for _, e := range h.Value.Events {
			if strings.HasPrefix(e.Text, "primary instead of pg-1") {
				told++
			}
		}
		assert.Equal(t, told, 1, "%s: %+v", strings.Join(w.writer, "\n"), h.Value.Events)
		assert.Equal(t, len(w.application().News), 0)
		return w
	}
	whole := run(0, false)
	for doom := 1; doom <= whole.writes; doom++ {
		for _, after := range []bool{false, true} {
			run(doom, after)
		}
	}
}

func TestNothingIsWrittenBetweenTheStepsOfAChangeThatCanWait(t *testing.T) {
	o := observation()
	for _, tc := range []struct {
		doc  string
		edit func(c *change)
		want bool
	}{
		{"a member's state", func(c *change) { c.next.Members = nil }, true},
		{"the next step", func(c *change) { c.next.Term++ }, false},
		{"it is over", func(c *change) { c.next.Handover = nil }, false},
		{"the application is gone", func(c *change) { c.next.Removed = &o.now }, false},
		{"it takes long", func(c *change) {
			c.record.Value.Handover = &store.Handover{Since: o.precise.Add(-quietHandover)}
			c.next.Handover = c.record.Value.Handover
		}, false},
		{"another manager's clock is ahead", func(c *change) {
			c.record.Value.Handover = &store.Handover{Since: o.precise.Add(time.Hour)}
			c.next = byThisClock(o, c.record.Value)
		}, false},
	} {
		h := &store.Handover{Since: o.precise}
		c := change{exists: true, record: store.Record[store.Application]{Value: store.Application{Handover: h}}, next: store.Application{Handover: h}}
		tc.edit(&c)
		assert.Equal(t, amidHandover(o, c), tc.want, tc.doc)
	}
}
