package swarmmanager

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarm"
)

// crowd has pg-1, the primary, and pg-2 on n1, pg-3 on n2 and nobody on n3, all of a
// generated stack.
func crowd(t *testing.T) *plan {
	t.Helper()
	p := newPlan(t)
	for i := range p.o.services["pg"] {
		s := &p.o.services["pg"][i]
		s.Spec.TaskTemplate.Placement = &dockerswarm.Placement{Constraints: []string{"node.labels." + api.PinLabel(memberName(*s)) + " != elsewhere"}}
	}
	for id, n := range p.o.nodes {
		n.Spec.Availability, n.Spec.Role = dockerswarm.NodeAvailabilityActive, dockerswarm.NodeRoleManager
		p.o.nodes[id] = n
	}
	p.moves("pg-2", "n1")
	p.moves("pg-3", "n2")
	p.step()
	p.events = nil
	return p
}

// moves has a member run on a node.
func (p *plan) moves(member, node string) {
	s := p.o.statuses[member]
	s.node = node
	p.o.statuses[member] = s
	p.o.uses[member] = []swarm.Use{{NodeID: node}}
	r := p.o.volumes[member]
	r.Value.Owner, r.Value.LastNode = &api.Owner{Node: node, Hostname: p.o.nodes[node].Description.Hostname}, node
	p.o.volumes[member] = r
}

// labels are the pin labels that the present record puts on nodes, as NODE MEMBER.
func (p *plan) labels() (labels []string) {
	p.o.records["pg"] = store.Record[store.Application]{Name: "pg", Value: p.app}
	for id := range p.o.nodes {
		for label := range apartPins(p.o, id) {
			labels = append(labels, id+" "+strings.TrimPrefix(label, api.PinLabel("")))
		}
	}
	slices.Sort(labels)
	return labels
}

func TestAStandbyLeavesTheNodeThatItSharesWithAnotherMember(t *testing.T) {
	p := crowd(t)
	p.after(apartAfter - time.Second)
	assert.Assert(t, p.app.Apart == nil, "they have shared it for too short a time")
	p.after(2 * time.Second)
	assert.Assert(t, p.app.Apart != nil)
	assert.Equal(t, p.app.Apart.Member, "pg-2", "the primary stays")
	assert.DeepEqual(t, p.labels(), []string{"n1 pg-2", "n2 pg-2"})
	assert.DeepEqual(t, p.events, []string{"moved pg-2 leaves node1, which it shares with pg-1, for a node without a member"})
	assert.Assert(t, !p.app.Members[1].Pinned)

	// Swarm stops it there and starts it elsewhere.
	p.says("pg-2", func(s *api.MemberStatus) { s.Leaving = true })
	p.step()
	assert.Assert(t, p.app.Members[1].Left, "its turn comes")
	delete(p.o.statuses, "pg-2")
	p.after(3 * time.Second)
	assert.DeepEqual(t, p.labels(), []string{"n1 pg-2", "n2 pg-2"})
	p.moves("pg-2", "n3")
	p.says("pg-2", func(s *api.MemberStatus) {
		*s = api.MemberStatus{Application: "pg", Member: "pg-2", Volume: "pg-2", State: api.StateStarting, Initialized: true, SystemID: "42"}
	})
	p.step()
	assert.Equal(t, len(p.labels()), 0, "it sits elsewhere")
	assert.Assert(t, p.app.Apart != nil, "operations wait until it is healthy")
	assert.Equal(t, moving(p.o, store.Operation{Kind: store.OperationRestart, Target: "pg"}), "pg-2")
	p.says("pg-2", func(s *api.MemberStatus) { s.Healthy, s.State, s.Role = true, api.StateRunning, api.RoleStandby })
	p.step()
	assert.Assert(t, p.app.Apart == nil)
	for range 5 {
		p.after(time.Minute)
		assert.Assert(t, p.app.Apart == nil && p.app.Crowded == nil, "they are apart")
	}
}

func TestMembersStayTogetherWhereAMoveIsImpossibleOrUnwise(t *testing.T) {
	for doc, change := range map[string]func(*plan){
		"the label says so": func(p *plan) { p.o.services["pg"][0].Spec.Labels[api.LabelApart] = "false" },
		"there is no other node": func(p *plan) {
			delete(p.o.nodes, "n3")
			delete(p.o.reports, "n3")
		},
		"the other node is drained": func(p *plan) {
			n := p.o.nodes["n3"]
			n.Spec.Availability = dockerswarm.NodeAvailabilityDrain
			p.o.nodes["n3"] = n
		},
		"Swarm does not hear the other node": func(p *plan) {
			n := p.o.nodes["n3"]
			n.Status.State = dockerswarm.NodeStateDown
			p.o.nodes["n3"] = n
		},
		"the other node is silent":                func(p *plan) { p.silent["n3"] = api.LeaseDuration + time.Second },
		"the other node's plugin does not report": func(p *plan) { delete(p.o.reports, "n3") },
		"the other node cannot reach the data":    func(p *plan) { p.o.reports["n3"] = api.Report{Storage: api.Storage{Location: "local"}} },
		"the other node's folder is broken": func(p *plan) {
			p.o.reports["n3"] = api.Report{Storage: api.Storage{Location: "shared", Error: "read-only"}}
		},
		"the other node has a member": func(p *plan) { p.moves("pg-2", "n3") },
		"a member is not healthy": func(p *plan) {
			p.says("pg-3", func(s *api.MemberStatus) { s.Healthy = false })
		},
		"a member is about to stop": func(p *plan) { p.says("pg-3", func(s *api.MemberStatus) { s.Leaving = true }) },
		"the leader is new":         func(p *plan) { p.o.steady = false },
		"an operation is under way": func(p *plan) { p.o.operating = func(string) bool { return true } },
		"its service has no pin":    func(p *plan) { p.o.services["pg"][1].Spec.TaskTemplate.Placement = nil },
		"its service has another's pin": func(p *plan) {
			p.o.services["pg"][1].Spec.TaskTemplate.Placement.Constraints = []string{"node.labels." + api.PinLabel("pg-20") + " != elsewhere"}
		},
		"its service may not":              func(p *plan) { p.constrain("node.hostname != node3") },
		"its service has to be here":       func(p *plan) { p.constrain("node.labels.disk==fast") },
		"who knows what its service wants": func(p *plan) { p.constrain("node.platform.os == linux") },
	} {
		t.Run(doc, func(t *testing.T) {
			p := crowd(t)
			change(p)
			for range 5 {
				p.after(apartAfter)
				assert.Assert(t, p.app.Apart == nil)
				assert.Equal(t, len(p.labels()), 0)
			}
		})
	}
	p := crowd(t)
	p.constrain("node.role==manager")
	p.after(apartAfter + time.Second)
	assert.Assert(t, p.app.Apart != nil, "the other node meets this constraint")
}

func (p *plan) constrain(constraint string) {
	placement := p.o.services["pg"][1].Spec.TaskTemplate.Placement
	placement.Constraints = append(slices.Clone(placement.Constraints), constraint)
}

func TestWhatEndsInBetweenBeginsToCountAgain(t *testing.T) {
	p := crowd(t)
	p.after(apartAfter / 2)
	p.says("pg-3", func(s *api.MemberStatus) { s.Healthy = false })
	p.step()
	p.says("pg-3", func(s *api.MemberStatus) { s.Healthy = true })
	p.step()
	p.after(apartAfter/2 + time.Second)
	assert.Assert(t, p.app.Apart == nil)
	p.after(apartAfter / 2)
	assert.Assert(t, p.app.Apart != nil)
}

func TestLabelsGoAtOnceWhenANodeOrThePrimaryIsLost(t *testing.T) {
	for doc, change := range map[string]func(*plan){
		"the node that is free is silent": func(p *plan) { p.silent["n3"] = api.LeaseDuration + time.Second },
		"Swarm calls the other one down": func(p *plan) {
			n := p.o.nodes["n2"]
			n.Status.State = dockerswarm.NodeStateDown
			p.o.nodes["n2"] = n
		},
		"the primary's node dies": func(p *plan) { p.dead() },
		"the primary is not well": func(p *plan) { p.says("pg-1", func(s *api.MemberStatus) { s.Healthy = false }) },
		"the primary is changed": func(p *plan) {
			beginHandover(p.o, &p.app, store.Handover{From: "pg-1", To: "pg-3", Orderly: true, Reason: "asked"})
		},
		"its service is removed": func(p *plan) { p.o.services["pg"] = slices.Delete(p.o.services["pg"], 1, 2) },
	} {
		t.Run(doc, func(t *testing.T) {
			p := crowd(t)
			p.after(apartAfter + time.Second)
			assert.Equal(t, len(p.labels()), 2)
			change(p)
			p.step()
			assert.Assert(t, p.app.Apart == nil)
			assert.Equal(t, len(p.labels()), 0)
			p.step()
			assert.Assert(t, p.app.Apart == nil, "it begins again at once")
		})
	}
}

func TestAMemberKeepsANodeThatItMayRunOn(t *testing.T) {
	p := crowd(t)
	p.after(apartAfter + time.Second)
	assert.Equal(t, len(p.labels()), 2)
	// Before the record says so.
	delete(p.o.reports, "n3")
	assert.Equal(t, len(p.labels()), 0)
}

func TestAMoveThatSwarmDoesNotMakeIsNotAskedForAgainAndAgain(t *testing.T) {
	p := crowd(t)
	p.after(apartAfter + time.Second)
	p.after(apartPatience + time.Second)
	assert.Assert(t, p.app.Apart == nil)
	assert.Equal(t, len(p.labels()), 0)
	assert.Check(t, is.Contains(p.events[len(p.events)-1], "state pg-2 stays on node1: Swarm has not moved it"))
	for range 11 {
		p.after(5 * time.Minute)
		assert.Assert(t, p.app.Apart == nil)
	}
	p.after(5 * time.Minute)
	assert.Assert(t, p.app.Apart != nil)
}

func TestThreeOnOneNodeAreMovedOneAfterTheOther(t *testing.T) {
	p := crowd(t)
	p.moves("pg-3", "n1")
	p.step()
	p.after(apartAfter + time.Second)
	assert.Equal(t, p.app.Apart.Member, "pg-3")
	assert.DeepEqual(t, p.labels(), []string{"n1 pg-3"})
	p.moves("pg-3", "n2")
	p.step()
	assert.Assert(t, p.app.Apart == nil)
	p.after(apartAfter + time.Second)
	p.after(apartAfter + time.Second)
	assert.Equal(t, p.app.Apart.Member, "pg-2")
	assert.DeepEqual(t, p.labels(), []string{"n1 pg-2", "n2 pg-2"})
}

func TestANewLeaderGoesOnWithAMove(t *testing.T) {
	p := crowd(t)
	p.after(apartAfter + time.Second)
	words, reports := maps.Clone(p.o.statuses), p.o.reports
	p.o.steady, p.o.statuses, p.o.reports = false, map[string]liveStatus{}, map[string]api.Report{}
	p.after(time.Second)
	assert.Assert(t, p.app.Apart != nil, "it has not heard the nodes yet")
	p.o.steady, p.o.statuses, p.o.reports = true, words, reports
	assert.Equal(t, len(p.labels()), 2)
	p.moves("pg-2", "n3")
	p.step()
	assert.Assert(t, p.app.Apart == nil)
}

func TestMembersOfANewApplicationAreKeptApartFromTheStart(t *testing.T) {
	p := crowd(t)
	p.app = store.Application{}
	for name := range p.o.statuses {
		r := p.o.volumes[name]
		r.Value.Location, r.Value.Owner = "", nil
		p.o.volumes[name] = r
	}
	p.o.statuses = map[string]liveStatus{}
	p.o.uses["pg-3"] = []swarm.Use{{NodeID: ""}}
	p.step()
	assert.Assert(t, p.app.Apart == nil, "Swarm may put pg-3 on the free node")
	p.moves("pg-3", "n2")
	p.step()
	assert.Assert(t, p.app.Apart != nil)
	assert.DeepEqual(t, p.labels(), []string{"n1 pg-2", "n2 pg-2"})
	p.o.statuses["pg-2"] = liveStatus{node: "n3", MemberStatus: api.MemberStatus{Application: "pg", Member: "pg-2", Volume: "pg-2", State: api.StateWaiting}}
	p.step()
	assert.Assert(t, p.app.Apart == nil)

	// Where each node has a folder of its own the data is where it was begun.
	p = crowd(t)
	p.app = store.Application{}
	for id := range p.o.reports {
		p.o.reports[id] = api.Report{Storage: api.Storage{Location: "local-" + id}}
	}
	for name, s := range p.o.statuses {
		s.Initialized, s.Healthy = false, false
		p.o.statuses[name] = s
		r := p.o.volumes[name]
		r.Value.Location = ""
		p.o.volumes[name] = r
	}
	p.step()
	assert.Assert(t, p.app.Apart == nil)
}
