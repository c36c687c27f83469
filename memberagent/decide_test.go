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
	for _, tc := range []struct {
		doc    string
		orders api.MemberOrders
		data   Data
		want   action
		why    string // part of the reason to wait
		err    string // part of the refusal
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
		{doc: "primary, but the primary is another", orders: api.MemberOrders{Role: api.RolePrimary, Primary: "pg-2", Members: members}, data: empty, err: "contradict"},
		{doc: "standby of itself", orders: api.MemberOrders{Role: api.RoleStandby, Primary: "pg-1", Members: members}, data: empty, err: "contradict"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			got, why, err := decide("pg-1", "pg-1", tc.orders, tc.data)
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
