package component

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

func service(name string, mode swarm.ServiceMode) swarm.Service {
	s := swarm.Service{ID: name}
	s.Spec.Name, s.Spec.Mode = "zb_"+name, mode
	s.Spec.Labels = map[string]string{api.LabelApplication: "zb", api.LabelComponent: name}
	s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "web:1"}
	return s
}

func replicas(n uint64) swarm.ServiceMode {
	return swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &n}}
}

var global = swarm.ServiceMode{Global: &swarm.GlobalService{}}

func TestOnlyServicesBesideMembersAreComponents(t *testing.T) {
	member := service("1", replicas(1))
	delete(member.Spec.Labels, api.LabelComponent)
	member.Spec.Labels[api.LabelMember] = "zb-1"
	found := Of([]swarm.Service{service("web", replicas(1)), member, service("agent", global), {ID: "foreign"}})
	assert.Equal(t, len(found), 2)
	assert.Equal(t, Name(found[0]), "zb-agent")
	assert.Equal(t, Name(found[1]), "zb-web")
}

func TestAComponentIsHealthyWhenAllItsTasksRun(t *testing.T) {
	task := func(service, node string, desired, is swarm.TaskState, problem string, age time.Duration) swarm.Task {
		t := swarm.Task{ServiceID: service, NodeID: node, DesiredState: desired, Status: swarm.TaskStatus{State: is, Err: problem}}
		t.CreatedAt = time.Now().Add(-age)
		return t
	}
	tasks := []swarm.Task{
		task("web", "n1", swarm.TaskStateRunning, swarm.TaskStateRunning, "", time.Minute),
		task("web", "n2", swarm.TaskStateShutdown, swarm.TaskStateFailed, "exit 1", time.Second),
		task("web", "n3", swarm.TaskStateRunning, swarm.TaskStateStarting, "", 0),
		task("agent", "n1", swarm.TaskStateRunning, swarm.TaskStateRunning, "", 0),
		task("agent", "n2", swarm.TaskStateRunning, swarm.TaskStateRunning, "", 0),
	}
	states := States([]swarm.Service{service("agent", global), service("web", replicas(2))}, tasks, func(id string) string { return "host-" + id })
	assert.DeepEqual(t, states[0], State{Name: "zb-agent", Wanted: 2, Running: 2, Nodes: []string{"host-n1", "host-n2"}})
	assert.Assert(t, states[0].Healthy())
	assert.DeepEqual(t, states[1], State{Name: "zb-web", Wanted: 2, Running: 1, Nodes: []string{"host-n1"}, Problem: "before: exit 1"})
	assert.Assert(t, !states[1].Healthy())
	assert.Assert(t, !States([]swarm.Service{service("web", replicas(0))}, nil, nil)[0].Healthy(), "none is asked for and none runs")
}

func TestStopAndStartAreEachOthersReverse(t *testing.T) {
	for name, mode := range map[string]swarm.ServiceMode{"web": replicas(3), "agent": global} {
		s := service(name, mode)
		before := service(name, mode)
		assert.Assert(t, !Start(&s.Spec), "it is not stopped")
		assert.Assert(t, Stop(&s.Spec))
		assert.Assert(t, IsStopped(s), name)
		assert.Assert(t, !Stop(&s.Spec), "twice: the number would be lost")
		assert.Assert(t, !Roll("")(&s.Spec), "nothing runs that could be started anew")
		assert.Assert(t, Start(&s.Spec))
		assert.Assert(t, !IsStopped(s))
		assert.DeepEqual(t, s.Spec.Mode, before.Spec.Mode)
		assert.DeepEqual(t, s.Spec.Labels, before.Spec.Labels)
		assert.Assert(t, Roll("web:2")(&s.Spec))
		assert.Assert(t, !Roll("web:2")(&s.Spec))
		assert.Equal(t, s.Spec.TaskTemplate.ContainerSpec.Image, "web:2")
	}
}
