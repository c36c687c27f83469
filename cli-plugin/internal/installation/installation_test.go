package installation

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

func TestStack(t *testing.T) {
	file, err := Stack(Options{
		Version: "1.2.3", Image: "openmanage/openmanage:1.2.3", Plugin: "openmanage/volume:1.2.3", RootDir: "/mnt/docker", DataDir: "/mnt/shared", LogLevel: "info",
	})
	assert.NilError(t, err)
	golden.Assert(t, string(file), "stack.golden")

	_, err = Stack(Options{DataDir: "shared", RootDir: DefaultRootDir})
	assert.ErrorContains(t, err, `--data: "shared": expected an absolute path`)
}

func TestPluginSettingsLeaveThePluginsDefaultsAlone(t *testing.T) {
	assert.Equal(t, Options{RootDir: DefaultRootDir}.PluginSettings(), "")
}

func TestCheck(t *testing.T) {
	newSwarm := func() *fakeswarm.Client {
		docker := fakeswarm.New("node1", "node2")
		for _, name := range []string{preflight.ManagerService, preflight.NetworkService} {
			s := swarm.Service{ID: "id-" + name}
			s.Spec.Name, s.Spec.Labels = name, map[string]string{stackdeploy.NamespaceLabel: api.StackName}
			docker.Services = append(docker.Services, s)
			for _, n := range docker.Nodes {
				docker.Tasks = append(docker.Tasks, swarm.Task{
					ServiceID: s.ID, NodeID: n.ID, Annotations: swarm.Annotations{Labels: s.Spec.Labels},
					Status: swarm.TaskStatus{State: swarm.TaskStateRunning}, DesiredState: swarm.TaskStateRunning,
				})
			}
		}
		fakeswarm.Put(t, docker, store.KindLeader, store.LeaderName, store.Leader{Hostname: "node1"})
		for _, n := range []string{"node1", "node2"} {
			fakeswarm.Put(t, docker, store.KindNode, "id-"+n, store.Node{ID: "id-" + n, Hostname: n, Reporting: true})
		}
		return docker
	}
	for _, tc := range []struct {
		doc    string
		spoil  func(*fakeswarm.Client)
		plugin string
		want   string // problem of node2
		leader string
		ready  bool
	}{
		{doc: "all well", spoil: func(*fakeswarm.Client) {}, leader: "node1", ready: true},
		{doc: "a task that fails", spoil: func(d *fakeswarm.Client) {
			d.Tasks[3].Status = swarm.TaskStatus{State: swarm.TaskStateRejected, Err: "No such image"}
		}, want: "openmanage_network is rejected: No such image", leader: "node1"},
		{doc: "a plugin that cannot be installed", spoil: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2", Problem: "no such plugin"})
		}, want: "no such plugin", leader: "node1"},
		{doc: "a node that is down is not waited for", spoil: func(d *fakeswarm.Client) { d.Nodes[1].Status.State = swarm.NodeStateDown }, leader: "node1", ready: true},
		{doc: "a drained node runs no services", spoil: func(d *fakeswarm.Client) {
			d.Nodes[1].Spec.Availability = swarm.NodeAvailabilityDrain
			d.Tasks = []swarm.Task{d.Tasks[0], d.Tasks[2]}
		}, leader: "node1", ready: true},
		{doc: "a drained node that never had the plugin is not waited for", spoil: func(d *fakeswarm.Client) {
			d.Nodes[1].Spec.Availability = swarm.NodeAvailabilityDrain
			d.Tasks = []swarm.Task{d.Tasks[0], d.Tasks[2]}
			fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2"})
		}, leader: "node1", ready: true},
		{doc: "a drained node with an old plugin", spoil: func(d *fakeswarm.Client) {
			d.Nodes[1].Spec.Availability = swarm.NodeAvailabilityDrain
			fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2", Reporting: true, Plugin: "openmanage/volume:0.9"})
		}, plugin: "openmanage/volume:1.0", leader: "node1", ready: true},
		{doc: "a node with an old plugin", spoil: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2", Reporting: true, Plugin: "openmanage/volume:0.9"})
		}, plugin: "openmanage/volume:1.0", want: "the volume plugin is being replaced by openmanage/volume:1.0", leader: "node1"},
		{doc: "an update that Swarm has stopped half-way", spoil: func(d *fakeswarm.Client) {
			d.Services[0].Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "openmanage:2"}
			d.Services[0].UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStatePaused, Message: "update paused due to failure"}
			d.Tasks[0].Spec.ContainerSpec = &swarm.ContainerSpec{Image: "openmanage:2"}
			d.Tasks[1].Spec.ContainerSpec = &swarm.ContainerSpec{Image: "openmanage:1"}
		}, want: "openmanage_manager runs openmanage:1, and not openmanage:2 yet: Swarm has stopped its update: update paused due to failure; see why with docker service ps --no-trunc openmanage_manager, and install again", leader: "node1"},
		{doc: "nobody leads", spoil: func(d *fakeswarm.Client) { d.Age(store.KindLeader, store.LeaderName, time.Minute) }},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := newSwarm()
			tc.spoil(docker)
			if tc.plugin != "" {
				fakeswarm.Put(t, docker, store.KindNode, "id-node1", store.Node{ID: "id-node1", Hostname: "node1", Reporting: true, Plugin: tc.plugin})
			}
			reports, leader, ready, err := Check(t.Context(), docker, tc.plugin, time.Now())
			assert.NilError(t, err)
			assert.Equal(t, leader, tc.leader)
			assert.Equal(t, ready, tc.ready)
			var problems []string
			for _, r := range reports {
				if !r.OK {
					problems = append(problems, r.Hostname+": "+r.Problem)
				}
			}
			want := ""
			if tc.want != "" {
				want = "node2: " + tc.want
			}
			assert.Equal(t, strings.Join(problems, "\n"), want)
		})
	}
}
