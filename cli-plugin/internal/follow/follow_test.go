package follow

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

func task(member string, state, desired swarm.TaskState, problem string, age time.Duration) swarm.Task {
	return swarm.Task{
		Meta:         swarm.Meta{CreatedAt: time.Now().Add(-age)},
		Annotations:  swarm.Annotations{Labels: map[string]string{stackdeploy.NamespaceLabel: "pg"}},
		Spec:         swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Hostname: member}},
		Status:       swarm.TaskStatus{State: state, Err: problem},
		DesiredState: desired,
	}
}

func TestLines(t *testing.T) {
	healthy := store.Member{Name: "pg-1", Role: api.RolePrimary, State: api.StateRunning, Healthy: true, Hostname: "node1"}
	for _, tc := range []struct {
		doc   string
		app   store.Application
		tasks []swarm.Task
		want  Line
	}{
		{doc: "nothing yet", want: Line{Member: "pg-1", State: "new"}},
		{
			doc: "no node takes it", tasks: []swarm.Task{task("pg-1", swarm.TaskStatePending, swarm.TaskStateRunning, "no suitable node", 0)},
			want: Line{Member: "pg-1", State: "pending", Detail: "no suitable node"},
		},
		{
			doc: "healthy", app: store.Application{Members: []store.Member{healthy}}, tasks: []swarm.Task{task("pg-1", swarm.TaskStateRunning, swarm.TaskStateRunning, "", 0)},
			want: Line{Member: "pg-1", State: "running", Detail: "primary on node1", Healthy: true},
		},
		{
			doc: "a record that is older than a task that is being prepared does not count", app: store.Application{Members: []store.Member{healthy}},
			tasks: []swarm.Task{task("pg-1", swarm.TaskStatePreparing, swarm.TaskStateRunning, "", 0)},
			want:  Line{Member: "pg-1", State: "preparing"},
		},
		{
			doc: "why the task before failed",
			tasks: []swarm.Task{
				task("pg-1", swarm.TaskStateRejected, swarm.TaskStateShutdown, "No such image: postgres:99", time.Minute),
				task("pg-1", swarm.TaskStatePreparing, swarm.TaskStateRunning, "", 0),
			},
			want: Line{Member: "pg-1", State: "preparing", Detail: "before: No such image: postgres:99"},
		},
		{doc: "a task of pg-10 is not pg-1's", tasks: []swarm.Task{task("pg-10", swarm.TaskStateRunning, swarm.TaskStateRunning, "", 0)}, want: Line{Member: "pg-1", State: "new"}},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			assert.DeepEqual(t, Lines([]string{"pg-1"}, tc.app, tc.tasks), []Line{tc.want})
		})
	}
}

// rejected are tasks of pg-1 for which there is no image.
func rejected(ids ...string) []swarm.Task {
	var tasks []swarm.Task
	for i, id := range ids {
		one := task("pg-1", swarm.TaskStateRejected, swarm.TaskStateShutdown, "No such image: postgres:99", time.Duration(i)*time.Minute)
		one.ID = id
		tasks = append(tasks, one)
	}
	return tasks
}

// looked calls do at the second look at a Swarm.
type looked struct {
	*fakeswarm.Client
	looks int
	do    func()
}

func (l *looked) TaskList(ctx context.Context, o client.TaskListOptions) (client.TaskListResult, error) {
	if l.looks++; l.looks == 2 {
		l.do()
	}
	return l.Client.TaskList(ctx, o)
}

func TestHealthyFailsEarlyWithoutImage(t *testing.T) {
	docker := fakeswarm.New("node1")
	err := Healthy(t.Context(), &looked{docker, 0, func() { docker.Tasks = rejected("a", "b") }}, "pg", []string{"pg-1"}, NewScreen(&bytes.Buffer{}, nil), time.Minute)
	assert.ErrorIs(t, err, ErrFailing)
	assert.ErrorContains(t, err, "pg-1 cannot start: No such image: postgres:99")
}

func TestHealthyFailsEarlyWithoutTheImageOfAComponent(t *testing.T) {
	docker := fakeswarm.New("node1")
	web := swarm.Service{ID: "id-web"}
	web.Spec.Name = "pg_web"
	web.Spec.Labels = map[string]string{stackdeploy.NamespaceLabel: "pg", api.LabelApplication: "pg", api.LabelComponent: "web"}
	docker.Services = []swarm.Service{web}
	tasks := rejected("a", "b")
	for i := range tasks {
		tasks[i].ServiceID, tasks[i].Spec.ContainerSpec.Hostname = web.ID, ""
	}
	err := Healthy(t.Context(), &looked{docker, 0, func() { docker.Tasks = tasks }}, "pg", nil, NewScreen(&bytes.Buffer{}, nil), time.Minute)
	assert.ErrorContains(t, err, "pg-web cannot start: No such image: postgres:99")
}

// What failed before was of another image, or without the login that it has now.
func TestHealthyForgivesWhatFailedBefore(t *testing.T) {
	docker := fakeswarm.New("node1")
	docker.Tasks = rejected("a", "b")
	err := Healthy(t.Context(), docker, "pg", []string{"pg-1"}, NewScreen(&bytes.Buffer{}, nil), time.Millisecond)
	assert.ErrorIs(t, err, ErrTimeout)

	again := task("pg-1", swarm.TaskStateRunning, swarm.TaskStateRunning, "", 0)
	docker.Tasks = append(docker.Tasks, again)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", store.Application{Name: "pg", Members: []store.Member{{Name: "pg-1", State: api.StateRunning, Healthy: true}}})
	assert.NilError(t, Healthy(t.Context(), docker, "pg", []string{"pg-1"}, NewScreen(&bytes.Buffer{}, nil), time.Minute))
}

func TestHealthyGivesUpAndNamesTheMembers(t *testing.T) {
	docker := fakeswarm.New("node1")
	docker.Tasks = []swarm.Task{task("pg-1", swarm.TaskStateFailed, swarm.TaskStateShutdown, "volume pg-1 is held by pg_1.1 on node2", 0)}
	err := Healthy(t.Context(), docker, "pg", []string{"pg-1"}, NewScreen(&bytes.Buffer{}, nil), time.Millisecond)
	assert.Assert(t, errors.Is(err, ErrTimeout))
	assert.ErrorContains(t, err, "pg-1: new before: volume pg-1 is held by pg_1.1 on node2")
}

func TestScreenPrintsChangesOnlyWhereItCannotDraw(t *testing.T) {
	var out bytes.Buffer
	s := NewScreen(&out, nil)
	s.Show([]Line{{Member: "pg-1", State: "new"}})
	s.Show([]Line{{Member: "pg-1", State: "new"}})
	s.Show([]Line{{Member: "pg-1", State: "running", Detail: "primary on node1", Healthy: true}})
	assert.Equal(t, out.String(), "  pg-1  new\n✔ pg-1  running        primary on node1\n")
}

func TestScreenDrawsAgainOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := NewScreen(&out, func() int { return 20 })
	s.Show([]Line{{Member: "pg-1", State: "new", Detail: "a text that is too long"}})
	s.Show([]Line{{Member: "pg-1", State: "new"}})
	assert.Equal(t, out.String(), "  pg-1  new       …\x1b[K\n\x1b[1A  pg-1  new\x1b[K\n")
}
