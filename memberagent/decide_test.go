package memberagent

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

func TestDecide(t *testing.T) {
	members := []string{"pg-1", "pg-2"}
	primary := api.MemberOrders{Role: api.RolePrimary, Primary: "pg-1", Members: members}
	primaryOf := func(id string) api.MemberOrders {
		o := primary
		o.Initialized, o.SystemID = true, id
		return o
	}
	standby := api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: members}
	standbyOf := func(id string) api.MemberOrders {
		o := standby
		o.Initialized, o.SystemID = true, id
		return o
	}
	empty := Data{Empty: true}
	// changed gives orders of a later term.
	changed := func(o api.MemberOrders, change func(*api.MemberOrders)) api.MemberOrders {
		o.Term = 5
		change(&o)
		return o
	}
	keep := func(*api.MemberOrders) {}
	nobody := func(o *api.MemberOrders) { o.Primary = "" }
	chosen := func(o *api.MemberOrders) { o.Timeline, o.Position = 1, 100 }
	fenced := func(o *api.MemberOrders) { o.Fenced = "fenced by me" }
	rebuilt := func(o *api.MemberOrders) { o.Rebuild = "pg.1" }
	for _, tc := range []struct {
		doc    string
		orders api.MemberOrders
		data   Data
		want   action
		why    string // part of the reason to wait
		err    string // part of the refusal

		diverged bool
	}{
		{doc: "no role yet", orders: api.MemberOrders{Members: members, Reason: "pg-2 is being fenced"}, data: empty, want: actionWait, why: "pg-2 is being fenced"},
		{doc: "not a member", orders: api.MemberOrders{Role: api.RolePrimary, Primary: "pg-1", Members: []string{"pg-2"}}, data: empty, want: actionWait, why: "not among"},
		{doc: "first primary", orders: primary, data: empty, want: actionBootstrap},
		{doc: "the database exists and is not here", orders: primaryOf("7"), data: empty, err: "the data is missing"},
		{doc: "a kept volume", orders: primary, data: Data{Role: api.RolePrimary, SystemID: "7"}, want: actionStart},
		{doc: "primary with its data", orders: primaryOf("7"), data: Data{Role: api.RolePrimary, SystemID: "7"}, want: actionStart},
		{doc: "primary with another's data", orders: primaryOf("7"), data: Data{Role: api.RolePrimary, SystemID: "8"}, err: "another database"},
		{doc: "primary with a standby's data", orders: primaryOf("7"), data: Data{Role: api.RoleStandby, SystemID: "7"}, err: "not promoted"},
		{doc: "standby before the database", orders: standby, data: empty, want: actionWait, why: "until pg-2 has made"},
		{doc: "new standby", orders: standbyOf("7"), data: empty, want: actionJoin},
		{doc: "standby with its data", orders: standbyOf("7"), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionStart},
		{doc: "standby with another's data", orders: standbyOf("7"), data: Data{Role: api.RoleStandby, SystemID: "8"}, err: "another database"},
		{doc: "old primary", orders: standbyOf("7"), data: Data{Role: api.RolePrimary, SystemID: "7"}, err: "two primaries"},
		{doc: "old primary, later", orders: changed(standbyOf("7"), keep), data: Data{Role: api.RolePrimary, SystemID: "7"}, want: actionRejoin},
		{doc: "old primary of another database", orders: changed(standbyOf("7"), keep), data: Data{Role: api.RolePrimary, SystemID: "8"}, err: "another database"},
		{doc: "old primary, nobody to follow", orders: changed(standbyOf("7"), nobody), data: Data{Role: api.RolePrimary, SystemID: "7"}, want: actionWait, why: "handing over"},
		{doc: "standby, nobody to follow", orders: changed(standbyOf("7"), nobody), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionStart},
		{doc: "standby, nobody to follow, diverged from one before", orders: changed(standbyOf("7"), nobody), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionStart, diverged: true},
		{doc: "nobody to copy", orders: changed(standbyOf("7"), nobody), data: empty, want: actionWait, why: "is being changed"},
		{doc: "nobody to make it whole", orders: changed(standbyOf("7"), nobody), data: Data{Stale: true, SystemID: "7"}, want: actionWait, why: "is being changed"},
		{doc: "standby chosen", orders: changed(primaryOf("7"), chosen), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionStart},
		{doc: "standby of another database chosen", orders: changed(primaryOf("7"), chosen), data: Data{Role: api.RoleStandby, SystemID: "8"}, err: "another database"},
		{doc: "half replaced data chosen", orders: changed(primaryOf("7"), chosen), data: Data{Stale: true, Role: api.RoleStandby, SystemID: "7"}, err: "half replaced"},
		{doc: "chosen, but the data is missing", orders: changed(primaryOf("7"), chosen), data: empty, err: "the data is missing"},
		{doc: "primary again", orders: changed(primaryOf("7"), chosen), data: Data{Role: api.RolePrimary, SystemID: "7"}, want: actionStart},
		{doc: "half replaced data", orders: standbyOf("7"), data: Data{Stale: true, SystemID: "7"}, want: actionRejoin},
		{doc: "half replaced data of another database", orders: standbyOf("7"), data: Data{Stale: true, SystemID: "8"}, err: "another database"},
		{doc: "diverged standby", orders: standbyOf("7"), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionRejoin, diverged: true},
		{doc: "fenced", orders: changed(standbyOf("7"), fenced), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionWait, why: "fenced by me"},
		{doc: "fenced primary", orders: changed(primaryOf("7"), fenced), data: Data{Role: api.RolePrimary, SystemID: "7"}, want: actionWait, why: "fenced by me"},
		{doc: "fenced before the database", orders: changed(primary, fenced), data: empty, want: actionWait, why: "fenced by me"},
		{doc: "rebuild", orders: changed(standbyOf("7"), rebuilt), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionRejoin},
		{doc: "rebuild of nothing", orders: changed(standbyOf("7"), rebuilt), data: empty, want: actionJoin},
		{doc: "rebuild of another database", orders: changed(standbyOf("7"), rebuilt), data: Data{Role: api.RoleStandby, SystemID: "8"}, err: "another database"},
		{doc: "rebuild, nobody to copy", orders: changed(changed(standbyOf("7"), rebuilt), nobody), data: Data{Role: api.RoleStandby, SystemID: "7"}, want: actionWait, why: "is being changed"},
		{doc: "rebuild of a primary", orders: changed(primaryOf("7"), rebuilt), data: Data{Role: api.RolePrimary, SystemID: "7"}, want: actionStart},
		{doc: "primary, but the primary is another", orders: api.MemberOrders{Role: api.RolePrimary, Primary: "pg-2", Members: members}, data: empty, err: "contradict"},
		{doc: "standby of itself", orders: api.MemberOrders{Role: api.RoleStandby, Primary: "pg-1", Members: members}, data: empty, err: "contradict"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			got, why, err := decide("pg-1", "pg-1", tc.orders, tc.data, tc.diverged)
			if tc.err != "" {
				assert.ErrorContains(t, err, tc.err)
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, got, tc.want)
			assert.Assert(t, tc.why == "" && why == "" || tc.why != "" && strings.Contains(why, tc.why), "why is %q", why)
		})
	}
}

func TestSteer(t *testing.T) {
	members := []string{"pg-1", "pg-2"}
	orders := func(role api.Role, primary string, timeline int) api.MemberOrders {
		return api.MemberOrders{Role: role, Primary: primary, Timeline: timeline, Members: members, SystemID: "7", Term: 5}
	}
	fenced := func(o api.MemberOrders) api.MemberOrders {
		o.Fenced = "fenced by me"
		return o
	}
	rebuilt := func(o api.MemberOrders) api.MemberOrders {
		o.Rebuild = "pg.1"
		return o
	}
	for _, tc := range []struct {
		doc     string
		orders  api.MemberOrders
		running api.Role
		want    course
	}{
		{doc: "no role", orders: orders("", "", 0), running: api.RolePrimary, want: courseKeep},
		{doc: "no role for a standby", orders: orders("", "pg-2", 0), running: api.RoleStandby, want: courseKeep},
		{doc: "contradiction", orders: orders(api.RolePrimary, "pg-2", 1), running: api.RoleStandby, want: courseKeep},
		{doc: "standby of itself", orders: orders(api.RoleStandby, "pg-1", 0), running: api.RolePrimary, want: courseKeep},
		{doc: "not a member", orders: api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-2"}}, running: api.RolePrimary, want: courseKeep},
		{doc: "primary", orders: orders(api.RolePrimary, "pg-1", 0), running: api.RolePrimary, want: courseAdapt},
		{doc: "primary that was promoted", orders: orders(api.RolePrimary, "pg-1", 1), running: api.RolePrimary, want: courseAdapt},
		{doc: "standby", orders: orders(api.RoleStandby, "pg-2", 0), running: api.RoleStandby, want: courseAdapt},
		{doc: "standby of nobody", orders: orders(api.RoleStandby, "", 0), running: api.RoleStandby, want: courseAdapt},
		{doc: "promotion", orders: orders(api.RolePrimary, "pg-1", 1), running: api.RoleStandby, want: coursePromote},
		{doc: "promotion that nobody chose", orders: orders(api.RolePrimary, "pg-1", 0), running: api.RoleStandby, want: courseStop},
		{doc: "promotion of another database", orders: api.MemberOrders{Role: api.RolePrimary, Primary: "pg-1", Timeline: 1, Members: members, SystemID: "8"}, running: api.RoleStandby, want: courseStop},
		{doc: "hand-over", orders: orders(api.RoleStandby, "", 0), running: api.RolePrimary, want: courseStop},
		{doc: "old primary", orders: orders(api.RoleStandby, "pg-2", 0), running: api.RolePrimary, want: courseStop},
		{doc: "fenced", orders: fenced(orders(api.RoleStandby, "pg-2", 0)), running: api.RoleStandby, want: courseStop},
		{doc: "fenced primary", orders: fenced(orders(api.RolePrimary, "pg-1", 0)), running: api.RolePrimary, want: courseStop},
		{doc: "fenced, no role", orders: fenced(orders("", "", 0)), running: api.RoleStandby, want: courseStop},
		{doc: "rebuild", orders: rebuilt(orders(api.RoleStandby, "pg-2", 0)), running: api.RoleStandby, want: courseStop},
		{doc: "rebuild, nobody to copy", orders: rebuilt(orders(api.RoleStandby, "", 0)), running: api.RoleStandby, want: courseAdapt},
		{doc: "rebuild of a primary", orders: rebuilt(orders(api.RolePrimary, "pg-1", 0)), running: api.RolePrimary, want: courseAdapt},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			assert.Equal(t, steer("pg-1", tc.orders, tc.running, "7"), tc.want)
		})
	}
}

func TestOnlyDataThatHasReachedItIsPromoted(t *testing.T) {
	orders := api.MemberOrders{Timeline: 2, Position: 100}
	assert.Equal(t, reached(orders, 2, 100), "")
	assert.Equal(t, reached(orders, 3, 120), "", "killed in its promotion")
	assert.Assert(t, reached(orders, 2, 99) != "")
	assert.Assert(t, reached(orders, 1, 200) != "")
}
