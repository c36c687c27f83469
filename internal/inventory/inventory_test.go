package inventory

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"
	docker "github.com/moby/moby/client"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
)

// manager is a manager's Docker API.
type manager struct {
	storetest.Configs
	nodes  []swarm.Node
	tasks  []swarm.Task
	asked  docker.Filters // of tasks
	status any            // what `openmanage status` prints; nil: no manager of OpenManage's runs there
	code   int            // that it ends with
	cmd    []string
	down   error
}

func (m *manager) NodeList(context.Context, docker.NodeListOptions) (docker.NodeListResult, error) {
	return docker.NodeListResult{Items: m.nodes}, m.down
}

func (m *manager) TaskList(_ context.Context, o docker.TaskListOptions) (docker.TaskListResult, error) {
	m.asked = o.Filters
	return docker.TaskListResult{Items: m.tasks}, m.down
}

func (m *manager) ContainerList(context.Context, docker.ContainerListOptions) (docker.ContainerListResult, error) {
	var res docker.ContainerListResult
	if m.status != nil {
		res.Items = []container.Summary{{ID: "manager"}}
	}
	return res, nil
}

func (m *manager) ExecCreate(_ context.Context, _ string, o docker.ExecCreateOptions) (docker.ExecCreateResult, error) {
	m.cmd = o.Cmd
	return docker.ExecCreateResult{ID: "exec"}, nil
}

func (m *manager) ExecAttach(context.Context, string, docker.ExecAttachOptions) (docker.ExecAttachResult, error) {
	doc, err := json.Marshal(m.status)
	stream := byte(1)
	if m.code != 0 {
		stream = 2
	}
	frame := binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(len(doc)))
	ours, theirs := net.Pipe()
	go func() {
		_, _ = theirs.Write(append(frame, doc...))
		theirs.Close()
	}()
	return docker.ExecAttachResult{HijackedResponse: docker.HijackedResponse{Conn: ours, Reader: bufio.NewReader(ours)}}, err
}

func (m *manager) ExecInspect(context.Context, string, docker.ExecInspectOptions) (docker.ExecInspectResult, error) {
	return docker.ExecInspectResult{ExitCode: m.code}, nil
}

func put(t *testing.T, m *manager, app store.Application) {
	t.Helper()
	_, err := store.Create(t.Context(), store.New(m), store.KindApplication, app.Name, app)
	assert.NilError(t, err)
}

func node(id, hostname string, state swarm.NodeState) swarm.Node {
	return swarm.Node{ID: id, Description: swarm.NodeDescription{Hostname: hostname}, Status: swarm.NodeStatus{State: state}}
}

func TestStateOfTheSwarm(t *testing.T) {
	gone := time.Now()
	m := &manager{nodes: []swarm.Node{
		node("b", "node2", swarm.NodeStateReady), node("a", "node1", swarm.NodeStateDown), node("z", "node1", swarm.NodeStateReady),
	}}
	first := &m.nodes[0]
	first.Spec = swarm.NodeSpec{Annotations: swarm.Annotations{Labels: map[string]string{"zone": "a"}}, Role: swarm.NodeRoleManager, Availability: swarm.NodeAvailabilityDrain}
	first.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"}
	first.Description.Engine.EngineVersion = "28.5.2"
	first.Status.Addr = "0.0.0.0"
	first.ManagerStatus = &swarm.ManagerStatus{Addr: "10.0.0.2:2377"}
	put(t, m, store.Application{Name: "old", Removed: &gone, Members: []store.Member{{Name: "old-1"}}})
	put(t, m, store.Application{Name: "pg", Type: "postgresql", Members: []store.Member{
		{Name: "pg-1", Volume: "pg-1", Hostname: "node1", Role: api.RolePrimary, State: api.StateRunning, Healthy: true},
		{Name: "pg-2", Volume: "pg-2", Role: api.RoleStandby, State: api.StateJoining},
		{Name: "pg-3", Volume: "pg-3", Role: api.RoleStandby, State: api.StateWaiting},
	}})
	want := State{
		Nodes: []Node{
			{ID: "z", Hostname: "node1", State: "ready"}, {ID: "a", Hostname: "node1", State: "down"},
			{
				ID: "b", Hostname: "node2", Role: "manager", Availability: "drain", State: "ready", Address: "10.0.0.2",
				Engine: "28.5.2", OS: "linux", Arch: "x86_64", Labels: map[string]string{"zone": "a"},
			},
		},
		Members: []Member{
			{Name: "pg-1", Application: "pg", Type: "postgresql", Volume: "pg-1", Node: "node1", Role: "primary", State: "running", Healthy: true},
			{Name: "pg-2", Application: "pg", Type: "postgresql", Volume: "pg-2", Role: "standby", State: "joining"},
			{Name: "pg-3", Application: "pg", Type: "postgresql", Volume: "pg-3", Role: "standby", State: "waiting"},
		},
		Unheard: "OpenManage's manager does not run on this node",
	}
	state, err := Reader{m}.State(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, state, want)

	// With a manager to ask. What was said before the lease ended is not the members' state.
	live := api.MemberStatus{Volume: "pg-1", Member: "pg-1", Role: api.RolePrimary, State: api.StateRunning, Healthy: true, Timeline: 3}
	m.status = api.LiveStatus{
		Members: []api.LiveMember{
			{MemberStatus: live, Age: time.Second},
			{MemberStatus: api.MemberStatus{Volume: "pg-2", State: api.StateRunning, Healthy: true}, Age: api.LeaseDuration},
		},
		Volumes: []api.LiveVolume{
			{HeldVolume: api.HeldVolume{Name: "pg-1", Usage: api.Usage{Used: 1, Free: 3}}}, {HeldVolume: api.HeldVolume{Name: "pg-2"}},
		},
	}
	want.Unheard, want.Members[0].Live, want.Members[0].Usage = "", &live, api.Usage{Used: 1, Free: 3}
	state, err = Reader{m}.State(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, state, want)
	assert.DeepEqual(t, m.cmd, []string{"openmanage", "status", "--json"})
}

func TestStateOfASwarmThatCannotBeReadWhole(t *testing.T) {
	m := &manager{nodes: []swarm.Node{node("a", "node1", swarm.NodeStateReady)}, status: "no manager leads", code: 1}
	put(t, m, store.Application{Name: "pg", Members: []store.Member{{Name: "pg-1"}}})
	_, err := m.ConfigCreate(t.Context(), docker.ConfigCreateOptions{Spec: swarm.ConfigSpec{Annotations: swarm.Annotations{
		Name: "openmanage.application.broken", Labels: map[string]string{"openmanage.kind": "application", "openmanage.record": "{"},
	}}})
	assert.NilError(t, err)
	state, err := Reader{m}.State(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(state.Members), 1)
	assert.Check(t, is.Contains(state.Incomplete, "openmanage.application.broken cannot be read"))
	assert.Check(t, is.Contains(state.Unheard, "ask OpenManage's manager for the members' status: "))
	assert.Check(t, is.Contains(state.Unheard, "no manager leads"))
	m.code = 0 // and yet no status
	state, err = Reader{m}.State(t.Context())
	assert.NilError(t, err)
	assert.Check(t, is.Contains(state.Unheard, "cannot unmarshal"))

	m.Fail = func(string) error { return errors.New("no leader") }
	_, err = Reader{m}.State(t.Context())
	assert.ErrorContains(t, err, "no leader")
	m.down = errors.New("no manager")
	_, err = Reader{m}.State(t.Context())
	assert.ErrorContains(t, err, "list the Swarm's nodes: no manager")
}

func task(nodeID string, state swarm.TaskState, addresses ...string) swarm.Task {
	t := swarm.Task{NodeID: nodeID, Status: swarm.TaskStatus{State: state}}
	t.NetworksAttachments = []swarm.NetworkAttachment{{
		Network: swarm.Network{Spec: swarm.NetworkSpec{Ingress: true}}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.255.0.9/16")},
	}}
	for _, a := range addresses {
		t.NetworksAttachments = append(t.NetworksAttachments, swarm.NetworkAttachment{Addresses: []netip.Prefix{netip.MustParsePrefix(a)}})
	}
	return t
}

// Tasks of a service have the names of their nodes.
func TestTargets(t *testing.T) {
	m := &manager{
		nodes: []swarm.Node{node("a", "node1", swarm.NodeStateReady), node("b", "node2", swarm.NodeStateReady)},
		tasks: []swarm.Task{
			task("b", swarm.TaskStateRunning, "10.0.1.7/24", "10.0.2.7/24"), task("a", swarm.TaskStateRunning, "10.0.1.6/24"),
			task("a", swarm.TaskStateStarting, "10.0.1.8/24"), task("b", swarm.TaskStateRunning), task("gone", swarm.TaskStateRunning, "10.0.1.9/24"),
		},
	}
	targets, err := Reader{m}.Targets(t.Context(), "prom_node", 9100)
	assert.NilError(t, err)
	assert.DeepEqual(t, targets, []Target{
		{Targets: []string{"10.0.1.6:9100"}, Labels: map[string]string{"node": "node1"}},
		{Targets: []string{"10.0.1.7:9100"}, Labels: map[string]string{"node": "node2"}},
	})
	assert.Assert(t, m.asked["service"]["prom_node"] && m.asked["desired-state"]["running"])

	m.tasks = nil
	targets, err = Reader{m}.Targets(t.Context(), "prom_node", 9100)
	assert.NilError(t, err)
	doc, err := json.Marshal(targets)
	assert.NilError(t, err)
	assert.Equal(t, string(doc), "[]", "null is no list")

	m.down = errors.New("no manager")
	_, err = Reader{m}.Targets(t.Context(), "prom_node", 9100)
	assert.ErrorContains(t, err, "no manager")
	for _, bad := range []string{"", "prom_node", ":9100", "prom_node:0", "prom_node:web"} {
		_, _, err = ParseService(bad)
		assert.ErrorContains(t, err, "expected SERVICE:PORT")
	}
	service, port, err := ParseService("prom_node:9100")
	assert.NilError(t, err)
	assert.Equal(t, service, "prom_node")
	assert.Equal(t, port, 9100)
}
