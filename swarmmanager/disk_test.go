package swarmmanager

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
	"github.com/openmanage/openmanage/internal/swarm"
)

const gib = 1 << 30

// room is a filesystem of 10 GiB with so many MiB free.
func room(mib int64) api.Usage {
	return api.Usage{Used: 10*gib - mib<<20, Free: mib << 20, Files: 1000, FilesFree: 900}
}

func TestDiskLevel(t *testing.T) {
	small := func(mib int64) api.Usage { return api.Usage{Used: (280 - mib) << 20, Free: mib << 20} }
	for _, tc := range []struct {
		doc     string
		usage   api.Usage
		was     store.DiskLevel
		percent int
		want    store.DiskLevel
	}{
		{doc: "half full", usage: room(5000), want: store.DiskFine},
		{doc: "at the threshold", usage: room(1536), want: store.DiskFilling},
		{doc: "just below it", usage: room(1540), want: store.DiskFine},
		{doc: "just below it, after it was reported", usage: room(1540), was: store.DiskFilling, want: store.DiskFilling},
		{doc: "well below it", usage: room(1800), was: store.DiskFilling, want: store.DiskFine},
		{doc: "a threshold of the user's", usage: room(5000), percent: 50, want: store.DiskFilling},
		{doc: "95 %", usage: room(512), want: store.DiskAlmostFull},
		{doc: "94 %", usage: room(600), want: store.DiskFilling},
		{doc: "94 % after 95", usage: room(600), was: store.DiskAlmostFull, want: store.DiskAlmostFull},
		{doc: "from full to the middle", usage: room(1000), was: store.DiskFull, want: store.DiskFilling},
		{doc: "from full to empty", usage: room(9000), was: store.DiskFull, want: store.DiskFine},
		{doc: "no space for a file of the log", usage: room(19), want: store.DiskFull},
		{doc: "a little more, after it was full", usage: room(25), was: store.DiskFull, want: store.DiskFull},
		{doc: "a little more, before it was", usage: room(25), want: store.DiskAlmostFull},
		{doc: "a small volume with 60 MiB free", usage: small(60), want: store.DiskAlmostFull},
		{doc: "a small volume with 80 MiB free", usage: small(80), want: store.DiskFine},
		{doc: "a tiny volume", usage: api.Usage{Used: 40 << 20, Free: 15 << 20}, want: store.DiskFine},
		{doc: "no more files", usage: api.Usage{Used: 1 << 30, Free: 9 << 30, Files: 1000, FilesFree: 3}, want: store.DiskFull},
		{doc: "few files left", usage: api.Usage{Used: 1 << 30, Free: 9 << 30, Files: 1000, FilesFree: 120}, want: store.DiskFilling},
		{doc: "not measured", was: store.DiskFull, want: store.DiskFull},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			if tc.percent == 0 {
				tc.percent = alertDisk
			}
			assert.Equal(t, diskLevel(tc.usage, tc.was, tc.percent), tc.want)
		})
	}
}

// disk has the node of a member report how full its volume is.
func (p *plan) disk(member string, usage api.Usage) {
	v := p.o.volumes[member]
	v.Value.Size = 10 * gib
	p.o.volumes[member] = v
	node := "n" + strings.TrimPrefix(member, "pg-")
	r := p.o.reports[node]
	r.Volumes = []api.HeldVolume{{Name: member, Epoch: 1, Mounted: true, Size: 10 * gib, Usage: usage}}
	p.o.reports[node] = r
}

func TestAFullVolumeIsReportedOnceAndUntilThereIsRoom(t *testing.T) {
	p := newPlan(t)
	p.events = nil
	p.disk("pg-1", room(1000))
	p.disk("pg-2", room(10))
	p.disk("pg-3", room(1100))
	p.step()
	assert.DeepEqual(t, p.events, []string{
		"alert pg-1 volume pg-1 is filling up: 90 % of 10GiB in use", "alert pg-2 volume pg-2 is full: 100 % of 10GiB in use", "alert pg-3 volume pg-3 is filling up: 89 % of 10GiB in use",
	})
	assert.DeepEqual(t, p.app.Problems, []string{
		"full: volume pg-2 can take no more, and the database cannot write; enlarge the volumes: docker openmanage volume expand pg --size 20GiB",
		"filling up: volumes pg-1, pg-3 with 85 % or more in use; enlarge the volumes: docker openmanage volume expand pg --size 20GiB",
	})

	// Nothing is written while it goes up and down a little, or is not measured.
	before := p.app
	p.disk("pg-1", room(1600))
	p.disk("pg-2", room(22))
	delete(p.o.reports, "n3")
	p.step()
	assert.DeepEqual(t, p.app, before)
	assert.Equal(t, len(p.events), 3)

	// A report of a former owner does not count.
	r := p.o.reports["n2"]
	r.Volumes[0].Usage, r.Volumes[0].Epoch = room(9000), 0
	p.step()
	assert.DeepEqual(t, p.app, before)

	for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
		p.disk(m, room(9000))
	}
	p.step()
	assert.Equal(t, len(p.app.Problems), 0, p.app.Problems)
	assert.Equal(t, p.events[4], "alert pg-2 volume pg-2 has room again: 12 % of 10GiB in use")
}

func TestTheThresholdIsALabel(t *testing.T) {
	p := newPlan(t)
	p.disk("pg-1", room(4000))
	p.o.services["pg"][0].Spec.Labels[api.LabelAlertDisk] = "60"
	p.step()
	assert.Equal(t, p.app.Members[0].Disk, store.DiskFilling)
	p.o.services["pg"][0].Spec.Labels[api.LabelAlertDisk] = "much"
	p.disk("pg-1", room(9000))
	p.step()
	assert.DeepEqual(t, p.app.Problems, []string{`label openmanage.alert.disk="much" on service pg_1 is no percentage; write a number from 1 to 99, 85 is in force`})
}

func TestTheSuggestedSizeIsOneThatCanBeAskedFor(t *testing.T) {
	p := newPlan(t)
	for _, tc := range []struct {
		size int64
		want string
	}{{300 << 20, "600MiB"}, {1 * gib, "2GiB"}, {15 * gib / 2, "15GiB"}, {400 * gib, "600GiB"}, {301<<20 + 4096, "603MiB"}} {
		for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
			v := p.o.volumes[m]
			v.Value.Size = tc.size
			p.o.volumes[m] = v
		}
		assert.Equal(t, expandCommand(p.o, &p.app), "docker openmanage volume expand pg --size "+tc.want)
	}
	// One that was begun and not ended is asked for again.
	p.disk("pg-1", room(10))
	v := p.o.volumes["pg-1"]
	v.Value.Size = 600 * gib
	p.o.volumes["pg-1"] = v
	assert.Equal(t, expandCommand(p.o, &p.app), "docker openmanage volume expand pg --size 600GiB")
}

func TestLittleRoomInTheStorageOfANodeIsReported(t *testing.T) {
	p := newPlan(t)
	p.events = nil
	free := func(mib int64) {
		for id, r := range p.o.reports {
			r.Storage = api.Storage{Location: "shared", Total: 100 * gib, Free: mib << 20}
			p.o.reports[id] = r
		}
		p.step()
	}
	free(1000)
	assert.DeepEqual(t, p.events, []string{"alert  the storage of node node1 has less than 1GiB free"})
	assert.Equal(t, len(p.app.Problems), 1, p.app.Problems)
	assert.Check(t, is.Contains(p.app.Problems[0], "the storage of node node1, in which volumes lie, has less than 1GiB free"))
	free(2500)
	assert.Check(t, is.Contains(p.app.Problems[0], "less than 4GiB free"))
	delete(p.o.reports, "n1") // another node speaks for the same folder
	free(1500)
	assert.Equal(t, len(p.events), 1, p.events)
	assert.Equal(t, len(p.app.Problems), 1, p.app.Problems)
	free(50000)
	assert.Equal(t, len(p.app.Problems), 0, p.app.Problems)
	assert.Equal(t, len(p.app.StorageLow), 0)
}

// ended has the server of the primary fail, and time enough pass for a failover.
func (p *plan) ended() {
	p.says("pg-1", func(s *api.MemberStatus) {
		s.Role, s.State, s.Healthy, s.Message = "", api.StateFailed, false, "volume pg-1 is full; the server ended by itself"
	})
	p.step()
	p.after(downAlive + time.Second)
}

func TestAFullDiskIsNoReasonForAnotherPrimary(t *testing.T) {
	p := newPlan(t)
	p.disk("pg-1", room(3))
	p.disk("pg-2", room(100))
	p.disk("pg-3", room(90))
	p.step()
	p.ended()
	p.after(time.Hour)
	assert.Assert(t, p.app.Handover == nil, "the standbys have no more room")
	assert.Check(t, is.Contains(strings.Join(p.app.Problems, "\n"), "its volume is full, and that of pg-2 is almost full too: it would end the same way; enlarge the volumes: docker openmanage volume expand pg --size 20GiB"))

	// Also not while its container is restarted for a larger volume.
	v := p.o.volumes["pg-1"]
	v.Value.Owner = nil
	p.o.volumes["pg-1"] = v
	p.after(time.Minute)
	assert.Assert(t, p.app.Handover == nil)
	assert.Equal(t, p.app.Members[0].Disk, store.DiskFull)

	// With room it has the time to come up that any primary has, and no more.
	v.Value.Owner = &api.Owner{Node: "n1", Hostname: "node1"}
	p.o.volumes["pg-1"] = v
	p.disk("pg-1", room(5000))
	p.step()
	p.after(downAlive - time.Second)
	assert.Assert(t, p.app.Handover == nil)
	p.after(2 * time.Second)
	assert.Assert(t, p.app.Handover != nil)
}

func TestAFullDiskOfANodeThatDiesIsNoObstacle(t *testing.T) {
	p := newPlan(t)
	for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
		p.disk(m, room(3))
	}
	p.step()
	p.dead()
	p.step()
	assert.Assert(t, p.app.Handover != nil)
	assert.Assert(t, !p.app.DiskFailover)
}

func TestWhoHasRoomTakesOverFromAFullPrimaryOnce(t *testing.T) {
	p := newPlan(t)
	p.disk("pg-1", room(3))
	p.disk("pg-2", room(5000))
	p.disk("pg-3", room(5000))
	p.step()
	p.ended()
	assert.Assert(t, p.app.Handover != nil, "pg-2 has room")
	p.obey("pg-1", "pg-2", "pg-3")
	p.step()
	assert.Equal(t, p.app.Primary, "pg-2")
	p.obey("pg-2", "pg-3")
	p.says("pg-3", func(s *api.MemberStatus) { s.Streaming, s.Healthy = true, true })
	p.step()

	// That one fills up too.
	p.disk("pg-2", room(3))
	p.step()
	p.says("pg-2", func(s *api.MemberStatus) { s.Role, s.State, s.Healthy = "", api.StateFailed, false })
	p.step()
	p.after(time.Minute)
	assert.Assert(t, p.app.Handover == nil)
	assert.Check(t, is.Contains(strings.Join(p.app.Problems, "\n"), "there is one change for that and no second"))

	// Once there is room everywhere, all begins anew.
	p.disk("pg-1", room(5000))
	p.disk("pg-2", room(5000))
	p.step()
	assert.Assert(t, !p.app.DiskFailover)
}

func TestAMemberWithoutRoomNeedsNoTurnToLeave(t *testing.T) {
	p := newPlan(t)
	for _, m := range []string{"pg-2", "pg-3"} {
		p.disk(m, room(3))
		p.says(m, func(s *api.MemberStatus) { s.Healthy, s.Streaming, s.Leaving = false, false, true })
	}
	p.says("pg-1", func(s *api.MemberStatus) { s.Healthy = false })
	p.step()
	p.step()
	for _, m := range p.app.Members[1:] {
		assert.Assert(t, m.Left, m.Name)
	}
}

// expanding is a leader with an expansion of pg to 20 GiB under way, whose volumes
// can only grow before a mount.
type expanding struct {
	*plan
	m       *Manager
	op      store.Record[store.Operation]
	updated []string
}

func startExpanding(t *testing.T, p *plan) *expanding {
	t.Helper()
	e := &expanding{plan: p}
	docker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var spec dockerswarm.ServiceSpec
		if path.Base(r.URL.Path) != "update" || json.NewDecoder(r.Body).Decode(&spec) != nil {
			_, _ = w.Write([]byte("{}"))
			return
		}
		e.updated = append(e.updated, spec.Name)
		for i := range p.o.services["pg"] {
			if s := &p.o.services["pg"][i]; s.Spec.Name == spec.Name {
				s.Spec.TaskTemplate.ForceUpdate = spec.TaskTemplate.ForceUpdate
			}
		}
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(docker.Close)
	c, err := client.New(client.WithHost(strings.Replace(docker.URL, "http://", "tcp://", 1)))
	assert.NilError(t, err)
	e.m = &Manager{docker: c, services: c, store: store.New(&storetest.Configs{}), log: hclog.NewNullLogger(), nodes: newNodeView(swarm.New(&fakeSwarm{}))}
	e.m.leadership = newLeadership("m1", "test", bootClock)
	e.m.apps = newApplications(e.m)
	_, err = store.Create(t.Context(), e.m.store, store.KindApplication, "pg", p.app)
	assert.NilError(t, err)
	for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
		v := p.o.volumes[m]
		v.Value.Size = 20 * gib
		p.o.volumes[m] = v
		p.grown(m, false)
	}
	e.op, err = store.Create(t.Context(), e.m.store, store.KindOperation, "pg.1", store.Operation{
		Kind: store.OperationExpand, Target: "pg", By: "me", State: store.OperationRequested, Request: `{"size":21474836480}`,
	})
	assert.NilError(t, err)
	return e
}

// grown says whether the volume of a member has been mounted again.
func (p *plan) grown(member string, is bool) {
	node := "n" + strings.TrimPrefix(member, "pg-")
	r := p.o.reports[node]
	h := &r.Volumes[0]
	h.Size, h.GrowsAtMount = 10*gib, true
	if is {
		h.Size, h.GrowsAtMount, h.Usage = 20*gib, false, room(5000)
	}
}

func (e *expanding) turn() store.Operation {
	e.t.Helper()
	e.step()
	// A step takes as long as it takes; the clock of its words is the machine's.
	e.o.now = time.Now().UTC()
	e.o.records["pg"] = store.Record[store.Application]{Name: "pg", Value: e.app}
	assert.NilError(e.t, e.m.expand(context.Background(), e.o, e.op))
	e.op = e.m.reread(e.t.Context(), e.op)
	return e.op.Value
}

func TestMembersThatAreDownForWantOfRoomAreRestartedFirst(t *testing.T) {
	p := newPlan(t)
	for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
		p.disk(m, room(3))
	}
	p.step()
	p.ended()
	p.says("pg-2", func(s *api.MemberStatus) { s.Healthy, s.Streaming = false, false })
	p.says("pg-3", func(s *api.MemberStatus) { s.Healthy, s.Streaming = false, false })
	e := startExpanding(t, p)
	op := e.turn()
	assert.Equal(t, op.State, store.OperationRunning, op.Error)
	assert.DeepEqual(t, e.updated, []string{"pg_1", "pg_2", "pg_3"})
	assert.Equal(t, op.Step, "restarting pg-1, pg-2, pg-3, whose volumes have no room")

	// Whoever leads next does not restart them once more.
	e.turn()
	assert.Equal(t, len(e.updated), 3)
	p.grown("pg-2", true)
	p.grown("pg-3", true)
	v := p.o.volumes["pg-1"]
	owner := v.Value.Owner
	v.Value.Owner = nil // on its way
	p.o.volumes["pg-1"] = v
	assert.Equal(t, e.turn().State, store.OperationRunning, "pg-1 is not mounted again yet")
	v.Value.Owner = owner
	p.o.volumes["pg-1"] = v
	p.grown("pg-1", true)
	assert.Equal(t, e.turn().State, store.OperationDone)
	assert.Assert(t, p.app.Handover == nil)
}

func TestAHealthyPrimaryWithoutRoomStillHandsOver(t *testing.T) {
	p := newPlan(t)
	for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
		p.disk(m, room(3))
	}
	p.step()
	for _, m := range []string{"pg-2", "pg-3"} {
		p.says(m, func(s *api.MemberStatus) { s.Healthy, s.Streaming = false, false })
	}
	e := startExpanding(t, p)
	e.turn()
	assert.DeepEqual(t, e.updated, []string{"pg_2", "pg_3"})
	for _, m := range []string{"pg-2", "pg-3"} {
		p.grown(m, true)
		p.says(m, func(s *api.MemberStatus) { s.Healthy, s.Streaming = true, true })
	}
	op := e.turn()
	assert.Equal(t, op.State, store.OperationRunning, op.Error)
	assert.Check(t, is.Contains(op.Step, "handing over from pg-1 to pg-"))

	// It cannot stop in order without room, and is restarted as it is.
	e.app.LastChange, e.app.LastFrom = "pg.1", "pg-1"
	e.turn()
	assert.DeepEqual(t, e.updated, []string{"pg_2", "pg_3", "pg_1"})
}

func TestOthersThatAreNotHealthyStillStopAnExpansion(t *testing.T) {
	p := newPlan(t)
	for _, m := range []string{"pg-1", "pg-2", "pg-3"} {
		p.disk(m, room(5000))
	}
	p.says("pg-2", func(s *api.MemberStatus) { s.Healthy = false })
	p.step()
	e := startExpanding(t, p)
	op := e.turn()
	assert.Equal(t, op.State, store.OperationFailed)
	assert.Check(t, is.Contains(op.Error, "not begun: pg-2 not healthy"))
	assert.Equal(t, len(e.updated), 0)
}

func TestHowFullAVolumeIsIsNoNewsToActOnAtOnce(t *testing.T) {
	l := newLeases(bootClock)
	report := func(u api.Usage) api.Report {
		return api.Report{Volumes: []api.HeldVolume{{Name: "pg-1", Epoch: 1, Mounted: true, Usage: u}}}
	}
	assert.DeepEqual(t, l.hear("n1", heard{report: report(room(100))}), []string{"pg-1"})
	assert.Equal(t, len(l.hear("n1", heard{report: report(room(99))})), 0, "it changes all the time")
	assert.DeepEqual(t, l.volumes(), []api.LiveVolume{{Node: "n1", HeldVolume: report(room(99)).Volumes[0]}})
}
