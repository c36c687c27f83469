package swarmmanager

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// operated is an application whose leader executes operations on members, with
// records as in Swarm.
type operated struct {
	*plan
	m     *Manager
	steps map[string]int // that have the time of the test, by operation
}

func newOperated(t *testing.T) *operated {
	t.Helper()
	s := &operated{plan: newPlan(t), m: serveManager(t).manager, steps: map[string]int{}}
	_, err := store.Create(t.Context(), s.m.store, store.KindApplication, "pg", s.app)
	assert.NilError(t, err)
	return s
}

// ask asks for an operation on a member and returns its name.
func (s *operated) ask(kind, member string, force bool) string {
	s.t.Helper()
	name := store.OperationName("pg")
	body, err := json.Marshal(store.MemberRequest{Member: member, Force: force})
	assert.NilError(s.t, err)
	_, err = store.Create(s.t.Context(), s.m.store, store.KindOperation, name, store.Operation{
		Kind: kind, Target: "pg", By: "anna@desk", State: store.OperationRequested, Request: string(body), Started: s.o.now,
	})
	assert.NilError(s.t, err)
	return name
}

// round is one observation after d: the application's record, then the operations.
func (s *operated) round(d time.Duration) {
	s.t.Helper()
	ctx := s.t.Context()
	r, err := store.Get[store.Application](ctx, s.m.store, store.KindApplication, "pg")
	assert.NilError(s.t, err)
	s.app = r.Value
	s.o.records["pg"] = r
	s.after(d)
	_, err = store.Modify(ctx, s.m.store, store.KindApplication, "pg", func(app *store.Application) (bool, error) {
		*app = s.app
		return true, nil
	})
	assert.NilError(s.t, err)
	assert.NilError(s.t, s.m.operate(ctx, s.o))
	operations, err := store.List[store.Operation](ctx, s.m.store, store.KindOperation)
	assert.NilError(s.t, err)
	for _, r := range operations {
		_, err := store.Modify(ctx, s.m.store, store.KindOperation, r.Name, func(op *store.Operation) (bool, error) {
			for i := s.steps[r.Name]; i < len(op.Steps); i++ {
				op.Steps[i].Time = s.o.now
			}
			return s.steps[r.Name] < len(op.Steps), nil
		})
		assert.NilError(s.t, err)
		s.steps[r.Name] = len(r.Value.Steps)
	}
	r, err = store.Get[store.Application](ctx, s.m.store, store.KindApplication, "pg")
	assert.NilError(s.t, err)
	s.app = r.Value
}

// rounds are observations in which all but some members do as they are told.
func (s *operated) rounds(n int, except ...string) {
	s.t.Helper()
	for range n {
		for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
			if slices.Contains(except, m) {
				continue
			}
			s.obey(m)
			s.says(m, func(st *api.MemberStatus) {
				orders := s.orders(m)
				switch {
				case orders.Fenced != "":
					st.State, st.Role, st.Healthy, st.Streaming = api.StateFenced, "", false, false
				case st.State == api.StateFenced && orders.Role == api.RoleStandby:
					st.State, st.Role, st.Healthy, st.Streaming = api.StateRunning, api.RoleStandby, true, true
				}
			})
		}
		s.round(time.Second)
	}
}

func (s *operated) orders(member string) *api.MemberOrders { return ordersOf(&s.app, member) }

func (s *operated) operation(name string) store.Operation {
	s.t.Helper()
	r, err := store.Get[store.Operation](s.t.Context(), s.m.store, store.KindOperation, name)
	assert.NilError(s.t, err)
	return r.Value
}

func (s *operated) is(member string) store.Member {
	m, ok := memberOf(&s.app, member)
	assert.Assert(s.t, ok, member)
	return m
}

func TestAStandbyIsFencedWhenCommitsNoLongerWaitForIt(t *testing.T) {
	s := newOperated(t)
	name := s.ask(store.OperationFence, "pg-2", false)
	s.rounds(5)
	assert.DeepEqual(t, s.app.Sync, []string{"pg-3"})
	assert.DeepEqual(t, s.app.Voters, []string{"pg-2", "pg-3"})
	assert.Equal(t, s.orders("pg-2").Fenced, "", "pg-2 may have the last commit, and would be missed")
	s.rounds(15)
	assert.DeepEqual(t, s.app.Voters, []string{"pg-3"})
	assert.Assert(t, strings.HasPrefix(s.orders("pg-2").Fenced, "fenced by anna@desk since "), s.orders("pg-2").Fenced)
	assert.Equal(t, s.operation(name).State, store.OperationDone)
	assert.Equal(t, s.operation(name).By, "anna@desk")
	history, err := store.Get[store.Events](t.Context(), s.m.store, store.KindEvents, "pg")
	assert.NilError(t, err)
	assert.Assert(t, slices.ContainsFunc(history.Value.Events, func(e store.Event) bool {
		return e.Member == "pg-2" && e.Kind == "fence" && e.Text == "fenced by anna@desk"
	}), history.Value.Events)

	// It stays so over a move and a new leader, and says why it does not run.
	s.silent["n2"] = time.Minute
	delete(s.o.statuses, "pg-2")
	s.o.steady = false
	s.rounds(1, "pg-2")
	assert.Assert(t, s.is("pg-2").Fenced != nil)
	s.o.steady = true
	s.rounds(1, "pg-2")
	assert.Check(t, is.Contains(s.is("pg-2").Message, "fenced by anna@desk since "))
	// The primary dies: what pg-2 has is needed by nobody.
	s.dead()
	s.silent["n1"] = time.Minute
	s.step()
	assert.Assert(t, s.app.Handover != nil)
	s.obey("pg-3")
	s.step()
	assert.Equal(t, s.app.Primary, "pg-3")
	assert.Assert(t, s.is("pg-2").Fenced != nil)
}

func TestAFencedMemberIsTakenBack(t *testing.T) {
	s := newOperated(t)
	s.ask(store.OperationFence, "pg-2", false)
	s.rounds(20)
	assert.Assert(t, s.is("pg-2").Fenced != nil)
	again := s.ask(store.OperationFence, "pg-2", false)
	s.rounds(1)
	assert.Equal(t, s.operation(again).State, store.OperationDone, "it is fenced already")
	name := s.ask(store.OperationUnfence, "pg-2", false)
	s.rounds(1)
	assert.Equal(t, s.orders("pg-2").Fenced, "")
	assert.Equal(t, s.operation(name).State, store.OperationRunning)
	s.rounds(3)
	assert.Equal(t, s.operation(name).State, store.OperationDone)
	assert.DeepEqual(t, s.app.Sync, []string{"pg-2", "pg-3"})
}

func TestAFenceThatCannotBeIsRefusedInWordsAndChangesNothing(t *testing.T) {
	for _, tc := range []struct {
		doc, kind, member string
		prepare           func(*operated)
		want              string
	}{
		{"no such member", store.OperationFence, "pg-9", nil, "pg has no member pg-9; it has pg-1, pg-2, pg-3"},
		{"primary", store.OperationFence, "pg-1", nil, "hand over first: docker openmanage switchover pg"},
		{"the last that follows", store.OperationFence, "pg-2", func(s *operated) { s.away("pg-3") }, "commits would wait until pg-2, or another, is back"},
		{"primary away", store.OperationFence, "pg-2", func(s *operated) { s.says("pg-1", func(st *api.MemberStatus) { st.Healthy = false }) }, "the primary pg-1 is not healthy"},
		{"rebuild of the primary", store.OperationRebuild, "pg-1", nil, "hand over first: docker openmanage switchover pg"},
		{"rebuild of the last that follows", store.OperationRebuild, "pg-2", func(s *operated) { s.away("pg-3") }, "commits would wait"},
		{"rebuild without a primary", store.OperationRebuild, "pg-2", func(s *operated) { s.says("pg-1", func(st *api.MemberStatus) { st.Healthy = false }) }, "nothing to copy"},
		{"rebuild of who does not answer", store.OperationRebuild, "pg-2", func(s *operated) { delete(s.o.statuses, "pg-2") }, "the agent of pg-2 does not answer"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			s := newOperated(t)
			if tc.prepare != nil {
				tc.prepare(s)
			}
			term := s.app.Term
			name := s.ask(tc.kind, tc.member, false)
			s.round(time.Second)
			op := s.operation(name)
			assert.Equal(t, op.State, store.OperationFailed)
			assert.Check(t, is.Contains(op.Error, tc.want))
			assert.Equal(t, s.app.Term, term)
			assert.Assert(t, !slices.ContainsFunc(s.app.Members, aside))
		})
	}
}

// away has a standby stop to follow.
func (s *operated) away(member string) {
	s.says(member, func(st *api.MemberStatus) { st.Streaming, st.Healthy = false, false })
}

func TestAStandbyIsTakenBackWhenTheOtherFailsOnTheWay(t *testing.T) {
	for _, kind := range []string{store.OperationFence, store.OperationRebuild} {
		s := newOperated(t)
		name := s.ask(kind, "pg-2", false)
		s.rounds(3)
		assert.Equal(t, s.is("pg-2").Aside, name)
		s.away("pg-3")
		s.rounds(2)
		assert.Equal(t, s.operation(name).State, store.OperationFailed)
		assert.Equal(t, s.is("pg-2").Aside, "")
		assert.Assert(t, slices.Contains(s.app.Sync, "pg-2"), s.app.Sync)
	}
}

func TestNobodyTakesThePlaceOfAFencedPrimary(t *testing.T) {
	s := newOperated(t)
	name := s.ask(store.OperationFence, "pg-1", true)
	s.rounds(3)
	assert.Equal(t, s.operation(name).State, store.OperationDone)
	for range 30 {
		s.rounds(1)
		assert.Assert(t, s.app.Handover == nil && s.app.Primary == "pg-1")
	}
	assert.Check(t, is.Contains(strings.Join(s.app.Problems, "\n"), "the primary pg-1 is fenced by anna@desk"))
	// Nor when its node dies, or is drained.
	s.dead()
	s.silent["n1"] = time.Minute
	for range 30 {
		s.rounds(1, "pg-1")
		assert.Assert(t, s.app.Handover == nil && s.app.Primary == "pg-1")
	}
	_, problem := successor(s.o, s.app, "")
	assert.Check(t, is.Contains(problem, "docker openmanage fence pg-1 off"))
	assert.Equal(t, s.orders("pg-1").Role, api.RolePrimary)
}

// A voter that is fenced by force is missed: what it has acknowledged alone may be
// what no other has.
func TestAVoterThatIsFencedByForceIsMissed(t *testing.T) {
	s := newOperated(t)
	s.away("pg-3")
	name := s.ask(store.OperationFence, "pg-2", true)
	s.rounds(3)
	assert.Equal(t, s.operation(name).State, store.OperationDone)
	assert.Assert(t, slices.Contains(s.app.Voters, "pg-2"))
	s.dead()
	s.silent["n1"] = time.Minute
	s.rounds(2, "pg-1")
	assert.Assert(t, s.app.Handover == nil)
	assert.Check(t, is.Contains(strings.Join(s.app.Problems, "\n"), "pg-2 (fenced) may have acknowledged writes"))
}

func TestAFencedStandbyIsNoSuccessorAndNotChosen(t *testing.T) {
	p := newPlan(t)
	applyTo(&p.app, "pg-2", func(m *store.Member) { m.Fenced = &store.Fence{By: "me"} })
	p.app.Voters = []string{"pg-3"}
	p.says("pg-2", func(s *api.MemberStatus) { s.Position = 5000 }) // it has not heard yet
	_, problem := successor(p.o, p.app, "pg-2")
	assert.Check(t, is.Contains(problem, "it is fenced"))
	name, _ := successor(p.o, p.app, "")
	assert.Equal(t, name, "pg-3")
	best, _, err := candidate(p.o, &p.app, "pg-1", 0).choose(&p.app, "pg-1")
	assert.NilError(t, err)
	assert.Equal(t, best.Name, "pg-3")
}

func TestOperationsThatNeedAllMembersSayWhoIsFenced(t *testing.T) {
	s := newOperated(t)
	s.ask(store.OperationFence, "pg-2", false)
	s.rounds(20)
	for kind, request := range map[string]string{store.OperationRestart: `{}`, store.OperationUpgrade: `{"image":"postgres:18"}`, store.OperationScale: `{"members":5}`} {
		name := store.OperationName("pg")
		_, err := store.Create(t.Context(), s.m.store, store.KindOperation, name, store.Operation{Kind: kind, Target: "pg", State: store.OperationRequested, Request: request})
		assert.NilError(t, err)
		s.rounds(1)
		assert.Equal(t, s.operation(name).State, store.OperationFailed, kind)
		assert.Check(t, is.Contains(s.operation(name).Error, "pg-2 is fenced; take it back with docker openmanage fence pg-2 off"), kind)
	}
}

func TestAFenceIsCompleteThoughTheNodeIsSilent(t *testing.T) {
	s := newOperated(t)
	s.away("pg-2")
	delete(s.o.statuses, "pg-2")
	s.rounds(25, "pg-2") // it is no voter any more
	name := s.ask(store.OperationFence, "pg-2", false)
	s.rounds(3, "pg-2")
	assert.Equal(t, s.operation(name).State, store.OperationRunning, "its node may still run it")
	s.silent["n2"] = time.Minute
	s.rounds(1, "pg-2")
	assert.Equal(t, s.operation(name).State, store.OperationDone)
}

func TestAStandbyIsRebuiltWhenCommitsNoLongerWaitForIt(t *testing.T) {
	s := newOperated(t)
	name := s.ask(store.OperationRebuild, "pg-2", false)
	s.untilOrdered(name)
	assert.DeepEqual(t, s.app.Voters, []string{"pg-3"})
	s.away("pg-2")
	s.rounds(3)
	assert.Equal(t, s.operation(name).State, store.OperationRunning)
	// It follows again, and has not said yet that it has a copy.
	s.says("pg-2", func(st *api.MemberStatus) { st.Streaming, st.Healthy = true, true })
	s.rounds(2)
	assert.Equal(t, s.operation(name).State, store.OperationRunning)
	assert.DeepEqual(t, s.app.Sync, []string{"pg-3"})
	s.says("pg-2", func(st *api.MemberStatus) { st.Rebuilt = name })
	s.rounds(2)
	assert.Equal(t, s.operation(name).State, store.OperationDone)
	assert.Equal(t, s.orders("pg-2").Rebuild, "")
	s.rounds(1)
	assert.DeepEqual(t, s.app.Sync, []string{"pg-2", "pg-3"})
}

func TestARebuildThatIsCancelledIsForgottenWhenItsOrderIsVoid(t *testing.T) {
	s := newOperated(t)
	name := s.ask(store.OperationRebuild, "pg-2", false)
	s.untilOrdered(name)
	s.cancel(name)
	s.rounds(2)
	assert.Equal(t, s.orders("pg-2").Rebuild, "")
	assert.Equal(t, s.is("pg-2").Aside, name, "an order may still be under way")
	s.rounds(int(voterPatience/time.Second) + 1)
	assert.Equal(t, s.operation(name).State, store.OperationCancelled)
	assert.Equal(t, s.is("pg-2").Aside, "")
}

// untilOrdered is until pg-2 has the order to replace its data.
func (s *operated) untilOrdered(name string) {
	s.t.Helper()
	for range 40 {
		if s.orders("pg-2").Rebuild == name {
			return
		}
		s.rounds(1)
	}
	s.t.Fatalf("pg-2 does not get the order: %+v", s.operation(name))
}

func (s *operated) cancel(name string) {
	s.t.Helper()
	_, err := store.Modify(s.t.Context(), s.m.store, store.KindOperation, name, func(op *store.Operation) (bool, error) {
		op.Cancel = true
		return true, nil
	})
	assert.NilError(s.t, err)
}

// A voter whose data is replaced by force holds what no other may have, though it
// says that it holds nothing by now. Nor is that forgotten when it is cancelled.
func TestAVoterThatIsRebuiltByForceIsMissed(t *testing.T) {
	s := newOperated(t)
	s.away("pg-3")
	name := s.ask(store.OperationRebuild, "pg-2", true)
	s.rounds(2)
	assert.Equal(t, s.orders("pg-2").Rebuild, name)
	s.says("pg-2", func(st *api.MemberStatus) {
		st.State, st.Role, st.Healthy, st.Streaming, st.Initialized, st.Empty = api.StateJoining, "", false, false, false, true
	})
	s.cancel(name)
	s.rounds(20)
	assert.Equal(t, s.operation(name).State, store.OperationRunning)
	assert.Assert(t, slices.Contains(s.app.Voters, "pg-2"))
	s.dead()
	s.silent["n1"] = time.Minute
	s.says("pg-3", func(st *api.MemberStatus) { st.Role, st.State = api.RoleStandby, api.StateRunning })
	s.rounds(2, "pg-1")
	assert.Assert(t, s.app.Handover == nil)
	assert.Check(t, is.Contains(strings.Join(s.app.Problems, "\n"), "pg-2 (being rebuilt) may have acknowledged writes"))
}

func TestAMemberWhoseOperationIsGoneIsTakenBack(t *testing.T) {
	s := newOperated(t)
	name := s.ask(store.OperationRebuild, "pg-2", false)
	s.rounds(3)
	assert.Equal(t, s.is("pg-2").Aside, name)
	r, err := store.Get[store.Operation](t.Context(), s.m.store, store.KindOperation, name)
	assert.NilError(t, err)
	assert.NilError(t, store.Delete(t.Context(), s.m.store, store.KindOperation, r))
	s.rounds(2)
	assert.Equal(t, s.is("pg-2").Aside, "")
}

// One that follows and is far behind does not have what the one that leaves has
// acknowledged.
func TestAVoterLeavesOnlyWhenOneThatStaysHasWhatItAcknowledged(t *testing.T) {
	s := newOperated(t)
	s.says("pg-1", func(st *api.MemberStatus) { st.Position = 2000 })
	s.says("pg-2", func(st *api.MemberStatus) { st.Position = 2000 })
	name := s.ask(store.OperationFence, "pg-2", false)
	s.rounds(40)
	assert.DeepEqual(t, s.app.Voters, []string{"pg-2", "pg-3"})
	assert.Equal(t, s.operation(name).State, store.OperationRunning)
	s.says("pg-3", func(st *api.MemberStatus) { st.Position = 2000 })
	s.rounds(4)
	assert.DeepEqual(t, s.app.Voters, []string{"pg-3"})
	assert.Equal(t, s.operation(name).State, store.OperationDone, fmt.Sprint(s.operation(name)))
}

// Who is fenced starts no server, whatever the others do.
func TestAFencedMemberKeepsNobodyFromStartingOrLeaving(t *testing.T) {
	s := newOperated(t)
	s.ask(store.OperationFence, "pg-2", false)
	s.rounds(20)
	assert.Assert(t, s.is("pg-2").Fenced != nil)
	name := store.OperationName("pg")
	_, err := store.Create(t.Context(), s.m.store, store.KindOperation, name, store.Operation{Kind: store.OperationStart, Target: "pg", State: store.OperationRequested, Request: "{}"})
	assert.NilError(t, err)
	s.rounds(2)
	assert.Equal(t, s.operation(name).State, store.OperationDone)

	s.says("pg-3", func(st *api.MemberStatus) { st.Leaving = true })
	s.rounds(1)
	assert.Assert(t, s.is("pg-3").Left, "it is its turn")
}

// The leading manager dies after the first step, and the next one has not heard the
// members yet.
func TestAnOperationDoesNotFailBecauseTheLeaderIsNew(t *testing.T) {
	for _, kind := range []string{store.OperationFence, store.OperationSwitchover} {
		t.Run(kind, func(t *testing.T) {
			s := newOperated(t)
			statuses := maps.Clone(s.o.statuses)
			clear(s.o.statuses)
			s.o.steady = false
			name := s.ask(kind, "pg-2", false)
			for range 5 {
				s.round(time.Second)
			}
			op := s.operation(name)
			assert.Assert(t, op.Ended == nil, "%s: %s", op.State, op.Error)
			maps.Copy(s.o.statuses, statuses)
			s.o.steady = true
			s.rounds(30)
			op = s.operation(name)
			if kind == store.OperationFence {
				assert.Equal(t, op.State, store.OperationDone, op.Error)
			}
			assert.Assert(t, len(op.Steps) > 0, "it does not go on")
		})
	}
}
