package swarmmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/api/types/container"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
	"github.com/openmanage/openmanage/internal/swarm"
)

// An operation is run by a manager that dies at one of its writes, to a record or to
// a service, before the write or right after it, and the next one goes on with
// nothing but what is there. Every write of every operation has its turn. Swarm and
// members are played by world; the executors, the planner and the store are real.

var errDead = errors.New("the manager is dead")

// world is a Swarm with the application pg, on three nodes.
type world struct {
	t       *testing.T
	records storetest.Configs
	store   *store.Store // of the members' nodes: never dies
	list    []*dockerswarm.Service
	members map[string]*played
	now     time.Time
	version uint64
	// bad are images with which no server comes up: the state it stays in, by image.
	bad map[string]api.MemberState
	// slow is when it comes up after all; zero: never.
	slow time.Time

	writes int // by managers
	doom   int // the write at which the manager dies; 0: none
	after  bool
	dead   bool
	deaths int
	starts map[string]int // containers, by member
	tasks  int
	copies int // of data, by Rebuild
	// noSnapshots: no node can make one. deaf: none carries out such an order.
	noSnapshots, deaf bool
	writer            []string // what was written, for the log
}

// played is a member, its node and its container.
type played struct {
	status    api.MemberStatus
	running   uint64 // version of the task's spec that the container is of; 0: it has none
	image     string // of it, with its digest
	spec      string
	snapshots []string
	stray     string // why its data cannot be made to follow
}

func newWorld(t *testing.T, edit ...func(*dockerswarm.ServiceSpec)) *world {
	w := &world{t: t, members: map[string]*played{}, now: time.Now().UTC().Truncate(time.Second), bad: map[string]api.MemberState{}, starts: map[string]int{}}
	w.store = store.New(&w.records)
	for i := 1; i <= 3; i++ {
		member := fmt.Sprintf("pg-%d", i)
		spec := memberSpec(template(), "pg-3", member, 1<<30)
		spec.Labels[api.LabelType] = "postgresql"
		spec.TaskTemplate.ContainerSpec.Image = "postgres:17"
		for _, do := range edit {
			do(&spec)
		}
		w.create(spec)
		_, err := store.Create(t.Context(), w.store, store.KindVolume, member, api.Volume{
			VolumeSpec: api.VolumeSpec{Name: member, Application: "pg", Member: member, Size: 1 << 30}, Phase: api.PhaseReady, Location: "shared", Device: member + ".img", UUID: "uuid of " + member,
		})
		assert.NilError(t, err)
	}
	m := w.manager()
	w.until(&m, "a healthy application", func(app store.Application) bool {
		return len(app.Members) == 3 && len(unhealthy(app)) == 0 && (app.SyncInForce || app.NoRoles)
	})
	clear(w.starts)
	w.writes = 0
	return w
}

// manager is a process that has just become the leader.
func (w *world) manager() *Manager {
	mortal := &mortal{w}
	m := &Manager{services: mortal, log: hclog.NewNullLogger(), store: store.New(mortal), cluster: swarm.New(&fakeSwarm{})}
	m.leadership = newLeadership("m1", "test", bootClock)
	m.leadership.leading, m.leadership.lastBeat = true, bootClock()+time.Hour
	m.leases, m.pulls, m.nodes = newLeases(bootClock), newPulls(bootClock), newNodeView(m.cluster)
	m.volumes = &volumes{store: m.store, cluster: m.cluster, leases: m.leases, leadership: m.leadership, nodes: m.nodes, now: bootClock, log: m.log}
	m.apps = newApplications(m)
	return m
}

// until lets managers and members act until app is as wanted. A manager that has
// died is followed by another.
func (w *world) until(m **Manager, what string, done func(store.Application) bool) store.Application {
	w.t.Helper()
	for range 1000 {
		w.now = w.now.Add(500 * time.Millisecond)
		err := w.round(*m)
		switch {
		case w.dead:
			w.dead, w.doom = false, 0
			w.deaths++
			*m = w.manager()
		case err != nil:
			w.t.Fatalf("%s: %v", what, err)
		}
		app := w.application()
		if done(app) {
			return app
		}
		w.act(app)
	}
	w.t.Fatalf("%s: not reached: %+v\n%s", what, w.application(), strings.Join(w.writer, "\n"))
	return store.Application{}
}

func (w *world) application() store.Application {
	r, err := store.Get[store.Application](w.t.Context(), w.store, store.KindApplication, "pg")
	if !errors.Is(err, store.ErrNotFound) {
		assert.NilError(w.t, err)
	}
	return r.Value
}

// round is one observation of a manager and what it does about it.
func (w *world) round(m *Manager) error {
	ctx := w.t.Context()
	m.volumes.cache = nil
	o := observation()
	o.services, o.statuses = map[string][]dockerswarm.Service{}, map[string]liveStatus{}
	o.precise, o.now = w.now, w.now.Truncate(time.Second)
	for _, s := range w.list {
		o.services["pg"] = append(o.services["pg"], *s)
	}
	report := api.Report{Storage: api.Storage{Location: "shared", Reflink: !w.noSnapshots}}
	for name, p := range w.members {
		if p.running != 0 {
			o.statuses[name] = liveStatus{node: "n1", MemberStatus: p.status}
			report.Volumes = append(report.Volumes, api.HeldVolume{Name: name, Mounted: true, Size: 5 << 30})
		}
		for _, device := range p.snapshots {
			report.Snapshots = append(report.Snapshots, api.SnapshotResult{Device: device})
		}
	}
	o.reports["n1"] = report
	var pulled []api.PullResult
	for _, order := range m.pulls.orders("n1") {
		pulled = append(pulled, api.PullResult{PullOrder: order, Done: true})
	}
	m.leases.hearHelper("n1", api.HelperReport{Pulls: pulled})
	var err error
	if o.volumes, err = m.volumes.all(ctx); err != nil {
		return err
	}
	_, orders := m.volumeOrders(report, slices.Collect(maps.Keys(w.members)), o.volumes)
	for _, order := range orders {
		if w.deaf {
			break
		}
		w.members[order.Name].snapshots = append(w.members[order.Name].snapshots, order.Device)
	}
	var helper api.HelperReport
	for _, order := range m.pulls.orders("n1") {
		helper.Pulls = append(helper.Pulls, api.PullResult{PullOrder: order, Done: true})
	}
	m.leases.hearHelper("n1", helper)
	records, err := store.List[store.Application](ctx, m.store, store.KindApplication)
	if err != nil {
		return err
	}
	o.records = map[string]store.Record[store.Application]{}
	for _, r := range records {
		o.records[r.Name] = r
	}
	return errors.Join(m.apps.reconcileOne(ctx, o, "pg"), m.operate(ctx, o))
}

// act lets every member do one thing.
func (w *world) act(app store.Application) {
	wanted := map[string]bool{}
	for _, s := range w.list {
		name := memberName(*s)
		p := w.members[name]
		if p == nil {
			p = &played{status: api.MemberStatus{Application: "pg", Member: name, Volume: name, Timeline: 1, Position: 1000, SystemID: "42", Initialized: true, Named: true}}
			w.members[name] = p
		}
		spec, err := json.Marshal(s.Spec.TaskTemplate)
		assert.NilError(w.t, err)
		wanted[name] = replicas(*s) == 1
		switch {
		case p.running != 0 && (p.spec != string(spec) || !wanted[name]):
			p.running = 0 // stopped
			p.status.Role, p.status.Healthy, p.status.Streaming = "", false, false
			w.own(name, nil)
		case p.running == 0 && wanted[name]:
			p.running, p.spec = s.Version.Index, string(spec)
			w.tasks++
			p.status.Task = fmt.Sprintf("task %d", w.tasks)
			p.image = s.Spec.TaskTemplate.ContainerSpec.Image
			p.status.Image, _, _ = strings.Cut(p.image, "@")
			p.status.State = api.StateStarting
			w.starts[name]++
			if w.volume(name).Device != name+".img" {
				p.stray = "" // it is another's data
			}
			w.own(name, &api.Owner{Node: "n1", Hostname: "node1"})
		case p.running != 0:
			w.obey(app, p)
		}
	}
	for name, p := range w.members {
		if _, there := wanted[name]; !there && p.running != 0 {
			p.running = 0
			w.own(name, nil)
		}
	}
}

func (w *world) volume(name string) api.Volume {
	r, err := store.Get[api.Volume](w.t.Context(), w.store, store.KindVolume, name)
	if !errors.Is(err, store.ErrNotFound) {
		assert.NilError(w.t, err)
	}
	return r.Value
}

// own is attach and release.
func (w *world) own(volume string, owner *api.Owner) {
	_, err := store.Modify(w.t.Context(), w.store, store.KindVolume, volume, func(v *api.Volume) (bool, error) {
		v.Owner = owner
		return true, nil
	})
	if errors.Is(err, store.ErrNotFound) {
		_, err = store.Create(w.t.Context(), w.store, store.KindVolume, volume, api.Volume{VolumeSpec: api.VolumeSpec{Name: volume, Application: "pg", Member: volume}, Owner: owner})
	}
	assert.NilError(w.t, err)
}

// obey has a member act on the orders that follow from the record.
func (w *world) obey(app store.Application, p *played) {
	s := &p.status
	if state := w.bad[p.image]; state != "" && (w.slow.IsZero() || w.now.Before(w.slow)) {
		s.State, s.Message = state, "no server with this image"
		return
	}
	orders := ordersOf(&app, s.Member)
	if orders.Role == "" {
		return
	}
	s.Term, s.State, s.Message, s.NeedsCopy = orders.Term, api.StateRunning, "", ""
	switch {
	case orders.Fenced != "":
		s.Role, s.Healthy, s.Streaming, s.State, s.SyncNames = "", false, false, api.StateFenced, ""
	case orders.Rebuild != "" && s.Rebuilt != orders.Rebuild:
		w.copies++
		p.stray = ""
		s.Rebuilt, s.Healthy, s.Streaming, s.State = orders.Rebuild, false, false, api.StateJoining
	case p.stray != "" && orders.CopyOnOrder:
		s.Role, s.Healthy, s.Streaming, s.State, s.NeedsCopy = "", false, false, api.StateJoining, p.stray
	case orders.Role == api.RoleMember:
		s.Role, s.Healthy = api.RoleMember, true
	case orders.Role == api.RolePrimary:
		s.Role, s.Healthy, s.Streaming, s.SyncNames = api.RolePrimary, true, false, strings.Join(orders.Sync, ",")
	case orders.Primary == "" && s.Role == api.RolePrimary:
		s.Role, s.Healthy, s.State = "", false, api.StateWaiting
	case orders.Primary == "":
		s.Healthy, s.Streaming = false, false
	default:
		s.Role, s.Healthy, s.Streaming, s.SyncNames = api.RoleStandby, true, true, ""
	}
}

func (w *world) create(spec dockerswarm.ServiceSpec) {
	w.version++
	s := &dockerswarm.Service{ID: "id-" + spec.Name, Spec: spec}
	s.Version.Index = w.version
	w.list = append(w.list, s)
}

// mortal is the Docker client of managers: the API of services, and that of records.
type mortal struct{ w *world }

// write does what a manager writes, unless it dies of it.
func (m *mortal) write(what string, do func() error) error {
	w := m.w
	if w.dead {
		return errDead
	}
	w.writes++
	w.writer = append(w.writer, fmt.Sprintf("%d. %s", w.writes, what))
	if w.writes != w.doom {
		return do()
	}
	w.dead = true
	if w.after {
		assert.NilError(w.t, do())
	}
	return errDead
}

func (m *mortal) ServiceCreate(_ context.Context, o client.ServiceCreateOptions) (client.ServiceCreateResult, error) {
	return client.ServiceCreateResult{}, m.write("service create "+o.Spec.Name, func() error {
		if slices.ContainsFunc(m.w.list, func(s *dockerswarm.Service) bool { return s.Spec.Name == o.Spec.Name }) {
			return fmt.Errorf("service %s: %w", o.Spec.Name, cerrdefs.ErrAlreadyExists)
		}
		m.w.create(o.Spec)
		return nil
	})
}

func (m *mortal) ServiceUpdate(_ context.Context, id string, o client.ServiceUpdateOptions) (client.ServiceUpdateResult, error) {
	return client.ServiceUpdateResult{}, m.write("service update "+id, func() error {
		i := slices.IndexFunc(m.w.list, func(s *dockerswarm.Service) bool { return s.ID == id })
		if i < 0 {
			return fmt.Errorf("service %s: %w", id, cerrdefs.ErrNotFound)
		}
		s := m.w.list[i]
		if s.Version != o.Version {
			return errors.New("update out of sequence")
		}
		before := s.Spec
		s.Spec = o.Spec
		if o.Rollback == "previous" {
			s.Spec = *s.PreviousSpec
		}
		m.w.version++
		s.PreviousSpec, s.Version.Index = &before, m.w.version
		return nil
	})
}

func (m *mortal) ServiceRemove(_ context.Context, id string, _ client.ServiceRemoveOptions) (client.ServiceRemoveResult, error) {
	return client.ServiceRemoveResult{}, m.write("service remove "+id, func() error {
		m.w.list = slices.DeleteFunc(m.w.list, func(s *dockerswarm.Service) bool { return s.ID == id })
		return nil
	})
}

func (m *mortal) ConfigCreate(ctx context.Context, o client.ConfigCreateOptions) (result client.ConfigCreateResult, err error) {
	err = m.write("record "+o.Spec.Name, func() (err error) {
		result, err = m.w.records.ConfigCreate(ctx, o)
		return err
	})
	return result, err
}

func (m *mortal) ConfigUpdate(ctx context.Context, id string, o client.ConfigUpdateOptions) (client.ConfigUpdateResult, error) {
	return client.ConfigUpdateResult{}, m.write("record "+o.Spec.Name, func() error {
		_, err := m.w.records.ConfigUpdate(ctx, id, o)
		return err
	})
}

func (m *mortal) ConfigRemove(ctx context.Context, id string, o client.ConfigRemoveOptions) (client.ConfigRemoveResult, error) {
	return client.ConfigRemoveResult{}, m.write("record gone "+id, func() error {
		_, err := m.w.records.ConfigRemove(ctx, id, o)
		return err
	})
}

func (m *mortal) ConfigInspect(ctx context.Context, id string, o client.ConfigInspectOptions) (client.ConfigInspectResult, error) {
	if m.w.dead {
		return client.ConfigInspectResult{}, errDead
	}
	return m.w.records.ConfigInspect(ctx, id, o)
}

func (m *mortal) ConfigList(ctx context.Context, o client.ConfigListOptions) (client.ConfigListResult, error) {
	if m.w.dead {
		return client.ConfigListResult{}, errDead
	}
	return m.w.records.ConfigList(ctx, o)
}

// An image that does not come up is rolled back as soon as that is certain.
func TestAnUpgradeThatCannotWorkIsRolledBackSoon(t *testing.T) {
	for _, tc := range []struct {
		doc    string
		state  api.MemberState
		within time.Duration
		why    string
	}{
		{doc: "its data is of another major version", state: api.StateFailed, within: time.Minute, why: "postgres:bad@sha256:00: no server with this image"},
		{doc: "its server hangs", state: api.StateStarting, within: 3 * time.Minute, why: "its server does not answer, 2m0s after its start: no server with this image"},
		{doc: "its programs hang", state: api.StateWaiting, within: 3 * time.Minute, why: "its server does not answer, 2m0s after its start: no server with this image"},
		{doc: "its server never follows", state: api.StateJoining, within: 6 * time.Minute, why: "it is not healthy after 5m0s"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			w := newWorld(t)
			w.bad["postgres:bad@sha256:00"] = tc.state
			began := w.now
			op := w.operation(store.OperationUpgrade, store.RollRequest{Image: "postgres:bad@sha256:00"})
			assert.Equal(t, op.State, store.OperationFailed)
			assert.Check(t, is.Contains(op.Error, tc.why))
			assert.Check(t, is.Contains(op.Error, "It was rolled back and is healthy; no other member was changed"))
			assert.Assert(t, w.now.Sub(began) < tc.within, "%s", w.now.Sub(began))
			assert.Equal(t, w.application().Primary, "pg-1")
			assert.DeepEqual(t, w.starts, map[string]int{"pg-3": 2})
		})
	}
}

// A tag can name another image than before: what the member says of it is the same for both.
func TestAnUpgradeWithinATagIsRolledBackToo(t *testing.T) {
	w := newWorld(t)
	w.bad["postgres:17@sha256:bad"] = api.StateFailed
	began := w.now
	op := w.operation(store.OperationUpgrade, store.RollRequest{Image: "postgres:17@sha256:bad"})
	assert.Equal(t, op.State, store.OperationFailed)
	assert.Check(t, is.Contains(op.Error, "It was rolled back and is healthy; no other member was changed"))
	assert.Assert(t, w.now.Sub(began) < time.Minute, "%s", w.now.Sub(began))
}

// A server that converts its data, or reads it all, is not taken for one that hangs. Only of databases
// with roles is it known that one that was stopped in order has nothing to do.
func TestAnUpgradeOfEqualsWaitsForASlowStart(t *testing.T) {
	w := newWorld(t, func(spec *dockerswarm.ServiceSpec) { spec.Labels[api.LabelRoles] = rolesNone })
	w.bad["postgres:slow@sha256:00"], w.slow = api.StateStarting, w.now.Add(4*time.Minute)
	op := w.operation(store.OperationUpgrade, store.RollRequest{Image: "postgres:slow@sha256:00"})
	assert.Equal(t, op.State, store.OperationDone, op.Error)
	assert.DeepEqual(t, w.starts, map[string]int{"pg-1": 1, "pg-2": 1, "pg-3": 1})
}

// Who wrote the stack knows better how long its server may take.
func TestAnUpgradeWaitsAsLongAsTheHealthCheckDoes(t *testing.T) {
	for _, takes := range []time.Duration{6 * time.Minute, 0} {
		w := newWorld(t, func(spec *dockerswarm.ServiceSpec) {
			spec.TaskTemplate.ContainerSpec.Healthcheck = &container.HealthConfig{StartPeriod: 7 * time.Minute}
			spec.Labels[api.LabelRoles] = rolesNone
		})
		w.bad["postgres:slow@sha256:00"] = api.StateStarting
		if takes > 0 {
			w.slow = w.now.Add(takes)
		}
		op := w.operation(store.OperationUpgrade, store.RollRequest{Image: "postgres:slow@sha256:00"})
		if takes > 0 {
			assert.Equal(t, op.State, store.OperationDone, op.Error)
			assert.DeepEqual(t, w.starts, map[string]int{"pg-1": 1, "pg-2": 1, "pg-3": 1})
		} else {
			assert.Check(t, is.Contains(op.Error, "it is not healthy after 7m0s"))
		}
	}
}

// operation runs one to its end.
func (w *world) operation(kind string, request any) store.Operation {
	w.t.Helper()
	text, err := json.Marshal(request)
	assert.NilError(w.t, err)
	name := store.OperationName("pg")
	_, err = store.Create(w.t.Context(), w.store, store.KindOperation, name, store.Operation{Kind: kind, Target: "pg", By: "test", State: store.OperationRequested, Request: string(text), Started: w.now})
	assert.NilError(w.t, err)
	m := w.manager()
	get := func() store.Operation {
		r, err := store.Get[store.Operation](w.t.Context(), w.store, store.KindOperation, name)
		assert.NilError(w.t, err)
		return r.Value
	}
	w.until(&m, kind, func(store.Application) bool { return get().Ended != nil && !w.dead })
	op := get()
	// What was written last may be what the last manager died of.
	before, same := store.Application{}, 0
	w.until(&m, "peace", func(app store.Application) bool {
		if same++; !sameApplication(before, app) {
			before, same = app, 0
		}
		return same > 3 && app.Handover == nil && (kind == store.OperationStop || kind == store.OperationFence || len(unhealthy(app)) == 0)
	})
	return op
}

func TestAnOperationIsFinishedByWhoeverLeadsNext(t *testing.T) {
	images := func(w *world) string {
		var all []string
		for _, s := range w.list {
			all = append(all, memberName(*s)+" "+s.Spec.TaskTemplate.ContainerSpec.Image)
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	once := map[string]int{"pg-1": 1, "pg-2": 1, "pg-3": 1}
	for _, tc := range []struct {
		doc     string
		kind    string
		request any
		before  func(w *world)
		check   func(t *testing.T, w *world, op store.Operation, app store.Application)
		fails   string
	}{
		{
			doc: "switchover", kind: store.OperationSwitchover, request: store.SwitchoverRequest{To: "pg-3"},
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.Equal(t, app.Primary, "pg-3")
				assert.Equal(t, len(w.starts), 0)
			},
		},
		{
			doc: "restart", kind: store.OperationRestart, request: store.RollRequest{},
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.DeepEqual(t, w.starts, once)
				assert.Assert(t, app.Primary != "pg-1")
			},
		},
		{
			doc: "upgrade", kind: store.OperationUpgrade, request: store.RollRequest{Image: "postgres:17.9@sha256:00"},
			check: func(t *testing.T, w *world, _ store.Operation, _ store.Application) {
				assert.DeepEqual(t, w.starts, once)
				assert.Equal(t, images(w), "pg-1 postgres:17.9@sha256:00, pg-2 postgres:17.9@sha256:00, pg-3 postgres:17.9@sha256:00")
			},
		},
		{
			doc: "upgrade that fails", kind: store.OperationUpgrade, request: store.RollRequest{Image: "postgres:bad@sha256:00"},
			before: func(w *world) { w.bad["postgres:bad@sha256:00"] = api.StateFailed },
			fails:  "It was rolled back and is healthy; no other member was changed",
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.DeepEqual(t, w.starts, map[string]int{"pg-3": 2})
				assert.Equal(t, images(w), "pg-1 postgres:17, pg-2 postgres:17, pg-3 postgres:17")
				assert.Equal(t, app.Primary, "pg-1")
			},
		},
		{
			doc: "scale out", kind: store.OperationScale, request: store.ScaleRequest{Members: 5},
			check: func(t *testing.T, w *world, op store.Operation, app store.Application) {
				assert.Equal(t, len(app.Members), 5)
				assert.DeepEqual(t, w.starts, map[string]int{"pg-4": 1, "pg-5": 1})
				var made int
				for _, p := range w.members {
					made += len(p.snapshots)
				}
				assert.Equal(t, made, 2, "snapshots that nobody uses: %+v", op.Steps)
			},
		},
		{
			doc: "scale in", kind: store.OperationScale, request: store.ScaleRequest{Members: 1},
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.Equal(t, images(w), "pg-1 postgres:17")
				assert.Equal(t, len(w.starts), 0)
				for _, name := range []string{"pg-2", "pg-3"} {
					v, err := store.Get[api.Volume](t.Context(), w.store, store.KindVolume, name)
					assert.NilError(t, err, "the volume is kept")
					assert.Assert(t, v.Value.Owner == nil)
				}
			},
		},
		{
			doc: "scale in by the primary", kind: store.OperationScale, request: store.ScaleRequest{Remove: "pg-1"},
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.Equal(t, images(w), "pg-2 postgres:17, pg-3 postgres:17")
			},
		},
		{
			doc: "stop", kind: store.OperationStop, request: struct{}{},
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.Equal(t, app.Primary, "pg-1")
				for _, s := range w.list {
					assert.Equal(t, replicas(*s), uint64(0))
				}
			},
		},
		{
			doc: "start", kind: store.OperationStart, request: struct{}{},
			before: func(w *world) { w.operation(store.OperationStop, struct{}{}) },
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.DeepEqual(t, w.starts, once)
				assert.Equal(t, app.Primary, "pg-1")
			},
		},
		{
			doc: "fence", kind: store.OperationFence, request: store.MemberRequest{Member: "pg-2"},
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.Equal(t, w.members["pg-2"].status.State, api.StateFenced)
				assert.Equal(t, app.Primary, "pg-1")
				assert.DeepEqual(t, app.Sync, []string{"pg-3"})
			},
		},
		{
			doc: "unfence", kind: store.OperationUnfence, request: store.MemberRequest{Member: "pg-2"},
			before: func(w *world) { w.operation(store.OperationFence, store.MemberRequest{Member: "pg-2"}) },
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.Equal(t, w.members["pg-2"].status.State, api.StateRunning)
				assert.DeepEqual(t, app.Sync, []string{"pg-2", "pg-3"})
			},
		},
		{
			doc: "rebuild", kind: store.OperationRebuild, request: store.MemberRequest{Member: "pg-2"},
			before: func(w *world) { w.noSnapshots = true },
			check: func(t *testing.T, w *world, _ store.Operation, app store.Application) {
				assert.Equal(t, w.copies, 1)
				assert.DeepEqual(t, app.Sync, []string{"pg-2", "pg-3"})
				assert.Equal(t, len(w.starts), 0)
			},
		},
		{
			doc: "rebuild by a snapshot", kind: store.OperationRebuild, request: store.MemberRequest{Member: "pg-2"},
			check: func(t *testing.T, w *world, op store.Operation, app store.Application) {
				assert.Equal(t, w.copies, 0)
				assert.DeepEqual(t, app.Sync, []string{"pg-2", "pg-3"})
				assert.DeepEqual(t, w.starts, map[string]int{"pg-2": 1})
				assert.DeepEqual(t, w.members["pg-3"].snapshots, []string{op.Reseed.Device})
				v, err := store.Get[api.Volume](t.Context(), w.store, store.KindVolume, "pg-2")
				assert.NilError(t, err)
				assert.Equal(t, v.Value.Device, op.Reseed.Device)
				assert.Equal(t, v.Value.Former, "pg-2.img")
				assert.Equal(t, v.Value.UUID, "uuid of pg-3")
			},
		},
		{
			doc: "expand", kind: store.OperationExpand, request: store.ExpandRequest{Size: 2 << 30},
			check: func(t *testing.T, w *world, _ store.Operation, _ store.Application) {
				for name := range once {
					v, err := store.Get[api.Volume](t.Context(), w.store, store.KindVolume, name)
					assert.NilError(t, err)
					assert.Equal(t, v.Value.Size, int64(2<<30))
				}
			},
		},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			run := func(t *testing.T, doom int, after bool) *world {
				w := newWorld(t)
				if tc.before != nil {
					tc.before(w)
				}
				w.writes, w.writer, w.doom, w.after = 0, nil, doom, after
				op := w.operation(tc.kind, tc.request)
				if tc.fails == "" {
					assert.Equal(t, op.State, store.OperationDone, op.Error)
				} else {
					assert.Equal(t, op.State, store.OperationFailed)
					assert.Check(t, is.Contains(op.Error, tc.fails))
				}
				tc.check(t, w, op, w.application())
				return w
			}
			whole := run(t, 0, false)
			assert.Equal(t, whole.deaths, 0)
			for doom := 1; doom <= whole.writes; doom++ {
				for _, after := range []bool{false, true} {
					when := map[bool]string{false: "before", true: "after"}[after]
					t.Run(when+" "+whole.writer[doom-1], func(t *testing.T) {
						w := run(t, doom, after)
						assert.Equal(t, w.deaths, 1, "nobody died")
					})
				}
			}
		})
	}
}
