package swarmmanager

import (
	"strconv"
	"testing"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarm"
)

// cluster of three nodes with the application pg of three members.
func observation() *observed {
	o := &observed{
		services: map[string][]dockerswarm.Service{}, uses: map[string][]swarm.Use{}, nodes: map[string]dockerswarm.Node{},
		volumes: map[string]store.Record[api.Volume]{}, records: map[string]store.Record[store.Application]{},
		statuses: map[string]liveStatus{}, reports: map[string]api.Report{}, now: time.Unix(1000, 0), precise: time.Unix(1000, 0), steady: true,
		silence: func(string) time.Duration { return 0 }, bar: func(string) error { return nil }, revoke: func(string, uint64) {},
		operating: func(string) bool { return false },
	}
	for i := 1; i <= 3; i++ {
		n := strconv.Itoa(i)
		o.nodes["n"+n] = dockerswarm.Node{
			ID: "n" + n, Description: dockerswarm.NodeDescription{Hostname: "node" + n},
			Status: dockerswarm.NodeStatus{State: dockerswarm.NodeStateReady},
		}
		o.reports["n"+n] = api.Report{Storage: api.Storage{Location: "shared"}}
		member := "pg-" + n
		s := dockerswarm.Service{ID: "s" + n}
		s.Spec.Name = "pg_" + n
		s.Spec.Labels = map[string]string{
			api.LabelApplication: "pg", api.LabelType: "postgresql", api.LabelMember: member, api.LabelSlot: n, api.LabelVolume: member,
		}
		s.Spec.TaskTemplate.ContainerSpec = &dockerswarm.ContainerSpec{Image: "postgres:17"}
		o.services["pg"] = append(o.services["pg"], s)
		o.uses[member] = []swarm.Use{{Task: "pg_" + n + ".1", Service: "pg_" + n, NodeID: "n" + n}}
		role := api.RoleStandby
		if i == 1 {
			role = api.RolePrimary
		}
		o.statuses[member] = liveStatus{node: "n" + n, MemberStatus: api.MemberStatus{
			Application: "pg", Member: member, Volume: member, Role: role, State: api.StateRunning, Healthy: true, Initialized: true, SystemID: "42", Named: true,
		}}
		o.volumes[member] = store.Record[api.Volume]{Name: member, Value: api.Volume{
			VolumeSpec: api.VolumeSpec{Name: member, Application: "pg", Member: member}, Phase: api.PhaseReady, Location: "shared",
			Owner: &api.Owner{Node: "n" + n, Hostname: "node" + n}, LastNode: "n" + n, Epoch: 1,
		}}
	}
	return o
}

func TestNewApplicationHasItsFirstMemberAsPrimary(t *testing.T) {
	app, events := planApplication(observation(), "pg", store.Application{}, false)
	assert.Equal(t, app.Primary, "pg-1")
	assert.Equal(t, app.Term, uint64(1))
	assert.Equal(t, app.SyncMode, "quorum")
	assert.Assert(t, app.Initialized)
	assert.Equal(t, app.SystemID, "42")
	assert.Equal(t, len(app.Members), 3)
	assert.Equal(t, events[0].Kind, "created")
}

func TestOnlyTheVolumeOfAMemberPinsIt(t *testing.T) {
	o := observation()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	o.records["pg"] = store.Record[store.Application]{Name: "pg", Value: app}
	o.volumes["trap"] = store.Record[api.Volume]{Name: "trap", Value: api.Volume{
		VolumeSpec: api.VolumeSpec{Name: "trap", Application: "pg", Member: "pg-1"}, Phase: api.PhaseReady, Location: "of-another-node",
	}}
	assert.Equal(t, len(wantedPins(pinsByLocation(o), "shared")), 0, "a node drew a member to itself")
	assert.Equal(t, len(wantedPins(pinsByLocation(o), "local")), 3)
	now := o.now
	app.Removed = &now
	o.records["pg"] = store.Record[store.Application]{Name: "pg", Value: app}
	assert.Equal(t, len(wantedPins(pinsByLocation(o), "local")), 3, "taken up again, it is placed where its data is")
}

func TestNothingChangesWhileNothingHappens(t *testing.T) {
	o := observation()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	o.now = o.now.Add(time.Hour)
	again, events := planApplication(o, "pg", app, true)
	assert.Assert(t, sameApplication(app, again))
	assert.Equal(t, len(events), 0)
}

func TestMemberThatMovesIsAnEventAndKeepsItsName(t *testing.T) {
	o := observation()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	s := o.statuses["pg-1"]
	s.node = "n3"
	o.statuses["pg-1"] = s
	next, events := planApplication(o, "pg", app, true)
	assert.Equal(t, next.Members[0].Hostname, "node3")
	assert.Equal(t, len(events), 1)
	assert.Equal(t, events[0].Text, "moved from node1 to node3 with its volume pg-1")
	assert.Equal(t, next.Primary, "pg-1")
}

func TestRemovedApplicationKeepsWhatItsVolumesNeed(t *testing.T) {
	o := observation()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	o.services = nil
	gone, events := planApplication(o, "pg", app, true)
	assert.Assert(t, gone.Removed != nil)
	assert.Assert(t, gone.Initialized, "the database exists on the retained volumes: never bootstrap over it")
	assert.Equal(t, gone.SystemID, "42")
	assert.Equal(t, events[0].Kind, "removed")

	back := observation()
	app, _ = planApplication(back, "pg", gone, true)
	assert.Assert(t, app.Removed == nil)
	assert.Assert(t, app.Initialized)
}

func TestNewLeaderDoesNotCallASilentMemberUnhealthyBeforeAllHaveSpoken(t *testing.T) {
	o := observation()
	app, _ := planApplication(o, "pg", store.Application{}, false)
	o.statuses, o.steady = map[string]liveStatus{}, false
	next, events := planApplication(o, "pg", app, true)
	assert.Assert(t, next.Members[0].Healthy)
	assert.Equal(t, len(events), 0)
	o.steady = true
	next, events = planApplication(o, "pg", app, true)
	assert.Assert(t, !next.Members[0].Healthy)
	assert.Equal(t, len(events), 3)
}

func TestMemberWithNodeLocalDataIsPinnedAndSaysWhyItWaits(t *testing.T) {
	o := observation()
	for id := range o.reports {
		o.reports[id] = api.Report{Storage: api.Storage{Location: "local-" + id}}
	}
	r := o.volumes["pg-1"]
	r.Value.Location = "local-n1"
	o.volumes["pg-1"] = r
	app, _ := planApplication(o, "pg", store.Application{}, false)
	assert.Assert(t, app.Members[0].Pinned)

	delete(o.reports, "n1")
	delete(o.statuses, "pg-1")
	o.uses["pg-1"] = []swarm.Use{{Task: "pg_1.1", Service: "pg_1"}}
	app, _ = planApplication(o, "pg", app, true)
	assert.Check(t, is.Contains(app.Members[0].Message, "its data is on node node1 alone"))
}

func TestAMemberIsNotPinnedBecauseOthersAreSilent(t *testing.T) {
	for _, silent := range [][]string{{"n2", "n3"}, {"n1", "n2", "n3"}} {
		o := observation()
		for _, id := range silent {
			delete(o.reports, id)
		}
		app, _ := planApplication(o, "pg", store.Application{}, false)
		assert.Assert(t, !app.Members[0].Pinned, "%v did not say that they do not have the folder", silent)
	}
}

func TestBadPolicyLabelIsReportedAndTheSafeDefaultTaken(t *testing.T) {
	o := observation()
	for i := range o.services["pg"] {
		o.services["pg"][i].Spec.Labels[api.LabelSyncMode] = "sometimes"
	}
	app, _ := planApplication(o, "pg", store.Application{}, false)
	assert.Equal(t, app.SyncMode, "quorum")
	assert.Check(t, is.Contains(app.Problems[0], `"sometimes"`))
}

func TestSetPinsTouchesNoLabelButItsOwn(t *testing.T) {
	spec := dockerswarm.NodeSpec{}
	spec.Labels = map[string]string{"zone": "a", api.PinLabel("old-1"): api.PinElsewhere}
	assert.Assert(t, setPins(&spec, map[string]bool{api.PinLabel("pg-1"): true}))
	assert.DeepEqual(t, spec.Labels, map[string]string{"zone": "a", api.PinLabel("pg-1"): api.PinElsewhere})
	assert.Assert(t, !setPins(&spec, map[string]bool{api.PinLabel("pg-1"): true}))
}

func TestANewApplicationIsTakenUpWhenAllItsServicesAreThere(t *testing.T) {
	o := observation()
	for i := range o.services["pg"] {
		o.services["pg"][i].CreatedAt = o.precise.Add(-time.Duration(3-i) * 400 * time.Millisecond)
	}
	assert.Assert(t, forming(o, "pg"), "another may be about to come")
	o.records["pg"] = store.Record[store.Application]{Name: "pg"}
	assert.Assert(t, !forming(o, "pg"), "it is known: a member was added")
	removed := o.now
	o.records["pg"] = store.Record[store.Application]{Name: "pg", Value: store.Application{Removed: &removed}}
	assert.Assert(t, forming(o, "pg"), "it is being taken up again")
	o.precise = o.precise.Add(formingFor)
	assert.Assert(t, !forming(o, "pg"))
	for i := range o.services["pg"] { // by a clock that is ahead
		o.services["pg"][i].CreatedAt = o.precise.Add(time.Hour)
	}
	assert.Assert(t, !forming(o, "pg"))
}
