package swarmmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/api/types/mount"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/delta"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
	"github.com/openmanage/openmanage/internal/swarm"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// thousand is a manager that leads a Swarm of three nodes with many applications of
// three members each, all of which run. What the Docker client would decode is
// decoded, since that is most of what a list costs.
type thousand struct {
	*Manager
	docker  *jsonSwarm
	configs *storetest.Configs
	reports map[string]api.Report // by node
	senders map[string]*delta.Sender
}

// jsonSwarm answers lists of a Swarm from JSON, as Docker's API does.
type jsonSwarm struct {
	mu                     sync.Mutex
	services, nodes, tasks []byte
	by                     map[string][][]byte // services by ID and by "label=value"
	calls                  map[string]int
}

func (j *jsonSwarm) list(call string, doc []byte, into any) error {
	j.mu.Lock()
	if j.calls == nil {
		j.calls = map[string]int{}
	}
	j.calls[call]++
	j.mu.Unlock()
	return json.Unmarshal(doc, into)
}

func (j *jsonSwarm) NodeList(context.Context, client.NodeListOptions) (r client.NodeListResult, err error) {
	return r, j.list("nodes", j.nodes, &r.Items)
}

func (j *jsonSwarm) ServiceList(_ context.Context, o client.ServiceListOptions) (r client.ServiceListResult, err error) {
	doc := j.services
	if of := filtered(o.Filters, "label", "id"); len(of) > 0 {
		doc = j.some(of)
	}
	return r, j.list("services", doc, &r.Items)
}

func filtered(filters client.Filters, terms ...string) (values []string) {
	for _, term := range terms {
		values = append(values, slices.Collect(maps.Keys(filters[term]))...)
	}
	return values
}

func (j *jsonSwarm) TaskList(_ context.Context, o client.TaskListOptions) (r client.TaskListResult, err error) {
	if filtered(o.Filters, "service") != nil {
		return r, j.list("some tasks", []byte("[]"), &r.Items)
	}
	return r, j.list("tasks", j.tasks, &r.Items)
}

// some are the services of which of says an ID or "label=value".
func (j *jsonSwarm) some(of []string) []byte {
	return append(append([]byte("["), bytes.Join(j.each(of), []byte(","))...), ']')
}

func (j *jsonSwarm) each(of []string) (docs [][]byte) {
	for _, value := range of {
		docs = append(docs, j.by[value]...)
	}
	return docs
}

// jsonConfigs are configs whose lists cost what decoding them costs.
type jsonConfigs struct {
	*storetest.Configs
	mu   sync.Mutex
	docs map[string][]byte // by ID and version
}

func (j *jsonConfigs) ConfigList(ctx context.Context, o client.ConfigListOptions) (client.ConfigListResult, error) {
	found, err := j.Configs.ConfigList(ctx, o)
	if err != nil {
		return found, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.docs == nil {
		j.docs = map[string][]byte{}
	}
	body := []byte("[")
	for i, item := range found.Items {
		key := fmt.Sprint(item.ID, item.Version.Index)
		if j.docs[key] == nil {
			j.docs[key], _ = json.Marshal(item)
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, j.docs[key]...)
	}
	var decoded []dockerswarm.Config
	err = json.Unmarshal(append(body, ']'), &decoded)
	return client.ConfigListResult{Items: decoded}, err
}

func serviceOf(application, member string, n int) dockerswarm.Service {
	one := uint64(1)
	s := dockerswarm.Service{ID: fmt.Sprintf("%025s", member)}
	s.Spec.Name = fmt.Sprintf("%s_%d", application, n)
	s.Spec.Labels = map[string]string{
		api.LabelApplication: application, api.LabelType: "postgresql", api.LabelMember: member, api.LabelSlot: fmt.Sprint(n), api.LabelVolume: member,
		api.LabelParameters: `{"max_connections":"200","shared_buffers":"1GB"}`, "com.docker.stack.namespace": application, "com.docker.stack.image": "postgres:17",
	}
	s.Spec.TaskTemplate.ContainerSpec = &dockerswarm.ContainerSpec{
		Image: "postgres:17@sha256:" + strings.Repeat("a", 64), Hostname: member, Command: []string{"/openmanage/agent"},
		Env: []string{
			"OPENMANAGE_APPLICATION=" + application, "OPENMANAGE_MEMBER=" + member, "OPENMANAGE_VOLUME=" + member, "OPENMANAGE_ENGINE=postgresql",
			"OPENMANAGE_DATA=/var/lib/postgresql/data", "OPENMANAGE_TASK={{.Task.ID}}", "OPENMANAGE_IMAGE=postgres:17", "PGDATA=/var/lib/postgresql/data/pgdata",
		},
		Mounts: []mount.Mount{
			{Type: mount.TypeVolume, Source: member, Target: "/var/lib/postgresql/data", VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: api.PluginName, Options: map[string]string{"size": "10GiB", "application": application, "member": member}}}},
			{Type: mount.TypeVolume, Source: member + api.RuntimeSuffix, Target: api.RuntimeDir, ReadOnly: true, VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: api.PluginName}}},
		},
	}
	s.Spec.TaskTemplate.Placement = &dockerswarm.Placement{Constraints: []string{"node.labels." + api.PinLabel(member) + " != elsewhere"}}
	s.Spec.Mode.Replicated = &dockerswarm.ReplicatedService{Replicas: &one}
	return s
}

func newThousand(tb testing.TB, applications int) *thousand {
	tb.Helper()
	configs := &jsonConfigs{Configs: &storetest.Configs{}}
	t := &thousand{docker: &jsonSwarm{}, configs: configs.Configs, reports: map[string]api.Report{}, senders: map[string]*delta.Sender{}}
	records := store.New(configs)
	var nodes []dockerswarm.Node
	for n := 1; n <= 3; n++ {
		id := fmt.Sprintf("n%d", n)
		nodes = append(nodes, dockerswarm.Node{
			ID: id, Description: dockerswarm.NodeDescription{Hostname: "node" + id}, Status: dockerswarm.NodeStatus{State: dockerswarm.NodeStateReady, Addr: "127.0.0.1"},
			ManagerStatus: &dockerswarm.ManagerStatus{Addr: "127.0.0.1:2377"},
		})
		t.senders[id] = &delta.Sender{}
		t.reports[id] = api.Report{Boot: "boot", Version: "test", Storage: api.Storage{Backend: "file", Location: "shared", Path: "/var/lib/openmanage", Free: 1 << 40, Total: 1 << 41}}
	}
	var services []dockerswarm.Service
	var tasks []dockerswarm.Task
	for a := range applications {
		application := fmt.Sprintf("app-%04d", a+1)
		for n := 1; n <= 3; n++ {
			member, node := fmt.Sprintf("%s-%d", application, n), fmt.Sprintf("n%d", (a+n)%3+1)
			s := serviceOf(application, member, n)
			services = append(services, s)
			tasks = append(tasks, dockerswarm.Task{ID: "t" + member, ServiceID: s.ID, NodeID: node, Slot: 1, Spec: s.Spec.TaskTemplate, DesiredState: "running"})
			volume := api.Volume{
				VolumeSpec: api.VolumeSpec{Name: member, Size: 10 << 30, Filesystem: "ext4", Backend: "file", Application: application, Member: member},
				Phase:      api.PhaseReady, UUID: newUUID(), Device: deviceName(member), Location: "shared", Epoch: 1, LastNode: node,
				Owner: &api.Owner{Node: node, Hostname: "node" + node, MountID: strings.Repeat("c", 64), Tenure: "0123456789abcdef", Task: s.Spec.Name + ".1", Since: time.Now().UTC()},
			}
			_, err := store.Create(tb.Context(), records, store.KindVolume, member, volume)
			assert.NilError(tb, err)
			r := t.reports[node]
			r.Volumes = append(r.Volumes, api.HeldVolume{Name: member, Epoch: 1, MountID: volume.Owner.MountID, Mounted: true, Size: 10 << 30})
			role := api.RoleStandby
			if n == 1 {
				role = api.RolePrimary
			}
			status := api.MemberStatus{
				Application: application, Member: member, Engine: "postgresql", Volume: member, Task: "t" + member, Container: strings.Repeat("c", 64), Image: "postgres:17",
				Role: role, Term: 1, State: api.StateRunning, Healthy: true, Initialized: true, SystemID: "7400000000000000001", Timeline: 1, Position: 1 << 30,
				Streaming: n > 1, Sync: n > 1, Version: "17.6", Address: "10.0.1.7",
			}
			if n == 1 {
				status.SyncNames = application + "-2," + application + "-3"
			}
			r.Members = append(r.Members, status)
			t.reports[node] = r
		}
	}
	encode := func(v any) []byte {
		doc, err := json.Marshal(v)
		assert.NilError(tb, err)
		return doc
	}
	t.docker.by = map[string][][]byte{}
	for _, s := range services {
		label := api.LabelApplication + "=" + s.Spec.Labels[api.LabelApplication]
		t.docker.by[s.ID] = append(t.docker.by[s.ID], encode(s))
		t.docker.by[label] = append(t.docker.by[label], encode(s))
	}
	t.docker.nodes, t.docker.services, t.docker.tasks = encode(nodes), encode(services), encode(tasks)
	log := hclog.NewNullLogger()
	m := &Manager{id: swarmpki.New(tb.TempDir()), log: log, version: "test", store: records, cluster: swarm.New(t.docker)}
	m.leadership = newLeadership("n1", "test", bootClock)
	m.leadership.leading, m.leadership.lastBeat, m.leadership.former = true, bootClock()+24*time.Hour, -time.Hour
	m.leadership.actingAt = -time.Hour
	m.leases, m.promises, m.nodes = newLeases(bootClock), newPromises(bootClock), newNodeView(m.cluster)
	m.volumes = &volumes{
		store: m.store, cluster: m.cluster, leases: m.leases, leadership: m.leadership, nodes: m.nodes,
		barNode: func(context.Context, string) error { return nil }, now: bootClock, log: log, revoked: map[string]uint64{}, absent: map[string]absence{},
	}
	m.pulls = newPulls(bootClock)
	m.apps = newApplications(m)
	m.volumes.leaseWanted = m.apps.leaseWanted
	m.apps.following.Store(true)
	t.Manager = m
	t.reportAll(tb)
	for range 3 { // created, then settled
		_, err := m.apps.reconcile(tb.Context())
		assert.NilError(tb, err)
		t.reportAll(tb)
	}
	return t
}

func (t *thousand) reportAll(tb testing.TB) {
	tb.Helper()
	for node := range t.reports {
		t.reportOf(tb, node)
	}
}

// reportOf has a node report, and returns what it sent and what it was answered.
func (t *thousand) reportOf(tb testing.TB, node string) (sent, answered int) {
	tb.Helper()
	r := t.senders[node].Next(t.reports[node])
	body, err := json.Marshal(r)
	assert.NilError(tb, err)
	answer, err := post(t.report)(tb.Context(), swarmpki.Peer{NodeID: node}, nil, body)
	assert.NilError(tb, err)
	doc, err := json.Marshal(answer)
	assert.NilError(tb, err)
	t.senders[node].Answered(r, answer.(api.ReportAnswer))
	return len(body), len(doc)
}

// onCPU runs do and adds what it took of the processor: other programs on the machine
// make the time of a benchmark longer, and not this.
func onCPU(into *time.Duration, do func()) {
	before := processorTime()
	do()
	*into += processorTime() - before
}

func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmark reports the processor time of do; before is not counted.
func benchmark(b *testing.B, before, do func()) {
	b.Helper()
	b.ReportAllocs()
	var took time.Duration
	n := 0
	for b.Loop() {
		b.StopTimer()
		before()
		b.StartTimer()
		onCPU(&took, do)
		n++
	}
	b.ReportMetric(took.Seconds()*1000/float64(n), "cpu-ms/op")
}

// What a leader spends on reports: one a second and node. The node's side of it, which
// makes and reads JSON too, is counted as well.
func BenchmarkReportOfAThousandMembers(b *testing.B) {
	write := func(t *thousand, share int) {
		members := t.reports["n2"].Members
		for i := range members {
			if share != 0 && i%share == 0 {
				members[i].Position++
			}
		}
	}
	for _, c := range []struct {
		doc   string
		share int // one of so many members has written something
		full  bool
	}{{"of idle databases", 0, false}, {"while a tenth writes", 10, false}, {"while all write", 1, false}, {"in full", 0, true}} {
		b.Run(c.doc, func(b *testing.B) {
			t := newThousand(b, 1000)
			var sent, answered int
			benchmark(b, func() {
				write(t, c.share)
				if c.full {
					t.senders["n2"] = &delta.Sender{}
					t.leases.forget(0)
				}
			}, func() { sent, answered = t.reportOf(b, "n2") })
			b.ReportMetric(float64(sent), "B/report")
			b.ReportMetric(float64(answered), "B/answer")
		})
	}
}

// What a look at everything costs while nothing has changed.
func BenchmarkLookAtAThousandApplications(b *testing.B) {
	t := newThousand(b, 1000)
	benchmark(b, func() { t.reportAll(b) }, func() {
		_, err := t.apps.reconcile(b.Context())
		assert.NilError(b, err)
	})
}

// What a look at one application costs, of which a member has news.
func BenchmarkLookAtOneOfAThousandApplications(b *testing.B) {
	t := newThousand(b, 1000)
	what := subjects{}
	what.add("app-0500")
	benchmark(b, func() { t.reportAll(b) }, func() {
		_, err := t.apps.look(b.Context(), what)
		assert.NilError(b, err)
	})
}

// What the planning alone costs.
func BenchmarkPlanAThousandApplications(b *testing.B) {
	t := newThousand(b, 1000)
	o, err := t.apps.observe(b.Context())
	assert.NilError(b, err)
	benchmark(b, func() {}, func() {
		for name, r := range o.records {
			next, _ := planApplication(o, name, r.Value, true)
			assert.Assert(b, sameApplication(r.Value, next))
		}
	})
}
