package zabbix

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
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
	nodes  []string
	status any // what `openmanage status` prints; nil: no manager of OpenManage's runs there
	cmd    []string
	down   error
}

func (m *manager) NodeList(context.Context, docker.NodeListOptions) (docker.NodeListResult, error) {
	var res docker.NodeListResult
	for _, name := range m.nodes {
		res.Items = append(res.Items, swarm.Node{ID: "id-" + name, Description: swarm.NodeDescription{Hostname: name}})
	}
	return res, m.down
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
	frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0, 0}, uint32(len(doc)))
	ours, theirs := net.Pipe()
	go func() {
		_, _ = theirs.Write(append(frame, doc...))
		theirs.Close()
	}()
	return docker.ExecAttachResult{HijackedResponse: docker.HijackedResponse{Conn: ours, Reader: bufio.NewReader(ours)}}, err
}

func (m *manager) ExecInspect(context.Context, string, docker.ExecInspectOptions) (docker.ExecInspectResult, error) {
	return docker.ExecInspectResult{}, nil
}

func put(t *testing.T, m *manager, app store.Application) {
	t.Helper()
	_, err := store.Create(t.Context(), store.New(m), store.KindApplication, app.Name, app)
	assert.NilError(t, err)
}

func TestStateOfTheSwarm(t *testing.T) {
	gone := time.Now()
	m := &manager{nodes: []string{"node1", "node2", "node1"}}
	put(t, m, store.Application{Name: "old", Removed: &gone, Members: []store.Member{{Name: "old-1"}}})
	put(t, m, store.Application{Name: "pg", Members: []store.Member{
		{Name: "pg-1", Volume: "pg-1", Role: api.RolePrimary, State: api.StateRunning, Healthy: true},
		{Name: "pg-2", Volume: "pg-2", Role: api.RoleStandby, State: api.StateJoining},
	}})
	want := []Member{
		{Name: "pg-1", Application: "pg", Role: "primary", State: "running", Healthy: true},
		{Name: "pg-2", Application: "pg", Role: "standby", State: "joining"},
	}
	state, err := Swarm{Docker: m}.State(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, state, State{Nodes: []string{"node1", "node2"}, Members: want})

	// With a manager to ask.
	m.status = api.LiveStatus{Volumes: []api.LiveVolume{
		{HeldVolume: api.HeldVolume{Name: "pg-1", Usage: api.Usage{Used: 1, Free: 3}}}, {HeldVolume: api.HeldVolume{Name: "pg-2"}},
	}}
	quarter := 25.0
	want[0].Disk = &quarter
	state, err = Swarm{Docker: m}.State(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, state.Members, want)
	assert.DeepEqual(t, m.cmd, []string{"openmanage", "status", "--json"})
}

func TestStateOfASwarmThatCannotBeReadWhole(t *testing.T) {
	m := &manager{nodes: []string{"node1"}}
	put(t, m, store.Application{Name: "pg", Members: []store.Member{{Name: "pg-1"}}})
	_, err := m.ConfigCreate(t.Context(), docker.ConfigCreateOptions{Spec: swarm.ConfigSpec{Annotations: swarm.Annotations{
		Name: "openmanage.application.broken", Labels: map[string]string{"openmanage.kind": "application", "openmanage.record": "{"},
	}}})
	assert.NilError(t, err)
	state, err := Swarm{Docker: m}.State(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(state.Members), 1)
	assert.Check(t, is.Contains(state.Incomplete, "openmanage.application.broken cannot be read"))

	m.Fail = func(string) error { return errors.New("no leader") }
	_, err = Swarm{Docker: m}.State(t.Context())
	assert.ErrorContains(t, err, "no leader")
	m.down = errors.New("no manager")
	_, err = Swarm{Docker: m}.State(t.Context())
	assert.ErrorContains(t, err, "list the Swarm's nodes: no manager")
}
