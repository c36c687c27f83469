package swarmmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
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
	"github.com/openmanage/openmanage/internal/swarm"
)

// configured is pg with three members whose servers have three settings: work_mem,
// which is reloaded, buffers, which take a restart, and connections, of which a
// standby must not have less than the primary. They do as they are ordered.
type configured struct {
	t       *testing.T
	o       *observed
	m       *Manager
	configs *storetest.Configs
	members map[string]*server
	writes  int    // of services
	refuses string // a value that servers refuse
	breaks  string // a value with which none starts
	asked   int
	steps   int
	log     []string // what happened to servers
}

// nobodyToNudge is a Swarm whose nodes cannot be asked for.
type nobodyToNudge struct{ swarm.API }

func (nobodyToNudge) NodeList(context.Context, client.NodeListOptions) (client.NodeListResult, error) {
	return client.NodeListResult{}, errors.New("no nodes")
}

// server is what runs on a member.
type server struct {
	inForce     map[string]string
	startedWith string
	seen        int // connections of the primary that its log has told
	down        bool
}

func newConfigured(t *testing.T, env string) *configured {
	t.Helper()
	c := &configured{t: t, o: observation(), configs: &storetest.Configs{}, members: map[string]*server{}}
	c.m = &Manager{log: hclog.NewNullLogger(), store: store.New(c.configs), services: services{c: c}, nodes: newNodeView(swarm.New(nobodyToNudge{}))}
	c.restartManager()
	for i := range c.o.services["pg"] {
		c.o.services["pg"][i].Version.Index = 1
		c.o.services["pg"][i].Spec.TaskTemplate.ContainerSpec.Env = []string{envParameters + "=" + env}
	}
	for i, name := range []string{"pg-1", "pg-2", "pg-3"} {
		c.members[name] = &server{inForce: map[string]string{"connections": "100", "buffers": "1", "work_mem": "4"}, seen: 100, startedWith: api.ParametersID(env)}
		s := c.o.statuses[name]
		s.Streaming, s.Timeline, s.Position = i > 0, 1, 1000
		c.o.statuses[name] = s
	}
	app, _ := planApplication(c.o, "pg", store.Application{}, false)
	_, err := store.Create(t.Context(), c.m.store, store.KindApplication, "pg", app)
	assert.NilError(t, err)
	for range 3 {
		c.step()
	}
	return c
}

// restartManager forgets what a manager has in memory.
func (c *configured) restartManager() { c.m.apps = newApplications(c.m) }

// services is Docker: it updates services, if the version is the one they have.
type services struct {
	serviceAPI
	c *configured
}

func (d services) ServiceUpdate(_ context.Context, id string, o client.ServiceUpdateOptions) (client.ServiceUpdateResult, error) {
	c := d.c
	for i, s := range c.o.services["pg"] {
		if s.ID != id {
			continue
		}
		if s.Version != o.Version {
			return client.ServiceUpdateResult{}, errors.New("update out of sequence")
		}
		assert.Check(c.t, is.DeepEqual(o.Spec.TaskTemplate, s.Spec.TaskTemplate), "a task is restarted")
		c.o.services["pg"][i].Spec = o.Spec
		c.o.services["pg"][i].Version.Index++
		c.writes++
	}
	return client.ServiceUpdateResult{}, nil
}

func (c *configured) app() store.Application {
	r, err := store.Get[store.Application](c.t.Context(), c.m.store, store.KindApplication, "pg")
	assert.NilError(c.t, err)
	return r.Value
}

// step observes, plans, has the operations take a step and the members do what they
// are ordered. An error is that of the operations.
func (c *configured) step() error {
	c.steps++
	c.o.precise = c.o.precise.Add(time.Second)
	c.o.now = c.o.precise.Truncate(time.Second)
	r, err := store.Get[store.Application](c.t.Context(), c.m.store, store.KindApplication, "pg")
	if err != nil {
		return err
	}
	c.o.records["pg"] = r
	next, _ := planApplication(c.o, "pg", r.Value, true)
	if !sameApplication(r.Value, next) {
		if _, err := store.Update(c.t.Context(), c.m.store, store.KindApplication, r, next); err != nil {
			return err
		}
	}
	err = c.m.operate(c.t.Context(), c.o)
	app := c.app()
	for name := range c.members {
		c.obey(name, ordersOf(&app, name))
	}
	return err
}

// obey is the agent of a member with its engine.
func (c *configured) obey(name string, orders *api.MemberOrders) {
	s, m := c.o.statuses[name], c.members[name]
	wanted := map[string]string{}
	assert.NilError(c.t, json.Unmarshal([]byte(orders.Parameters), &wanted))
	for key, value := range map[string]string{"connections": "100", "buffers": "1", "work_mem": "4"} {
		if wanted[key] == "" {
			wanted[key] = value
		}
	}
	refused := c.refuses != "" && strings.Contains(orders.Parameters, c.refuses)
	for other, o := range c.members { // the primary's log gets there after a while
		if c.o.statuses[other].Role == api.RolePrimary && !o.down && c.steps%4 == 0 {
			m.seen, _ = strconv.Atoi(o.inForce["connections"])
		}
	}
	was := s.Role
	switch {
	case orders.Role == api.RolePrimary:
		s.Role, s.Streaming = api.RolePrimary, false
	case orders.Primary == "" && was == api.RolePrimary: // it hands over
		s.Role = ""
	case orders.Primary != "":
		s.Role, s.Streaming = api.RoleStandby, true
	}
	s.Term = orders.Term
	if s.Role == "" {
		s.Healthy, s.State, m.startedWith = false, api.StateWaiting, ""
		c.o.statuses[name] = s
		return
	}
	floor := maps.Clone(wanted)
	if n, _ := strconv.Atoi(wanted["connections"]); s.Role == api.RoleStandby && n < m.seen {
		floor["connections"] = strconv.Itoa(m.seen)
	}
	id := api.ParametersID(orders.Parameters)
	if m.startedWith == "" || m.down || orders.Restart && (m.startedWith != id || s.PendingRestart != "") {
		if !m.down && m.startedWith != "" {
			c.log = append(c.log, name)
		}
		m.down = c.breaks != "" && strings.Contains(orders.Parameters, c.breaks)
		if m.down {
			s.State, s.Healthy, s.Message, s.Parameters, s.StartedWith, s.PendingRestart, s.PrimaryFirst = api.StateFailed, false, "it ended", "", "", "", ""
			c.o.statuses[name] = s
			return
		}
		m.inForce, m.startedWith = floor, id
	}
	s.State, s.Healthy, s.Message, s.Parameters, s.StartedWith, s.Refused = api.StateRunning, true, "", id, m.startedWith, ""
	s.SyncNames = ""
	if s.Role == api.RolePrimary {
		s.SyncNames = strings.Join(orders.Sync, ",")
	}
	if refused {
		s.Refused = "no"
		c.o.statuses[name] = s
		return
	}
	m.inForce["work_mem"] = wanted["work_mem"]
	var pending, first []string
	for _, key := range []string{"buffers", "connections"} {
		if m.inForce[key] != floor[key] {
			pending = append(pending, key)
		}
	}
	in, _ := strconv.Atoi(m.inForce["connections"])
	if want, _ := strconv.Atoi(wanted["connections"]); want < in && (s.Role == api.RolePrimary || want < m.seen) {
		first = []string{"connections"}
	}
	s.PendingRestart, s.PrimaryFirst = strings.Join(pending, ","), strings.Join(first, ",")
	c.o.statuses[name] = s
	if s.Role == api.RoleStandby {
		assert.Check(c.t, in >= m.seen, "%s has %d connections and its primary %d", name, in, m.seen)
	}
}

func (c *configured) ask(req store.ConfigRequest) string {
	c.t.Helper()
	body, err := json.Marshal(req)
	assert.NilError(c.t, err)
	c.asked++
	name := fmt.Sprintf("pg.%06d", c.asked)
	_, err = store.Create(c.t.Context(), c.m.store, store.KindOperation, name, store.Operation{Kind: store.OperationConfig, Target: "pg", By: "me", State: store.OperationRequested, Request: string(body)})
	assert.NilError(c.t, err)
	return name
}

func (c *configured) operation(name string) store.Operation {
	r, err := store.Get[store.Operation](c.t.Context(), c.m.store, store.KindOperation, name)
	assert.NilError(c.t, err)
	return r.Value
}

// await steps until an operation has ended.
func (c *configured) await(name string) store.Operation {
	c.t.Helper()
	for range 500 {
		_ = c.step() // an observation that fails is repeated
		if op := c.operation(name); op.Ended != nil {
			return op
		}
	}
	c.t.Fatalf("it does not end: %+v\n%+v\n%v", c.operation(name), c.app(), c.log)
	return store.Operation{}
}

func (c *configured) set(values ...string) store.Operation {
	c.t.Helper()
	req := store.ConfigRequest{Set: map[string]string{}}
	for i := 0; i < len(values); i += 2 {
		req.Set[values[i]] = values[i+1]
	}
	return c.await(c.ask(req))
}

// inForce checks what all servers have.
func (c *configured) inForce(key, want string) {
	c.t.Helper()
	for name, m := range c.members {
		assert.Check(c.t, is.Equal(m.inForce[key], want), name)
	}
}

func (c *configured) labels() (labels []string) {
	for _, s := range c.o.services["pg"] {
		labels = append(labels, s.Spec.Labels[api.LabelParameters])
	}
	return labels
}

func TestSettingsAreReloadedWithoutARestart(t *testing.T) {
	c := newConfigured(t, `{"buffers":"1"}`)
	op := c.set("work_mem", "16")
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	c.inForce("work_mem", "16")
	want := `{"buffers":"1","work_mem":"16"}`
	assert.DeepEqual(t, c.labels(), []string{want, want, want})
	assert.Equal(t, c.app().Parameters, want)
	assert.Equal(t, len(c.log), 0)

	op = c.await(c.ask(store.ConfigRequest{Unset: []string{"work_mem"}}))
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	c.inForce("work_mem", "4")
}

func TestStandbysRestartBeforeThePrimaryWhichHandsOver(t *testing.T) {
	c := newConfigured(t, "{}")
	op := c.set("connections", "200", "buffers", "2")
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	c.inForce("connections", "200")
	c.inForce("buffers", "2")
	assert.DeepEqual(t, c.log, []string{"pg-3", "pg-2"})
	assert.Assert(t, c.app().Primary != "pg-1")
	assert.Assert(t, c.app().Restart == nil)
}

func TestThePrimaryIsFirstToHaveLess(t *testing.T) {
	c := newConfigured(t, "{}")
	op := c.set("connections", "50", "buffers", "2")
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	c.inForce("connections", "50")
	assert.DeepEqual(t, c.log, []string{"pg-3", "pg-2", "pg-1", "pg-3", "pg-2"})
	assert.Equal(t, c.app().Primary, "pg-1")
}

func TestARefusedSettingIsTakenBackEverywhere(t *testing.T) {
	c := newConfigured(t, "{}")
	c.refuses = "many"
	op := c.set("work_mem", "many")
	assert.Equal(t, op.State, store.OperationFailed)
	assert.Check(t, is.Contains(op.Error, "pg-"))
	assert.Check(t, is.Contains(op.Error, "The former settings are in force again"))
	assert.DeepEqual(t, c.labels(), []string{"", "", ""})
	c.inForce("work_mem", "4")
	assert.Equal(t, len(c.log), 0)
}

func TestAServerThatDoesNotStartHasTheFormerSettingsPutBack(t *testing.T) {
	c := newConfigured(t, `{"connections":"120"}`)
	op := c.set("connections", "100000")
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	c.log, c.breaks = nil, "200000"
	op = c.set("connections", "200000", "work_mem", "5")
	assert.Equal(t, op.State, store.OperationFailed)
	assert.Check(t, is.Contains(op.Error, "did not come up: it ended. The former settings are in force again"))
	c.inForce("connections", "100000")
	c.inForce("work_mem", "4")
	assert.Equal(t, len(c.log), 1, "more than one member tried it")
	assert.Equal(t, len(unhealthy(c.app())), 0)
}

func TestNothingIsBegunWhileAMemberThatMustRestartIsAway(t *testing.T) {
	c := newConfigured(t, "{}")
	delete(c.o.statuses, "pg-3")
	gone := c.members["pg-3"]
	delete(c.members, "pg-3")
	assert.NilError(t, c.step())
	op := c.await(c.ask(store.ConfigRequest{Set: map[string]string{"buffers": "2"}, Restart: true}))
	assert.Equal(t, op.State, store.OperationFailed)
	assert.Check(t, is.Contains(op.Error, "not begun: pg-3 not healthy"))
	assert.Equal(t, c.writes, 0)
	// What is reloaded it reads when it comes back.
	op = c.set("work_mem", "16")
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	assert.Equal(t, gone.inForce["work_mem"], "4")
}

func TestWhatIsDeployedMeanwhileCounts(t *testing.T) {
	c := newConfigured(t, "{}")
	name := c.ask(store.ConfigRequest{Set: map[string]string{"buffers": "2"}})
	for c.operation(name).Config == nil || !c.operation(name).Config.Written {
		assert.NilError(t, c.step())
	}
	for i := range c.o.services["pg"] {
		c.o.services["pg"][i].Spec.Labels = maps.Clone(c.o.services["pg"][i].Spec.Labels)
		c.o.services["pg"][i].Spec.Labels[api.LabelParameters] = `{"work_mem":"8"}`
	}
	op := c.await(name)
	assert.Equal(t, op.State, store.OperationFailed)
	assert.Check(t, is.Contains(op.Error, "changed otherwise meanwhile"))
	c.inForce("work_mem", "8")
	assert.Assert(t, c.app().Restart == nil)
}

func TestTwoChangesOfSettingsAreOneAfterTheOther(t *testing.T) {
	c := newConfigured(t, "{}")
	one := c.ask(store.ConfigRequest{Set: map[string]string{"buffers": "2"}})
	two := c.ask(store.ConfigRequest{Set: map[string]string{"work_mem": "8"}})
	assert.Equal(t, c.await(one).State, store.OperationDone)
	assert.Equal(t, c.await(two).State, store.OperationDone)
	c.inForce("buffers", "2")
	c.inForce("work_mem", "8")
	assert.Equal(t, c.app().Parameters, `{"buffers":"2","work_mem":"8"}`)
}

func TestWhatTakesARestartWaitsForTheWindow(t *testing.T) {
	c := newConfigured(t, "{}")
	c.o.precise = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	for i := range c.o.services["pg"] {
		c.o.services["pg"][i].Spec.Labels[api.LabelWindow] = "* 02:00-05:00"
	}
	assert.NilError(t, c.step())
	name := c.ask(store.ConfigRequest{Set: map[string]string{"buffers": "2"}, Restart: true})
	for range 5 {
		assert.NilError(t, c.step())
	}
	assert.Check(t, is.Contains(c.operation(name).Step, "waits for the maintenance window"))
	assert.Equal(t, c.writes, 0)
	op := c.set("work_mem", "16")
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	_, err := store.Modify(t.Context(), c.m.store, store.KindOperation, name, func(op *store.Operation) (bool, error) { op.Cancel = true; return true, nil })
	assert.NilError(t, err)
	assert.Equal(t, c.await(name).State, store.OperationCancelled)
	op = c.await(c.ask(store.ConfigRequest{Set: map[string]string{"buffers": "3"}, Restart: true, Now: true}))
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	c.inForce("buffers", "3")
	name = c.ask(store.ConfigRequest{Set: map[string]string{"buffers": "2"}, Restart: true})
	c.o.precise = time.Date(2026, 1, 6, 3, 0, 0, 0, time.UTC) // it is open
	op = c.await(name)
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	c.inForce("buffers", "2")
}

func TestACancelledChangeIsTakenBack(t *testing.T) {
	c := newConfigured(t, "{}")
	name := c.ask(store.ConfigRequest{Set: map[string]string{"buffers": "2"}})
	for len(c.log) == 0 {
		assert.NilError(t, c.step())
	}
	_, err := store.Modify(t.Context(), c.m.store, store.KindOperation, name, func(op *store.Operation) (bool, error) { op.Cancel = true; return true, nil })
	assert.NilError(t, err)
	op := c.await(name)
	assert.Equal(t, op.State, store.OperationCancelled, op.Error)
	c.inForce("buffers", "1")
}

func TestTheSyncModeIsALabel(t *testing.T) {
	c := newConfigured(t, "{}")
	op := c.await(c.ask(store.ConfigRequest{Labels: map[string]string{api.LabelSyncMode: "off"}}))
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	assert.Equal(t, c.app().SyncMode, "off")
	op = c.await(c.ask(store.ConfigRequest{Labels: map[string]string{api.LabelSyncMode: ""}}))
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	_, there := c.o.services["pg"][0].Spec.Labels[api.LabelSyncMode]
	assert.Assert(t, !there)
	op = c.await(c.ask(store.ConfigRequest{Labels: map[string]string{api.LabelMember: "pg-9"}}))
	assert.Equal(t, op.State, store.OperationFailed)
	op = c.await(c.ask(store.ConfigRequest{}))
	assert.Equal(t, op.State, store.OperationFailed)
}

// Every call may fail, and a manager die after any: whoever leads next goes on.
func TestSettingsChangeWhateverFails(t *testing.T) {
	for seed := range uint64(60) {
		c := newConfigured(t, "{}")
		random := rand.New(rand.NewPCG(seed, 1))
		c.configs.Fail = func(call string) error {
			if call != "list" && random.IntN(4) == 0 {
				return errors.New("the Swarm has no leader")
			}
			return nil
		}
		name := ""
		changes := []map[string]string{{"connections": "200", "work_mem": "8"}, {"connections": "30", "buffers": "3"}, {"connections": "60"}}
		want := map[string]string{}
		for _, change := range changes {
			fail := c.configs.Fail
			c.configs.Fail = nil
			name = c.ask(store.ConfigRequest{Set: change})
			maps.Copy(want, change)
			for ended := false; !ended; {
				c.configs.Fail = fail
				_ = c.step()
				c.configs.Fail = nil
				if random.IntN(5) == 0 {
					c.restartManager()
				}
				ended = c.operation(name).Ended != nil
			}
			op := c.operation(name)
			assert.Equal(t, op.State, store.OperationDone, "seed %d: %s", seed, op.Error)
			for key, value := range want {
				c.inForce(key, value)
			}
		}
	}
}

func TestSettingsThatCannotBeReadAreReportedAndChangeNothing(t *testing.T) {
	o := observation()
	o.services["pg"][0].Spec.Labels[api.LabelParameters] = `{"work_mem":"8MB","sync_mode":"off"}`
	app, _ := planApplication(o, "pg", store.Application{}, false)
	assert.Equal(t, app.Parameters, `{"work_mem":"8MB"}`)
	o.services["pg"][0].Spec.Labels[api.LabelParameters] = `work_mem=9MB`
	app, _ = planApplication(o, "pg", app, true)
	assert.Equal(t, app.Parameters, `{"work_mem":"8MB"}`)
	assert.Check(t, is.Contains(app.Problems[0], "label openmanage.parameters on service pg_1 is no JSON object"))
	delete(o.services["pg"][0].Spec.Labels, api.LabelParameters)
	o.services["pg"][0].Spec.TaskTemplate.ContainerSpec.Env = []string{`OPENMANAGE_PARAMETERS={"work_mem":"7MB"}`}
	app, events := planApplication(o, "pg", app, true)
	assert.Equal(t, app.Parameters, `{"work_mem":"7MB"}`)
	assert.Equal(t, events[0].Text, `settings are to be {"work_mem":"7MB"}`)
}

func TestAnOrderedRestartIsNoFailover(t *testing.T) {
	p := newPlan(t)
	p.app.Restart = &store.MemberRestart{Member: "pg-1"}
	p.says("pg-1", func(s *api.MemberStatus) { s.Healthy, s.State, s.Role = false, api.StateStopping, "" })
	p.step()
	p.after(downAlive + 2*time.Second)
	assert.Assert(t, p.app.Handover == nil)
	p.after(restartPatience)
	assert.Assert(t, p.app.Handover != nil, "it takes too long")

	p = newPlan(t)
	p.app.Restart = &store.MemberRestart{Member: "pg-1"}
	p.says("pg-1", func(s *api.MemberStatus) { s.Healthy, s.State, s.Role = false, api.StateFailed, "" })
	p.step()
	p.after(downAlive + 2*time.Second)
	assert.Assert(t, p.app.Handover != nil, "it does not come up")
}

// Every label that is a policy can be set and taken away, and a value that those who go by
// it would report is refused before anything is written.
func TestPoliciesAreSettings(t *testing.T) {
	values := map[string]struct{ good, bad []string }{
		api.LabelSyncMode:     {[]string{"quorum", "strict", "off"}, []string{"on", "Off"}},
		api.LabelFailover:     {[]string{"true", "false"}, []string{"flase"}},
		api.LabelLease:        {[]string{"5s", "30s", "1m"}, []string{"4s", "61s", "long"}},
		api.LabelUpgradeOrder: {[]string{"primary-last", "primary-first"}, []string{"first"}},
		api.LabelWindow:       {[]string{"Sat,Sun 02:00-05:00", "* 01:00-02:00 Europe/Vienna"}, []string{"at night"}},
		api.LabelApart:        {[]string{"true", "false"}, []string{"yes"}},
		api.LabelAlertDisk:    {[]string{"1", "70", "99"}, []string{"0", "100", "much"}},
	}
	assert.DeepEqual(t, slices.Sorted(maps.Keys(values)), slices.Sorted(slices.Values(policyLabels)))
	s := serviceOf("pg", "pg-1", 1)
	s.Spec.Labels[api.LabelWindow] = "a bad one" // of before: it is no reason against another
	plan := func(label, value string) (store.Config, string) {
		state, _, problem := planConfig(store.ConfigRequest{Labels: map[string]string{label: value}}, s)
		return state, problem
	}
	for label, v := range values {
		for _, value := range v.good {
			state, problem := plan(label, value)
			assert.Equal(t, problem, "")
			assert.DeepEqual(t, state.To, map[string]string{label: value})
		}
		for _, value := range v.bad {
			_, problem := plan(label, value)
			assert.Assert(t, strings.HasPrefix(problem, "label "+label), "%s=%s: %q", label, value, problem)
		}
		state, problem := plan(label, "")
		assert.Equal(t, problem, "")
		assert.Equal(t, len(state.To), 0)
	}
	_, problem := plan(api.LabelMember, "pg-2")
	assert.Equal(t, problem, "the label openmanage.member is no setting")
}
