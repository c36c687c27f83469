package swarmmanager

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
)

func TestPolicyLabels(t *testing.T) {
	label := func(p *plan, key, value string) { p.o.services["pg"][0].Spec.Labels[key] = value }
	p := newPlan(t)
	assert.Equal(t, rollOrder(p.app, store.RollRequest{}), primaryLast)
	label(p, api.LabelUpgradeOrder, primaryFirst)
	label(p, api.LabelWindow, "Sat 02:00-05:00")
	p.step()
	assert.Equal(t, len(p.app.Problems), 0)
	assert.Equal(t, p.app.Window, "Sat 02:00-05:00")
	assert.Equal(t, rollOrder(p.app, store.RollRequest{}), primaryFirst)
	assert.Equal(t, rollOrder(p.app, store.RollRequest{Order: primaryLast}), primaryLast)
	assert.Equal(t, nextToRoll(p.app, store.RollRequest{}, nil), "pg-1")
	assert.Equal(t, nextToRoll(p.app, store.RollRequest{Order: primaryLast}, nil), "pg-3")

	label(p, api.LabelUpgradeOrder, "random")
	label(p, api.LabelWindow, "at night")
	label(p, api.LabelApart, "never")
	p.step()
	assert.Equal(t, rollOrder(p.app, store.RollRequest{}), primaryLast)
	problems := strings.Join(p.app.Problems, "\n")
	for _, want := range []string{`"random" is not known; choose primary-last or primary-first`, `"at night" is no maintenance window`, "need --now", `"never" is not known; choose true or false`} {
		assert.Check(t, is.Contains(problems, want))
	}
}

// rolling is an application whose leader takes operations, with an engine that notes
// which services are updated.
type rollingTest struct {
	*plan
	m       *Manager
	clock   time.Duration
	updated []string
}

func newRolling(t *testing.T) *rollingTest {
	t.Helper()
	r := &rollingTest{plan: newPlan(t)}
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, id, ok := strings.Cut(req.URL.Path, "/services/"); ok {
			r.updated = append(r.updated, strings.TrimSuffix(id, "/update"))
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(engine.Close)
	docker, err := client.New(client.WithHost("tcp://" + strings.TrimPrefix(engine.URL, "http://")))
	assert.NilError(t, err)
	now := func() time.Duration { return r.clock }
	r.m = &Manager{docker: docker, services: docker, log: hclog.NewNullLogger(), store: store.New(&storetest.Configs{}), leases: newLeases(now), pulls: newPulls(now)}
	r.m.apps = newApplications(r.m)
	r.o.precise = at(t, "2026-11-27T12:00Z") // a Friday
	r.step()
	return r
}

func (r *rollingTest) ask(kind, name string, request store.RollRequest) {
	r.t.Helper()
	body, err := json.Marshal(request)
	assert.NilError(r.t, err)
	_, err = store.Create(r.t.Context(), r.m.store, store.KindOperation, name, store.Operation{
		Kind: kind, Target: "pg", By: "alice", State: store.OperationRequested, Request: string(body),
	})
	assert.NilError(r.t, err)
}

// look has the leader look once.
func (r *rollingTest) look() {
	r.t.Helper()
	r.step()
	r.o.records["pg"] = store.Record[store.Application]{Name: "pg", Value: r.app}
	assert.NilError(r.t, r.m.operate(r.t.Context(), r.o))
}

func (r *rollingTest) operation(name string) store.Operation {
	r.t.Helper()
	op, err := store.Get[store.Operation](r.t.Context(), r.m.store, store.KindOperation, name)
	assert.NilError(r.t, err)
	return op.Value
}

// pulls has the helper of a node say how far the image is.
func (r *rollingTest) helper(node string, result api.PullResult) {
	orders := r.m.pulls.orders(node)
	assert.Equal(r.t, len(orders), 1)
	result.PullOrder = orders[0]
	r.m.leases.hearHelper(node, api.HelperReport{Pulls: []api.PullResult{result}})
}

func TestARestartWaitsForTheWindowAndIsNoObstacleMeanwhile(t *testing.T) {
	r := newRolling(t)
	r.o.services["pg"][0].Spec.Labels[api.LabelWindow] = "Sat 02:00-05:00"
	r.ask(store.OperationRestart, "pg.1", store.RollRequest{})
	r.ask(store.OperationUpgrade, "pg.2", store.RollRequest{})
	r.look()
	assert.Check(t, is.Contains(r.operation("pg.1").Step, "waits for the maintenance window, which opens at Sat 2026-11-28 02:00 UTC"))
	assert.Equal(t, r.operation("pg.2").Step, "waits for pg.1 (restart)")
	assert.Assert(t, !r.o.again, "it is looked at often for days")
	assert.Equal(t, len(r.updated), 0)

	// What restarts no member does not stay behind it.
	r.ask(store.OperationStart, "pg.3", store.RollRequest{})
	r.look()
	assert.Equal(t, r.operation("pg.3").State, store.OperationDone)

	r.o.precise = at(t, "2026-11-28T02:00Z")
	r.look()
	assert.Equal(t, r.operation("pg.1").Step, "restarting pg-3")
	assert.DeepEqual(t, r.updated, []string{"s3"})

	// The window closes: the member is finished, and no other begun.
	r.o.precise = at(t, "2026-11-28T05:00Z")
	r.o.services["pg"][2].Spec.TaskTemplate.ForceUpdate = 1
	r.says("pg-3", func(s *api.MemberStatus) { s.Task = "another" })
	r.look()
	assert.Equal(t, r.operation("pg.1").Step, "pg-3 is healthy")
	r.look()
	assert.Check(t, is.Contains(r.operation("pg.1").Step, "which opens at Sat 2026-12-05 02:00 UTC"))
	assert.DeepEqual(t, r.operation("pg.1").Roll.Done, []string{"pg-3"})
	assert.DeepEqual(t, r.updated, []string{"s3"})

	_, err := store.Modify(t.Context(), r.m.store, store.KindOperation, "pg.1", func(op *store.Operation) (bool, error) {
		op.Cancel = true
		return true, nil
	})
	assert.NilError(t, err)
	r.look()
	assert.Equal(t, r.operation("pg.1").State, store.OperationCancelled)
	assert.Equal(t, r.operation("pg.1").Error, "done before that: pg-3")
}

func TestWhatWasBegunWhileARestartWaitsIsEndedFirst(t *testing.T) {
	r := newRolling(t)
	r.o.services["pg"][0].Spec.Labels[api.LabelWindow] = "Sat 02:00-05:00"
	r.ask(store.OperationRestart, "pg.1", store.RollRequest{})
	r.says("pg-2", func(s *api.MemberStatus) { s.Healthy = false })
	r.ask(store.OperationStart, "pg.2", store.RollRequest{})
	r.look()
	assert.Equal(t, r.operation("pg.2").Step, "starting the members")
	r.o.precise = at(t, "2026-11-28T02:00Z")
	r.look()
	assert.Equal(t, r.operation("pg.1").Step, "waits for pg.2 (start)")
	r.says("pg-2", func(s *api.MemberStatus) { s.Healthy = true })
	r.look()
	assert.Equal(t, r.operation("pg.2").State, store.OperationDone)
	r.look()
	assert.Equal(t, r.operation("pg.1").Step, "restarting pg-3")
}

func TestABadWindowAllowsNothing(t *testing.T) {
	r := newRolling(t)
	r.o.services["pg"][0].Spec.Labels[api.LabelWindow] = "at night"
	r.ask(store.OperationRestart, "pg.1", store.RollRequest{})
	r.look()
	assert.Equal(t, r.operation("pg.1").State, store.OperationFailed)
	for _, want := range []string{api.LabelWindow, `"at night" is no maintenance window`, "ask again with --now", "nothing was changed"} {
		assert.Check(t, is.Contains(r.operation("pg.1").Error, want))
	}
	assert.Equal(t, len(r.updated), 0)

	r.ask(store.OperationRestart, "pg.2", store.RollRequest{Now: true})
	r.look()
	assert.Equal(t, r.operation("pg.2").Step, "restarting pg-3")
}

func TestOperationsWaitForAMemberThatIsBeingMoved(t *testing.T) {
	r := newRolling(t)
	r.app.Apart = &store.Apart{Member: "pg-2", Since: r.o.now}
	r.says("pg-2", func(s *api.MemberStatus) { s.Healthy = false })
	r.ask(store.OperationRestart, "pg.1", store.RollRequest{})
	r.look()
	assert.Equal(t, r.operation("pg.1").Step, "waits until pg-2 has moved to another node")
	r.says("pg-2", func(s *api.MemberStatus) { s.Healthy = true })
	r.look()
	assert.Equal(t, r.operation("pg.1").Step, "restarting pg-3")
}

func TestTheImageIsPulledBeforeTheFirstMemberIsRestarted(t *testing.T) {
	image := "postgres:17.9@sha256:1"
	begin := func(t *testing.T) *rollingTest {
		t.Helper()
		r := newRolling(t)
		r.o.services["pg"][0].Spec.Labels[api.LabelWindow] = "Sat 02:00-05:00"
		r.ask(store.OperationUpgrade, "pg.1", store.RollRequest{Image: image})
		r.look()
		assert.Equal(t, r.operation("pg.1").Step, "pulling postgres:17.9 on node1, node2, node3")
		assert.DeepEqual(t, r.m.pulls.orders("n2"), []api.PullOrder{{Operation: "pg.1", Image: image}})
		assert.Equal(t, len(r.m.pulls.orders("n4")), 0)
		return r
	}
	open := func(r *rollingTest) { r.o.precise = at(r.t, "2026-11-28T02:00Z") }
	t.Run("all have it", func(t *testing.T) {
		r := begin(t)
		r.helper("n1", api.PullResult{Done: true})
		r.helper("n2", api.PullResult{Done: true})
		r.helper("n3", api.PullResult{})
		r.look()
		assert.Equal(t, r.operation("pg.1").Step, "pulling postgres:17.9 on node1, node2, node3")
		r.helper("n3", api.PullResult{Done: true})
		r.look()
		assert.Equal(t, r.operation("pg.1").Step, "postgres:17.9 is there on all nodes with members")
		r.look()
		assert.Check(t, is.Contains(r.operation("pg.1").Step, "waits for the maintenance window"))
		assert.Equal(t, len(r.updated), 0)
		open(r)
		r.look()
		assert.Equal(t, r.operation("pg.1").Step, "restarting pg-3")
		r.clock += pullWanted + time.Second
		assert.Equal(t, len(r.m.pulls.orders("n1")), 0, "it is pulled for ever")
	})
	t.Run("a node cannot", func(t *testing.T) {
		r := begin(t)
		r.helper("n1", api.PullResult{Done: true})
		r.helper("n2", api.PullResult{Done: true, Error: "no space left on device"})
		r.helper("n3", api.PullResult{})
		r.look()
		op := r.operation("pg.1")
		assert.Equal(t, op.State, store.OperationFailed)
		assert.Equal(t, op.Error, "the image postgres:17.9 cannot be pulled on node2: no space left on device; nothing was changed")
		assert.Equal(t, len(r.updated), 0)
	})
	t.Run("the registry wants credentials", func(t *testing.T) {
		r := begin(t)
		open(r)
		for _, node := range []string{"n1", "n2", "n3"} {
			r.helper(node, api.PullResult{Done: true, Error: "unauthorized", Denied: true})
		}
		r.look()
		assert.Check(t, is.Contains(r.operation("pg.1").Step, "wants credentials for it from node1, node2, node3"))
		r.look()
		assert.Equal(t, r.operation("pg.1").Step, "restarting pg-3")
	})
	t.Run("a helper is silent", func(t *testing.T) {
		r := begin(t)
		open(r)
		r.helper("n1", api.PullResult{})
		r.helper("n2", api.PullResult{Done: true})
		r.helper("n3", api.PullResult{Done: true})
		r.after(pullSilence)
		r.look()
		assert.Assert(t, r.operation("pg.1").Roll.Pulled == false, "it pulls, however long that takes")
		// It dies; the others report on.
		r.clock += helperHeard + time.Second
		r.helper("n2", api.PullResult{Done: true})
		r.helper("n3", api.PullResult{Done: true})
		r.look()
		assert.Check(t, is.Contains(r.operation("pg.1").Step, "the network helper on node1 does not answer"))
	})
	t.Run("a new leader", func(t *testing.T) {
		r := begin(t)
		now := func() time.Duration { return r.clock }
		r.m.leases, r.m.pulls = newLeases(now), newPulls(now)
		r.look()
		for _, node := range []string{"n1", "n2", "n3"} {
			r.helper(node, api.PullResult{Done: true})
		}
		r.look()
		assert.Equal(t, r.operation("pg.1").Step, "postgres:17.9 is there on all nodes with members")
	})
	t.Run("cancelled", func(t *testing.T) {
		r := begin(t)
		_, err := store.Modify(t.Context(), r.m.store, store.KindOperation, "pg.1", func(op *store.Operation) (bool, error) {
			op.Cancel = true
			return true, nil
		})
		assert.NilError(t, err)
		r.look()
		assert.Equal(t, r.operation("pg.1").State, store.OperationCancelled)
	})
	t.Run("a member falls ill meanwhile", func(t *testing.T) {
		r := begin(t)
		r.says("pg-2", func(s *api.MemberStatus) { s.Healthy = false })
		r.look()
		assert.Check(t, is.Contains(r.operation("pg.1").Error, "not begun: pg-2 not healthy"))
	})
}

func TestAHelperIsToldWhatToPullWithItsReport(t *testing.T) {
	s := serveManager(t)
	order := api.PullOrder{Operation: "pg.1", Image: "postgres:17.9"}
	s.manager.pulls.want(order, []string{"w1"})
	for node, want := range map[string]bool{"w1": true, "w2": false} {
		status, body := s.post(t, s.as(t, node, "swarm-worker"), "/v1/helper", api.HelperReport{Version: "test"})
		assert.Equal(t, status, http.StatusOK, body)
		assert.Equal(t, strings.Contains(body, "postgres:17.9"), want, body)
	}
}
