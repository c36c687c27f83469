package swarmmanager

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// equals is observation of an application whose members have no roles.
func equals() *observed {
	o := observation()
	for i := range o.services["pg"] {
		labels := o.services["pg"][i].Spec.Labels
		labels[api.LabelType], labels[api.LabelRoles] = "etcd", "none"
		member := labels[api.LabelMember]
		s := o.statuses[member]
		s.Role, s.SystemID = api.RoleMember, ""
		o.statuses[member] = s
	}
	return o
}

func TestAnApplicationOfEqualsHasNoPrimary(t *testing.T) {
	o := equals()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	assert.Assert(t, app.NoRoles)
	assert.Equal(t, app.Primary, "")
	assert.Assert(t, app.Initialized, "operations have something to do with it")
	assert.Equal(t, len(unhealthy(app)), 0)

	// One that is lost is no failover.
	o.silence = func(node string) time.Duration { return map[string]time.Duration{"n1": time.Minute}[node] }
	delete(o.statuses, "pg-1")
	delete(o.reports, "n1")
	next, events := planApplication(o, "pg", app, true)
	assert.Assert(t, next.Handover == nil)
	assert.Equal(t, next.Primary, "")
	assert.Assert(t, is.Len(events, 1))
	assert.Equal(t, events[0].Kind, "state")
	assert.DeepEqual(t, unhealthy(next), []string{"pg-1"})
	assert.Equal(t, len(next.Problems), 0)
}

func TestEqualsAreOrderedToBeMembers(t *testing.T) {
	o := equals()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	orders := ordersOf(&app, "pg-2")
	assert.Equal(t, orders.Role, api.RoleMember)
	assert.Equal(t, orders.Primary, "")
	assert.DeepEqual(t, orders.Members, []string{"pg-1", "pg-2", "pg-3"})
}

func TestEqualsLeaveOneAtATime(t *testing.T) {
	o := equals()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	for _, member := range []string{"pg-1", "pg-2"} {
		s := o.statuses[member]
		s.Leaving = true
		o.statuses[member] = s
	}
	next, _ := planApplication(o, "pg", app, true)
	assert.Assert(t, next.Members[0].Left)
	assert.Assert(t, !next.Members[1].Left)
}

func TestEqualsAreRestartedTheLastFirst(t *testing.T) {
	app, _ := planApplication(equals(), "pg", store.Application{}, false)
	assert.Equal(t, nextToRoll(app, store.RollRequest{}, nil), "pg-3")
	assert.Equal(t, nextToRoll(app, store.RollRequest{}, []string{"pg-3", "pg-2"}), "pg-1")
	assert.Equal(t, nextToRoll(app, store.RollRequest{Order: primaryFirst}, nil), "pg-3")
}

func TestWhatTakesAPrimaryIsRefusedForEquals(t *testing.T) {
	o := equals()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	o.records["pg"] = store.Record[store.Application]{Name: "pg", Value: app}
	_, problem := target(o, store.Operation{Kind: store.OperationSwitchover, Target: "pg"})
	assert.Check(t, is.Contains(problem, "pg has no primary"))
	_, problem = target(o, store.Operation{Kind: store.OperationRestart, Target: "pg"})
	assert.Equal(t, problem, "")
}

func TestAMemberAmongEqualsIsFencedWithoutAWord(t *testing.T) {
	o := equals()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	m, _ := memberOf(&app, "pg-2")
	v := planFence(o, &app, m, memberOperation{name: "op", kind: store.OperationFence, req: store.MemberRequest{Member: "pg-2"}, by: "me"})
	assert.Assert(t, v.change != nil)
	v.change(&m)
	assert.Assert(t, m.Fenced != nil)
}
