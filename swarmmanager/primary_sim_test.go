package swarmmanager

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// The simulation lets the planner of the primary decide for members that keep the
// contract of agent and engine, under random crashes, cuts and delays, and checks
// after each tick that there are never two primaries and that every acknowledged
// commit is in the present primary's log.

const simTick = 100 * time.Millisecond

// simMember is a member with its node.
type simMember struct {
	name string
	node string

	log      []int // commits
	timeline int
	primary  bool // kind of the data: no standby.signal

	running bool
	up      time.Duration // when the container will run again; 0: it runs
	down    bool          // the node is down
	cut     bool          // from the leader
	loss    map[string]bool

	slow    bool   // it follows, and receives nothing
	empty   bool   // its data is gone
	rebuilt string // the last rebuild that was done
	fenced  bool

	orders  *api.MemberOrders
	lease   time.Duration // until when
	term    uint64
	follows string
	sync    []string // in force in the server

	owned bool
	said  []simWord // under way to the leader
}

type simWord struct {
	at     time.Duration
	status api.MemberStatus
}

type sim struct {
	t       *testing.T
	rnd     *rand.Rand
	now     time.Duration
	members []*simMember
	app     store.Application
	heard   map[string]time.Duration // by node, when
	words   map[string]liveStatus
	settled time.Duration // when the leader is
	next    int
	acked   []int
	checked map[string]int // how many of acked were found, by primary and timeline
	op      *simOperation  // on a member, that is under way
	done    map[string]int // operations, by kind and how they ended
	history []string
}

// simOperation is an operation on one member: what its record would hold.
type simOperation struct {
	memberOperation
	plan memberPlanner
	at   time.Duration // when its step began
}

func newSim(t *testing.T, seed uint64, n int) *sim {
	s := &sim{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: time.Hour, heard: map[string]time.Duration{}, words: map[string]liveStatus{}, checked: map[string]int{}, done: map[string]int{}}
	for i := 1; i <= n; i++ {
		m := &simMember{name: fmt.Sprintf("pg-%d", i), node: fmt.Sprintf("n%d", i), timeline: 1, owned: true, loss: map[string]bool{}, primary: i == 1}
		s.members = append(s.members, m)
	}
	s.plan(false)
	s.app.Initialized, s.app.SystemID = true, "42"
	s.settled = s.now
	return s
}

func (s *sim) logf(format string, args ...any) {
	s.history = append(s.history, fmt.Sprintf("%6.1fs ", (s.now-time.Hour).Seconds())+fmt.Sprintf(format, args...))
}

func (s *sim) fatalf(format string, args ...any) {
	s.t.Helper()
	for _, line := range s.history[max(0, len(s.history)-60):] {
		s.t.Log(line)
	}
	s.t.Fatalf(format, args...)
}

func (s *sim) member(name string) *simMember {
	i := slices.IndexFunc(s.members, func(m *simMember) bool { return m.name == name })
	if i < 0 {
		return nil
	}
	return s.members[i]
}

func (m *simMember) alive() bool { return !m.down && m.up == 0 }

func (m *simMember) position() uint64 { return uint64(len(m.log)) * 10 }

// observe is what the leader knows.
func (s *sim) observe() *observed {
	o := observation()
	o.services, o.statuses, o.volumes = map[string][]dockerswarm.Service{}, map[string]liveStatus{}, map[string]store.Record[api.Volume]{}
	o.precise = time.Unix(0, 0).Add(s.now).UTC()
	o.now = o.precise.Truncate(time.Second)
	o.steady = s.now-s.settled > hearingTime
	// The former leader may have renewed leases until this one led, at the latest.
	o.silence = func(node string) time.Duration { return s.now - max(s.settled, s.heard[node]) }
	clear(o.reports)
	for node, at := range s.heard {
		if s.now-at < api.LeaseDuration {
			o.reports[node] = api.Report{}
		}
	}
	for i, m := range s.members {
		service := dockerswarm.Service{ID: m.name}
		service.Spec.Name = m.name
		service.Spec.Labels = map[string]string{api.LabelApplication: "pg", api.LabelType: "postgresql", api.LabelMember: m.name, api.LabelSlot: fmt.Sprint(i + 1), api.LabelVolume: m.name}
		o.services["pg"] = append(o.services["pg"], service)
		v := api.Volume{VolumeSpec: api.VolumeSpec{Name: m.name, Application: "pg", Member: m.name}, LastNode: m.node}
		if m.owned {
			v.Owner = &api.Owner{Node: m.node, Hostname: m.node}
		}
		o.volumes[m.name] = store.Record[api.Volume]{Name: m.name, Value: v}
		o.nodes[m.node] = dockerswarm.Node{ID: m.node, Description: dockerswarm.NodeDescription{Hostname: m.node}, Status: dockerswarm.NodeStatus{State: dockerswarm.NodeStateReady}}
		if w, ok := s.words[m.name]; ok {
			w.age = s.now - w.at
			o.statuses[m.name] = w
		}
	}
	return o
}

// plan lets the leader decide and record.
func (s *sim) plan(exists bool) {
	o := s.observe()
	next, events := planApplication(o, "pg", s.app, exists)
	s.app = next
	for _, e := range events {
		if e.Kind != "state" {
			s.logf("leader: %s %s: %s", e.Kind, e.Member, e.Text)
		}
	}
	s.operate(o)
}

// ask begins an operation on a member.
func (s *sim) ask(kind string, plan memberPlanner, member string, force bool) {
	s.next++
	s.logf("%s of %s is asked for, force %v", kind, member, force)
	s.op = &simOperation{plan: plan, memberOperation: memberOperation{
		name: fmt.Sprint("pg.", s.next), kind: kind, by: "me", req: store.MemberRequest{Member: member, Force: force},
	}}
}

// operate takes the next step of the operation as Manager.onMember does.
func (s *sim) operate(o *observed) {
	op := s.op
	if op == nil {
		return
	}
	op.waited = s.now - op.at
	v := planMember(o, &s.app, op.memberOperation, op.plan)
	if v.step != "" && v.step != op.step {
		op.step, op.at, op.waited = v.step, s.now, 0
		s.logf("%s: %s", op.kind, op.step)
	}
	if v.change != nil {
		if v = planMember(o, &s.app, op.memberOperation, op.plan); v.change != nil {
			applyTo(&s.app, op.req.Member, v.change)
		}
	}
	if v.state != "" {
		s.logf("%s: %s %s", op.kind, v.state, v.why)
		s.done[op.kind+" "+string(v.state)]++
		s.op = nil
	}
}

// status is what an agent says.
func (m *simMember) status() api.MemberStatus {
	st := api.MemberStatus{Application: "pg", Member: m.name, Volume: m.name, State: api.StateWaiting, Initialized: true, SystemID: "42", Timeline: m.timeline, Position: m.position(), Term: m.term, Rebuilt: m.rebuilt, Named: true}
	if m.empty {
		st.Initialized, st.Empty, st.SystemID, st.Timeline, st.Position = false, true, "", 0, 0
	}
	if m.fenced {
		st.State = api.StateFenced
	}
	if m.running {
		st.State, st.Role = api.StateRunning, api.RoleStandby
		if m.primary {
			st.Role, st.Healthy, st.SyncNames = api.RolePrimary, true, strings.Join(m.sync, ",")
		} else {
			st.Streaming = m.follows != ""
			st.Healthy = st.Streaming
		}
	}
	return st
}

// exchange is a report of a node and its answer.
func (s *sim) exchange(m *simMember) {
	if m.down || m.cut {
		return
	}
	s.heard[m.node] = s.now
	if m.up == 0 {
		m.said = append(m.said, simWord{s.now, m.status()})
		m.owned = true
		if orders := ordersOf(&s.app, m.name); m.orders == nil || orders.Term >= m.orders.Term {
			m.orders = orders
		}
		m.lease = s.now + api.LeaseDuration - 1500*time.Millisecond
	}
}

// act is the agent: it brings the server in line with lease and orders.
func (s *sim) act(m *simMember) {
	if !m.alive() {
		return
	}
	if s.now >= m.lease {
		if m.running {
			s.logf("%s fences itself", m.name)
		}
		m.running, m.follows = false, ""
		return
	}
	o := m.orders
	if o == nil {
		return
	}
	m.fenced = false
	switch {
	case o.Fenced != "":
		m.running, m.follows, m.fenced, m.term = false, "", true, o.Term
	case o.Role == api.RolePrimary && m.empty:
		s.fatalf("%s is to be the primary and has no data", m.name)
	case m.empty && o.Primary == "":
		m.term = o.Term
	case o.Role == api.RoleStandby && o.Primary != "" && (m.empty || o.Rebuild != "" && o.Rebuild != m.rebuilt):
		m.running, m.follows, m.term = false, "", o.Term
		if !m.empty && s.rnd.IntN(30) == 0 { // there is no space for both
			m.log, m.empty = nil, true
			s.logf("%s removes its data", m.name)
		}
		if p := s.member(o.Primary); s.serves(p) && !m.loss[p.name] && s.rnd.IntN(30) == 0 {
			m.log, m.timeline, m.primary, m.empty = slices.Clone(p.log), p.timeline, false, false
			if o.Rebuild != "" {
				m.rebuilt = o.Rebuild
			}
			s.logf("%s has a copy of %s", m.name, p.name)
		}
	case o.Role == api.RolePrimary && m.primary:
		m.running, m.sync, m.term = true, o.Sync, o.Term
	case o.Role == api.RolePrimary:
		if o.Timeline == 0 || m.position() < o.Position || m.timeline < o.Timeline {
			s.fatalf("%s is to be promoted at %d/%d, wanted %d/%d", m.name, m.timeline, m.position(), o.Timeline, o.Position)
		}
		m.running, m.primary, m.follows, m.sync, m.term = true, true, "", o.Sync, o.Term
		m.timeline++
		s.logf("%s promoted with %d commits, timeline %d", m.name, len(m.log), m.timeline)
	case o.Primary == "" && m.primary:
		m.running, m.term = false, o.Term
	case o.Primary == "":
		m.running, m.follows, m.term = true, "", o.Term
	case m.primary: // rejoin
		m.running, m.follows = false, ""
		m.term = o.Term
		if p := s.member(o.Primary); s.serves(p) && !m.loss[p.name] && s.rnd.IntN(20) == 0 {
			m.log, m.timeline, m.primary, m.running = slices.Clone(p.log), p.timeline, false, true
			s.logf("%s rejoins %s", m.name, p.name)
		}
	default:
		m.running, m.term = true, o.Term
		if p := s.member(o.Primary); m.follows != "" && m.follows != o.Primary {
			m.follows = ""
		} else if s.serves(p) && !m.loss[p.name] && prefix(m.log, p.log) {
			m.follows = p.name
		} else if s.serves(p) && !m.loss[p.name] {
			m.running, m.follows, m.primary = false, "", true // diverged: rejoins as one that was the primary does
		} else {
			m.follows = ""
		}
	}
}

func (s *sim) serves(m *simMember) bool { return m != nil && m.alive() && m.running && m.primary }

func prefix(a, b []int) bool { return len(a) <= len(b) && slices.Equal(a, b[:len(a)]) }

// commit has a client write on every primary that there is.
func (s *sim) commit() {
	var primaries []string
	for _, m := range s.members {
		if !s.serves(m) {
			continue
		}
		primaries = append(primaries, m.name)
		s.next++
		m.log = append(m.log, s.next)
		acked := len(m.sync) == 0
		for _, other := range s.members {
			if other.follows != m.name || !other.alive() || other.loss[m.name] || m.loss[other.name] || s.rnd.IntN(3) == 0 || !prefix(other.log, m.log) {
				continue
			}
			upto := len(m.log)
			switch {
			case other.slow:
				upto = len(other.log)
			case s.rnd.IntN(4) == 0:
				upto = len(other.log) + s.rnd.IntN(len(m.log)-len(other.log)+1)
			}
			other.log, other.timeline = slices.Clone(m.log[:upto]), m.timeline
			if upto == len(m.log) && slices.Contains(m.sync, other.name) {
				acked = true
			}
		}
		if acked {
			// What is before it in the log is on that standby too.
			for _, c := range m.log {
				if len(s.acked) == 0 || c > s.acked[len(s.acked)-1] {
					s.acked = append(s.acked, c)
				}
			}
		}
	}
	if len(primaries) > 1 {
		s.fatalf("two primaries: %v", primaries)
	}
	for _, name := range primaries {
		m := s.member(name)
		log := m.log
		// A primary only appends: what was there once stays while it is one.
		reign := fmt.Sprint(name, " ", m.timeline)
		from := s.checked[reign]
		s.checked[reign] = len(s.acked)
		for _, c := range s.acked[from:] {
			if _, found := slices.BinarySearch(log, c); !found {
				s.fatalf("%s lacks commit %d, which was acknowledged", name, c)
			}
		}
	}
}

func (s *sim) tick(faults bool) {
	s.now += simTick
	if faults {
		s.fault()
	}
	for _, m := range s.members {
		if m.up != 0 && s.now >= m.up && !m.down {
			m.up, m.orders, m.term, m.lease = 0, nil, 0, 0
		}
		if s.rnd.IntN(5) == 0 {
			s.exchange(m)
		}
		s.act(m)
		for len(m.said) > 0 && s.rnd.IntN(3) == 0 {
			w := m.said[0]
			m.said = m.said[1:]
			if s.now-w.at < 2*time.Second {
				s.words[m.name] = liveStatus{MemberStatus: w.status, node: m.node, at: w.at}
			}
		}
	}
	s.commit()
	if s.rnd.IntN(2) == 0 {
		s.plan(true)
	}
}

func (s *sim) fault() {
	m := s.members[s.rnd.IntN(len(s.members))]
	other := s.members[s.rnd.IntN(len(s.members))]
	switch s.rnd.IntN(300) {
	case 0:
		s.logf("node of %s dies", m.name)
		m.down, m.running, m.follows = true, false, ""
		m.up = s.now + time.Second
	case 1, 2, 3:
		if m.down {
			s.logf("node of %s is back", m.name)
			m.down, m.owned = false, true
			m.up = s.now + time.Second
		}
	case 4:
		s.logf("%s is cut from the leader", m.name)
		m.cut = true
	case 5, 6, 7:
		m.cut = false
	case 8:
		s.logf("%s and %s lose each other", m.name, other.name)
		m.loss[other.name], other.loss[m.name] = true, true
		m.follows, other.follows = "", ""
	case 9, 10, 11:
		clear(m.loss)
		for _, x := range s.members {
			delete(x.loss, m.name)
		}
	case 12:
		if !m.down {
			s.logf("the container of %s is killed", m.name)
			m.running, m.follows, m.owned = false, "", m.cut
			m.up = s.now + time.Duration(s.rnd.IntN(5000))*time.Millisecond
		}
	case 13:
		s.logf("another leader")
		clear(s.heard)
		clear(s.words)
		for _, x := range s.members {
			x.said = nil
		}
		s.settled = s.now
	case 14:
		if s.op == nil && s.app.Handover == nil && s.app.Primary != m.name {
			if p, ok := memberOf(&s.app, s.app.Primary); ok && p.Healthy && m.follows == s.app.Primary && slices.Contains(s.app.Sync, m.name) {
				s.logf("switchover to %s", m.name)
				beginHandover(s.observe(), &s.app, store.Handover{From: s.app.Primary, To: m.name, Orderly: true, Reason: "asked"})
			}
		}
	case 15:
		s.logf("%s receives nothing for a while", m.name)
		m.slow = true
	case 16, 17:
		m.slow = false
	case 18:
		if s.op == nil {
			s.ask(store.OperationFence, planFence, m.name, s.rnd.IntN(4) == 0)
		}
	case 19:
		if s.op == nil {
			s.ask(store.OperationRebuild, planRebuild, m.name, s.rnd.IntN(4) == 0)
		}
	case 20, 21:
		s.takeBack()
	case 22:
		if s.op != nil && s.rnd.IntN(3) == 0 {
			s.logf("the %s is cancelled", s.op.kind)
			s.op.cancel = true
		}
	}
}

// takeBack takes a fenced member back, if there is one.
func (s *sim) takeBack() {
	i := slices.IndexFunc(s.app.Members, func(m store.Member) bool { return m.Fenced != nil })
	if s.op == nil && i >= 0 {
		s.ask(store.OperationUnfence, planUnfence, s.app.Members[i].Name, false)
	}
}

func (s *sim) heal() {
	for _, m := range s.members {
		if m.down {
			m.up = s.now + time.Second
		}
		m.down, m.cut, m.owned, m.slow = false, false, true, false
		clear(m.loss)
	}
}

func (s *sim) whole() bool {
	streaming := 0
	for _, m := range s.members {
		if m.follows == s.app.Primary {
			streaming++
		}
	}
	return s.op == nil && !slices.ContainsFunc(s.app.Members, aside) && s.app.Handover == nil && s.serves(s.member(s.app.Primary)) && streaming == len(s.members)-1
}

func TestNoScheduleMakesTwoPrimariesOrLosesWhatWasAcknowledged(t *testing.T) {
	seeds := 20
	switch {
	case testing.Short():
		seeds = 5
	case os.Getenv("OPENMANAGE_LONG") != "":
		seeds = 1000
	}
	changes, commits, operations := uint64(0), 0, map[string]int{}
	for seed := range seeds {
		for _, n := range []int{3, 5} {
			s := newSim(t, uint64(seed), n)
			for range int(10 * time.Minute / simTick) {
				s.tick(true)
			}
			s.heal()
			deadline := s.now + 3*time.Minute
			for !s.whole() {
				if s.now > deadline {
					s.fatalf("seed %d: 3 minutes after the last fault the application is not whole: %+v", seed, s.app)
				}
				s.takeBack()
				s.tick(false)
			}
			for what, n := range s.done {
				operations[what] += n
			}
			changes += s.app.Term
			commits += len(s.acked)
		}
	}
	t.Logf("%d steps of changes, %d acknowledged commits, operations on members: %v", changes, commits, operations)
	if changes < uint64(seeds) || commits < 1000*seeds || operations["fence done"] < seeds || operations["rebuild done"] < seeds {
		t.Fatal("the simulation did too little to show anything")
	}
}
