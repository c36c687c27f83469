package swarmmanager

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// plan is an application under test: what is observed of it and its record.
type plan struct {
	t      *testing.T
	o      *observed
	app    store.Application
	events []string
	silent map[string]time.Duration
	bar    error
}

// newPlan has pg-1 as the primary and two standbys that stream.
func newPlan(t *testing.T) *plan {
	t.Helper()
	p := &plan{t: t, o: observation(), silent: map[string]time.Duration{}}
	p.o.silence = func(node string) time.Duration { return p.silent[node] }
	p.o.bar = func(string) error { return p.bar }
	for i := 1; i <= 3; i++ {
		p.says(fmt.Sprintf("pg-%d", i), func(s *api.MemberStatus) {
			s.Streaming = i > 1
			s.Timeline, s.Position = 1, 1000
		})
	}
	p.app, _ = planApplication(p.o, "pg", store.Application{}, false)
	p.obey("pg-1", "pg-2", "pg-3")
	p.step()
	return p
}

func (p *plan) says(member string, change func(*api.MemberStatus)) {
	s := p.o.statuses[member]
	change(&s.MemberStatus)
	p.o.statuses[member] = s
}

// obey has members act on the present orders and say so.
func (p *plan) obey(members ...string) {
	for _, name := range members {
		p.says(name, func(s *api.MemberStatus) {
			orders := ordersOf(&p.app, name)
			s.Term = orders.Term
			switch {
			case orders.Role == api.RolePrimary:
				s.Role, s.Healthy, s.State, s.SyncNames = api.RolePrimary, true, api.StateRunning, strings.Join(orders.Sync, ",")
			case orders.Primary == "" && s.Role == api.RolePrimary:
				s.Role, s.Healthy, s.State = "", false, api.StateWaiting
			case orders.Primary == "":
				s.Streaming, s.Healthy = false, false
			}
		})
	}
}

// step observes once more after a moment.
func (p *plan) step() { p.after(300 * time.Millisecond) }

func (p *plan) after(d time.Duration) {
	p.o.precise = p.o.precise.Add(d)
	p.o.now = p.o.precise.Truncate(time.Second)
	p.o.again = false
	next, events := planApplication(p.o, "pg", p.app, true)
	for _, e := range events {
		p.events = append(p.events, e.Kind+" "+e.Member+" "+e.Text)
	}
	p.app = next
}

// dead has the node of pg-1 fall silent, so that its lease is over.
func (p *plan) dead() {
	p.silent["n1"] = api.LeaseDuration + time.Second
	delete(p.o.statuses, "pg-1")
}

func TestTheMostAdvancedStandbyTakesOverWhenTheNodeOfThePrimaryIsSilent(t *testing.T) {
	p := newPlan(t)
	p.says("pg-2", func(s *api.MemberStatus) { s.Position = 1500 })
	p.says("pg-3", func(s *api.MemberStatus) { s.Position = 2000 })
	p.silent["n1"] = api.LeaseDuration - time.Second
	delete(p.o.statuses, "pg-1")
	p.step()
	assert.Assert(t, p.app.Handover == nil, "its lease may still be held")

	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover != nil)
	assert.Equal(t, p.app.Primary, "pg-1", "nobody is the primary before the receivers have stopped")
	p.obey("pg-2")
	p.silent["n1"] = time.Minute
	p.step()
	assert.Assert(t, p.app.Handover != nil, "pg-3 may still receive and acknowledge")
	p.obey("pg-3")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-3")
	assert.DeepEqual(t, p.app.Promotion, &store.Promotion{Timeline: 1, Position: 2000})
	former, _ := memberOf(&p.app, "pg-1")
	assert.Equal(t, former.Role, api.Role(""), "ps shows two primaries")
	assert.Check(t, is.Contains(p.events[len(p.events)-1], "failover pg-3 primary instead of pg-1: node node1 does not answer"))
}

func TestNobodyTakesOverWhileTheFormerPrimaryMayRun(t *testing.T) {
	p := newPlan(t)
	p.dead()
	p.step()
	p.obey("pg-2", "pg-3")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-1", "its lease is over, but it may not have ended yet")
	p.silent["n1"] = api.LeaseDuration + api.LeaseMargin + time.Millisecond
	p.bar = errors.New("promised")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-1", "a manager has renewed it")
	p.bar = nil
	p.step()
	assert.Assert(t, p.app.Primary != "pg-1")
}

func TestAPromisedPrimaryIsNotDisturbed(t *testing.T) {
	p := newPlan(t)
	p.bar = errors.New("promised")
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover == nil, "its standbys would stop to receive, and its commits wait")
}

func TestNobodyTakesOverWithoutAVoter(t *testing.T) {
	p := newPlan(t)
	p.dead()
	delete(p.o.statuses, "pg-2") // it may have the last commit
	p.silent["n2"] = time.Minute
	p.step()
	assert.Assert(t, p.app.Handover == nil)
	assert.Check(t, is.Contains(p.app.Problems[0], "pg-2 may have acknowledged writes that no other has"))
}

func TestAStandbyThatStaysAwayStopsToBeAVoterOnlyWhenThePrimaryNoLongerWaitsForIt(t *testing.T) {
	p := newPlan(t)
	assert.DeepEqual(t, p.app.Voters, []string{"pg-2", "pg-3"})
	p.silent["n2"] = time.Minute
	delete(p.o.statuses, "pg-2")
	p.step()
	assert.DeepEqual(t, p.app.Sync, []string{"pg-2", "pg-3"})
	p.after(voterPatience + time.Second)
	assert.DeepEqual(t, p.app.Sync, []string{"pg-3"})
	assert.DeepEqual(t, p.app.Voters, []string{"pg-2", "pg-3"})
	p.after(voterPatience + time.Second)
	assert.DeepEqual(t, p.app.Voters, []string{"pg-2", "pg-3"}) // the primary has not said that it waits for pg-3 alone
	p.obey("pg-1")
	p.step()
	assert.DeepEqual(t, p.app.Voters, []string{"pg-3"})
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover != nil, "pg-3 has all that was acknowledged")

	// The last one stays, however long it is away: commits wait for it.
	p = newPlan(t)
	for _, name := range []string{"pg-2", "pg-3"} {
		delete(p.o.statuses, name)
	}
	for range 5 {
		p.obey("pg-1")
		p.after(2 * voterPatience)
	}
	assert.Assert(t, len(p.app.Sync) > 0)
}

func TestAStandbyIsAVoterBeforeThePrimaryLearnsOfIt(t *testing.T) {
	p := newPlan(t)
	p.app.Sync, p.app.Voters = []string{"pg-3"}, []string{"pg-3"}
	p.step() // pg-2 streams
	assert.DeepEqual(t, p.app.Voters, []string{"pg-2", "pg-3"})
	assert.DeepEqual(t, p.app.Sync, []string{"pg-2", "pg-3"})
}

func TestAPrimaryWhoseContainerIsGoneIsReplacedAtOnce(t *testing.T) {
	p := newPlan(t)
	r := p.o.volumes["pg-1"]
	r.Value.Owner = nil
	p.o.volumes["pg-1"] = r
	delete(p.o.statuses, "pg-1")
	p.step()
	assert.Assert(t, p.app.Handover == nil)
	p.after(2 * time.Second)
	assert.Assert(t, p.app.Handover != nil)
	p.obey("pg-2", "pg-3")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-2")
	// Back with its old data it follows.
	orders := ordersOf(&p.app, "pg-1")
	assert.Equal(t, orders.Role, api.RoleStandby)
	assert.Equal(t, orders.Primary, "pg-2")
}

// Neither with a longer lease nor for a new leader is a node that is not heard one whose
// agent does not answer.
func TestASilentNodeLosesItsPrimaryWithItsLeaseAndNotSooner(t *testing.T) {
	p := newPlan(t)
	r := p.o.volumes["pg-1"]
	r.Value.Lease = 30 * time.Second
	p.o.volumes["pg-1"] = r
	delete(p.o.statuses, "pg-1")
	delete(p.o.reports, "n1")
	p.silent["n1"] = 29 * time.Second
	p.step()
	p.after(29 * time.Second)
	assert.Assert(t, p.app.Handover == nil, "%v", p.events)
	p.silent["n1"] = 31 * time.Second
	p.step()
	assert.Assert(t, p.app.Handover != nil)

	p = newPlan(t)
	delete(p.o.statuses, "pg-1")
	p.step()
	p.after(downSilent + time.Second)
	assert.Assert(t, p.app.Handover != nil, "the node is heard, and the agent is not")
}

// The leader does not know yet that the standby is gone too when it begins.
func TestAFailoverThatMissesAVoterSaysWhatToDoWhileItWaits(t *testing.T) {
	p := newPlan(t)
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover != nil)
	delete(p.o.statuses, "pg-2")
	p.obey("pg-3")
	p.step()
	assert.Equal(t, len(p.app.Problems), 0, "it may only be late")
	p.after(handoverPatience + time.Second)
	assert.Assert(t, p.app.Handover != nil)
	assert.Equal(t, p.app.Primary, "pg-1")
	assert.Check(t, is.Contains(strings.Join(p.app.Problems, "\n"), "pg-2 may have acknowledged writes that no other has"))
	assert.Check(t, is.Contains(strings.Join(p.app.Problems, "\n"), "docker openmanage promote pg --force"))
}

func TestAPrimaryWhoseServerDoesNotComeUpHandsOverByOrder(t *testing.T) {
	p := newPlan(t)
	p.says("pg-1", func(s *api.MemberStatus) { s.State, s.Healthy, s.Role, s.Message = api.StateFailed, false, "", "PANIC" })
	p.step()
	p.after(2 * time.Second)
	assert.Assert(t, p.app.Handover == nil, "most servers recover faster")
	p.after(downAlive)
	assert.Assert(t, p.app.Handover != nil)
	p.obey("pg-2", "pg-3")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-1", "it has not said that it has stopped")
	p.obey("pg-1")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-2")
}

func TestAPrimaryWhoseAgentIsSilentIsEndedByItsPlugin(t *testing.T) {
	p := newPlan(t)
	revoked := ""
	p.o.revoke = func(volume string, _ uint64) { revoked = volume }
	delete(p.o.statuses, "pg-1")
	p.step()
	p.after(downSilent + time.Second)
	assert.Assert(t, p.app.Handover != nil)
	p.obey("pg-2", "pg-3")
	p.step()
	assert.Equal(t, revoked, "pg-1")
	assert.Equal(t, p.app.Primary, "pg-1", "it may still run")
	r := p.o.volumes["pg-1"]
	r.Value.Owner = nil // fenced and released
	p.o.volumes["pg-1"] = r
	p.step()
	assert.Equal(t, p.app.Primary, "pg-2")
	assert.DeepEqual(t, p.app.Sync, []string{"pg-3"})
	assert.DeepEqual(t, p.app.Voters, []string{"pg-3"})
}

// Its container was just started anew, and its agent not yet: it is not ended for that.
func TestANewContainerOfTheFormerPrimaryGetsTheTimeToSpeak(t *testing.T) {
	p := newPlan(t)
	revoked := ""
	p.o.revoke = func(volume string, _ uint64) { revoked = volume }
	owner := *p.o.volumes["pg-1"].Value.Owner
	give := func(o *api.Owner) {
		r := p.o.volumes["pg-1"]
		r.Value.Owner = o
		p.o.volumes["pg-1"] = r
	}
	delete(p.o.statuses, "pg-1")
	give(nil)
	p.step()
	p.after(downFree + time.Second)
	assert.Assert(t, p.app.Handover != nil, "its container was gone")
	owner.Since = p.o.precise
	give(&owner)
	p.step()
	p.after(time.Second)
	assert.Equal(t, revoked, "")
	assert.Equal(t, p.app.Primary, "pg-1")
	p.after(downSilent)
	assert.Equal(t, revoked, "pg-1")
}

func TestAStartingApplicationKeepsItsPrimary(t *testing.T) {
	p := newPlan(t)
	saved := *p.o
	p.o.services, p.o.statuses = nil, map[string]liveStatus{}
	p.step() // removed
	p.o.services = saved.services
	r := p.o.volumes["pg-1"]
	r.Value.Owner = nil
	p.o.volumes["pg-1"] = r
	for _, name := range []string{"pg-2", "pg-3"} {
		p.o.statuses[name] = saved.statuses[name]
	}
	p.step()
	p.after(5 * time.Second)
	assert.Assert(t, p.app.Handover == nil, "its container is about to come")
	p.after(coldStart)
	assert.Assert(t, p.app.Handover != nil)
}

func TestOrdersOfAHandover(t *testing.T) {
	p := newPlan(t)
	orders := func(member string) *api.MemberOrders { return ordersOf(&p.app, member) }
	assert.Equal(t, orders("pg-1").Role, api.RolePrimary)
	assert.DeepEqual(t, orders("pg-1").Sync, []string{"pg-2", "pg-3"})
	assert.Equal(t, orders("pg-1").Timeline, 0, "the first primary is never made of a standby")

	beginHandover(p.o, &p.app, store.Handover{From: "pg-1", Reason: "lost"})
	for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
		assert.Equal(t, orders(m).Role, api.RoleStandby)
		assert.Equal(t, orders(m).Primary, "")
		assert.Equal(t, orders(m).Term, uint64(2))
	}
	assert.Assert(t, orders("pg-1").Immediate)

	p = newPlan(t)
	beginHandover(p.o, &p.app, store.Handover{From: "pg-1", To: "pg-3", Orderly: true, Reason: "asked"})
	assert.Equal(t, orders("pg-1").Primary, "")
	assert.Assert(t, !orders("pg-1").Immediate)
	assert.Equal(t, orders("pg-2").Primary, "pg-1", "it follows to the last byte")
	assert.Equal(t, orders("pg-3").Primary, "pg-1")
}

func TestOrderlyHandover(t *testing.T) {
	begin := func(t *testing.T) *plan {
		t.Helper()
		p := newPlan(t)
		beginHandover(p.o, &p.app, store.Handover{From: "pg-1", To: "pg-3", Orderly: true, Reason: "asked by alice@laptop"})
		p.step()
		assert.Assert(t, p.app.Handover != nil)
		p.obey("pg-2", "pg-3")
		return p
	}
	t.Run("the successor has all", func(t *testing.T) {
		p := begin(t)
		p.obey("pg-1")
		p.says("pg-1", func(s *api.MemberStatus) { s.Position = 1100 })
		p.step()
		assert.Equal(t, p.app.Primary, "pg-1", "pg-3 lacks its last bytes")
		p.says("pg-3", func(s *api.MemberStatus) { s.Position = 1100 })
		p.step()
		assert.Equal(t, p.app.Primary, "pg-3")
		assert.Check(t, is.Contains(p.events[len(p.events)-1], "switchover pg-3 primary instead of pg-1: asked by alice@laptop"))
	})
	t.Run("the successor falls behind", func(t *testing.T) {
		p := begin(t)
		p.obey("pg-1")
		p.says("pg-1", func(s *api.MemberStatus) { s.Position = 1100 })
		p.after(orderlyPatience + handoverPatience + time.Second)
		assert.Assert(t, p.app.Handover == nil)
		assert.Equal(t, p.app.Primary, "pg-1")
		assert.Check(t, is.Contains(p.events[len(p.events)-1], "stays the primary"))
	})
	t.Run("the successor dies", func(t *testing.T) {
		p := begin(t)
		delete(p.o.statuses, "pg-3")
		p.step()
		assert.Assert(t, p.app.Handover == nil)
		assert.Equal(t, p.app.Primary, "pg-1")
	})
	t.Run("the former primary dies on the way", func(t *testing.T) {
		p := begin(t)
		p.dead()
		p.silent["n1"] = time.Minute
		p.step()
		assert.Assert(t, !p.app.Handover.Orderly)
		p.says("pg-2", func(s *api.MemberStatus) { s.Position = 1200 })
		p.obey("pg-2", "pg-3")
		p.step()
		assert.Equal(t, p.app.Primary, "pg-2", "it has more than the one that was asked for")
	})
}

func TestFailoverCanBeSwitchedOff(t *testing.T) {
	p := newPlan(t)
	for i := range p.o.services["pg"] {
		p.o.services["pg"][i].Spec.Labels[api.LabelFailover] = "false"
	}
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover == nil)
	assert.Check(t, is.Contains(p.app.Problems[0], api.LabelFailover))

	p = newPlan(t)
	for i := range p.o.services["pg"] {
		p.o.services["pg"][i].Spec.Labels[api.LabelSyncMode] = "off"
	}
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover == nil, "a standby may lack what was acknowledged")
	assert.Check(t, is.Contains(p.app.Problems[0], "without synchronous replication"))
}

func TestAStandbyOfAnOlderTimelineIsNotPromoted(t *testing.T) {
	p := newPlan(t)
	p.app.Floor = &store.Promotion{Timeline: 2, Position: 900}
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover == nil)
	assert.Check(t, is.Contains(p.app.Problems[0], "lacks what pg-1 had"))

	p = newPlan(t)
	p.app.Floor = &store.Promotion{Timeline: 1, Position: 1001}
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover == nil, "what was acknowledged before the last change may be missing")
}

func TestAHandoverThatNobodyCanCompleteEnds(t *testing.T) {
	p := newPlan(t)
	p.dead()
	p.step()
	p.obey("pg-2")
	delete(p.o.statuses, "pg-3") // dies now
	p.silent["n3"] = time.Minute
	p.silent["n1"] = 0 // the former one is back
	p.says("pg-1", func(s *api.MemberStatus) {
		*s = api.MemberStatus{Application: "pg", Member: "pg-1", Volume: "pg-1", State: api.StateWaiting, Initialized: true, SystemID: "42"}
	})
	s := p.o.statuses["pg-1"]
	s.node = "n1"
	p.o.statuses["pg-1"] = s
	p.obey("pg-1")
	p.step()
	assert.Assert(t, p.app.Handover != nil)
	p.after(handoverPatience + time.Second)
	assert.Assert(t, p.app.Handover == nil)
	assert.Equal(t, ordersOf(&p.app, "pg-1").Role, api.RolePrimary)
}

func TestStepsThatAreNotRecordedGiveNoOrders(t *testing.T) {
	// planApplication edits a copy: slices and pointers of the old record stay.
	p := newPlan(t)
	before := p.app
	p.dead()
	p.step()
	assert.Assert(t, before.Handover == nil)
	assert.DeepEqual(t, before.Voters, []string{"pg-2", "pg-3"})
}

func TestAVoterOfWhomNothingIsKnownIsMissing(t *testing.T) {
	for doc, change := range map[string]func(*plan){
		"its data cannot be read": func(p *plan) {
			p.says("pg-2", func(s *api.MemberStatus) { s.Initialized, s.Role, s.State = false, "", api.StateFailed })
		},
		"its timeline is not known": func(p *plan) { p.says("pg-2", func(s *api.MemberStatus) { s.Timeline = 0 }) },
		"its service was removed": func(p *plan) {
			p.o.services["pg"] = append(p.o.services["pg"][:1:1], p.o.services["pg"][2:]...)
			p.app.SyncMode = "strict"
			for i := range p.o.services["pg"] {
				p.o.services["pg"][i].Spec.Labels[api.LabelSyncMode] = "strict"
			}
		},
	} {
		p := newPlan(t)
		change(p)
		p.dead()
		p.step()
		assert.Check(t, p.app.Handover == nil, doc)
	}
	p := newPlan(t)
	p.says("pg-2", func(s *api.MemberStatus) { s.Initialized, s.Empty, s.Role, s.State = false, true, "", api.StateJoining })
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover != nil, "who holds nothing has acknowledged nothing")
}

func TestReplicationThatHasJustBecomeSynchronousProvesNothingYet(t *testing.T) {
	p := newPlan(t)
	label := func(mode string) {
		for i := range p.o.services["pg"] {
			p.o.services["pg"][i].Spec.Labels[api.LabelSyncMode] = mode
		}
	}
	label("off")
	p.step()
	p.obey("pg-1")
	p.step()
	assert.Equal(t, len(p.app.Voters), 0)
	// The primary goes far ahead.
	p.says("pg-1", func(s *api.MemberStatus) { s.Position = 9000 })
	term := p.app.Term
	label("quorum")
	p.step()
	assert.Assert(t, p.app.Term > term && !p.app.SyncInForce)
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover == nil, "what was acknowledged before may be on no standby")

	p.silent["n1"] = 0
	p.o.statuses["pg-1"] = observation().statuses["pg-1"]
	p.says("pg-1", func(s *api.MemberStatus) { s.Timeline, s.Position = 1, 9000 })
	p.obey("pg-1")
	p.step()
	assert.Assert(t, p.app.SyncInForce)
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover == nil)
	assert.Check(t, is.Contains(p.app.Problems[0], "lacks what pg-1 had"))
	p.says("pg-3", func(s *api.MemberStatus) { s.Position = 9000 })
	p.step()
	assert.Assert(t, p.app.Handover != nil)
}

func TestAForcedPromotionTakesTheBestOfThoseThatAreLeft(t *testing.T) {
	begin := func(to string) *plan {
		p := newPlan(t)
		p.says("pg-2", func(s *api.MemberStatus) { s.Position = 2000 })
		p.dead()
		p.silent["n1"] = time.Minute
		beginHandover(p.o, &p.app, store.Handover{From: "pg-1", To: to, Force: true, Reason: "forced"})
		p.obey("pg-3")
		p.step()
		assert.Equal(t, p.app.Primary, "pg-1", "pg-2 is heard and may have more")
		return p
	}
	p := begin("")
	p.obey("pg-2")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-2")
	p = begin("pg-2")
	p.obey("pg-2")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-2")
	p = begin("")
	p.after(handoverPatience)
	assert.Equal(t, p.app.Primary, "pg-3", "pg-2 does not come in line")
}

func TestARemovedPrimaryIsReplaced(t *testing.T) {
	p := newPlan(t)
	for i := range p.o.services["pg"] {
		p.o.services["pg"][i].Spec.Labels[api.LabelSyncMode] = "strict"
	}
	p.step()
	p.obey("pg-1", "pg-2", "pg-3")
	p.step()
	p.o.services["pg"] = p.o.services["pg"][1:]
	r := p.o.volumes["pg-1"]
	r.Value.Owner = nil
	p.o.volumes["pg-1"] = r
	delete(p.o.statuses, "pg-1")
	p.step()
	p.after(coldStart + downSilent + time.Second)
	assert.Assert(t, p.app.Handover != nil)
	p.obey("pg-2", "pg-3")
	p.step()
	assert.Assert(t, p.app.Primary != "pg-1")
}

func TestAnOrderlyHandoverOfASilentPrimaryBecomesAFailover(t *testing.T) {
	p := newPlan(t)
	beginHandover(p.o, &p.app, store.Handover{From: "pg-1", To: "pg-3", Orderly: true, Reason: "asked"})
	p.obey("pg-2", "pg-3")
	delete(p.o.statuses, "pg-1") // its node answers, its agent does not
	p.step()
	assert.Assert(t, p.app.Handover.Orderly)
	p.after(orderlyPatience + time.Second)
	assert.Assert(t, !p.app.Handover.Orderly)
}

// The leader of before had a clock that is five minutes ahead of this one's.
func TestAFailoverDoesNotWaitForAnotherManagersClock(t *testing.T) {
	p := newPlan(t)
	down := p.o.precise.Add(5 * time.Minute)
	p.app.PrimaryDown = &down
	delete(p.o.statuses, "pg-1")
	r := p.o.volumes["pg-1"]
	r.Value.Owner = nil
	p.o.volumes["pg-1"] = r
	p.step()
	assert.Assert(t, p.app.Handover == nil)
	p.after(2 * time.Second)
	assert.Assert(t, p.app.Handover != nil)
}

// Orders of an older term are void: who is no member any more has to be told so in the present one.
func TestWhoIsNoMemberAnyMoreIsToldSo(t *testing.T) {
	p := newPlan(t)
	p.app.Term = 7
	gone := ordersOf(&p.app, "pg-9")
	assert.Equal(t, gone.Term, uint64(7))
	assert.Equal(t, gone.Role, api.Role(""))
	assert.Equal(t, gone.Reason, "pg-9 is not a member of application pg")
	now := time.Now()
	p.app.Removed = &now
	removed := ordersOf(&p.app, "pg-1")
	assert.Equal(t, removed.Term, uint64(7))
	assert.Equal(t, removed.Role, api.Role(""))
}
