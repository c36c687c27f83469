package commands

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

func TestWhatAMemberSaysOfItself(t *testing.T) {
	word := func(change func(*api.LiveMember)) api.LiveMember {
		var w api.LiveMember
		w.State, w.Timeline, w.Sync, w.LagBytes, w.LagSeconds = api.StateRunning, 3, true, 2<<20, 4.2
		change(&w)
		return w
	}
	same := func(*api.LiveMember) {}
	for _, tc := range []struct {
		doc                           string
		role                          api.Role
		live                          api.LiveMember
		silent                        bool
		timeline, sync, lag, inSecond string
	}{
		{"a standby that commits wait for", api.RoleStandby, word(same), false, "3", "sync", "2MiB (4s)", "4.2"},
		{"one that they do not wait for", api.RoleStandby, word(func(w *api.LiveMember) { w.Sync = false }), false, "3", "async", "2MiB (4s)", "4.2"},
		{"one that keeps up", api.RoleStandby, word(func(w *api.LiveMember) { w.LagBytes, w.LagSeconds = 0, 0 }), false, "3", "sync", "0B", "0.0"},
		{"one whose lag is not known", api.RoleStandby, word(func(w *api.LiveMember) { w.LagBytes, w.LagSeconds = -1, -1 }), false, "3", "sync", "-", "-1"},
		{"the primary", api.RolePrimary, word(func(w *api.LiveMember) { w.Sync = false }), false, "3", "-", "-", "4.2"},
		{"a server that does not run", api.RoleStandby, word(func(w *api.LiveMember) { w.State = api.StateStarting }), false, "-", "-", "-", "4.2"},
		{"a member that says nothing", api.RoleStandby, api.LiveMember{}, true, "-", "-", "-", "-1"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			r := &memberRow{m: store.Member{Role: tc.role}, live: tc.live, known: !tc.silent}
			assert.Equal(t, r.Timeline(), tc.timeline)
			assert.Equal(t, r.Sync(), tc.sync)
			assert.Equal(t, r.Lag(), tc.lag)
			assert.Equal(t, r.LagSeconds(), tc.inSecond)
		})
	}
}
