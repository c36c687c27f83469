// Package component is about the services of an application beside its members, which Swarm alone looks
// after: how they are, and how they are rolled, stopped and started.
package component

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
)

// State is how a component is.
type State struct {
	Name    string // of the component in its application's network, such as zb-web
	Wanted  int    // tasks
	Running int    // of them; Swarm counts one as running once its health check has passed
	Nodes   []string
	Problem string // of a task that is to run and does not, the newest
	Stopped bool
}

// Healthy tells whether all tasks run.
func (s State) Healthy() bool { return !s.Stopped && s.Wanted > 0 && s.Running == s.Wanted }

func (s State) String() string {
	if s.Stopped {
		return "stopped"
	}
	return fmt.Sprintf("%d of %d running", s.Running, s.Wanted)
}

// Labels that a stopped component has, until it is started.
const (
	labelReplicas = "openmanage.component.replicas" // how many it had
	// A global service has no number: it is stopped by a constraint that no node meets.
	stopped = "node.labels.openmanage.stopped == true"
)

// Of returns the services of an application's components among services, in the order of their names.
func Of(services []swarm.Service) []swarm.Service {
	var found []swarm.Service
	for _, s := range services {
		if s.Spec.Labels[api.LabelComponent] != "" && s.Spec.Labels[api.LabelMember] == "" {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b swarm.Service) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	return found
}

// Name is that of a component's service in its application's network.
func Name(s swarm.Service) string {
	return s.Spec.Labels[api.LabelApplication] + "-" + s.Spec.Labels[api.LabelComponent]
}

// States says how components are.
func States(components []swarm.Service, tasks []swarm.Task, hostname func(node string) string) []State {
	states := make([]State, 0, len(components))
	for _, s := range components {
		state := State{Name: Name(s), Stopped: IsStopped(s)}
		if r := s.Spec.Mode.Replicated; r != nil && r.Replicas != nil {
			state.Wanted = int(*r.Replicas)
		}
		newest := time.Time{}
		for _, t := range tasks {
			if t.ServiceID != s.ID || stackdeploy.Over(t.DesiredState) {
				continue
			}
			if s.Spec.Mode.Global != nil {
				state.Wanted++
			}
			if t.Status.State == swarm.TaskStateRunning {
				state.Running++
				state.Nodes = append(state.Nodes, hostname(t.NodeID))
			} else if t.Status.Err != "" && t.CreatedAt.After(newest) {
				state.Problem, newest = t.Status.Err, t.CreatedAt
			}
		}
		if state.Problem == "" && !state.Healthy() {
			state.Problem = lastFailure(s.ID, tasks)
		}
		slices.Sort(state.Nodes)
		states = append(states, state)
	}
	return states
}

// lastFailure is why the newest task that has failed did.
func lastFailure(service string, tasks []swarm.Task) string {
	problem, newest := "", time.Time{}
	for _, t := range tasks {
		if t.ServiceID == service && (t.Status.State == swarm.TaskStateFailed || t.Status.State == swarm.TaskStateRejected) && t.CreatedAt.After(newest) {
			problem, newest = "before: "+t.Status.Err, t.CreatedAt
		}
	}
	return problem
}

// IsStopped tells whether Stop has been asked of a component.
func IsStopped(s swarm.Service) bool {
	if s.Spec.Mode.Global != nil {
		return s.Spec.TaskTemplate.Placement != nil && slices.Contains(s.Spec.TaskTemplate.Placement.Constraints, stopped)
	}
	return s.Spec.Labels[labelReplicas] != ""
}

// Change edits a service as it is now, and writes it, unless edit says that there is nothing to do.
func Change(ctx context.Context, docker client.ServiceAPIClient, id string, edit func(*swarm.ServiceSpec) bool) (changed bool, err error) {
	for {
		res, err := docker.ServiceInspect(ctx, id, client.ServiceInspectOptions{})
		if err != nil {
			return false, err
		}
		spec := res.Service.Spec
		if !edit(&spec) {
			return false, nil
		}
		_, err = docker.ServiceUpdate(ctx, id, client.ServiceUpdateOptions{Version: res.Service.Version, Spec: spec})
		if err == nil || !strings.Contains(err.Error(), "update out of sequence") {
			return err == nil, err
		}
	}
}

// Stop has no task of a component run.
func Stop(spec *swarm.ServiceSpec) bool {
	if spec.Mode.Global != nil {
		if spec.TaskTemplate.Placement == nil {
			spec.TaskTemplate.Placement = &swarm.Placement{}
		}
		constraints := &spec.TaskTemplate.Placement.Constraints
		if slices.Contains(*constraints, stopped) {
			return false
		}
		*constraints = append(slices.Clone(*constraints), stopped)
		return true
	}
	r := spec.Mode.Replicated
	if r == nil || r.Replicas == nil || spec.Labels[labelReplicas] != "" {
		return false
	}
	spec.Labels[labelReplicas] = strconv.FormatUint(*r.Replicas, 10)
	none := uint64(0)
	spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &none}
	return true
}

// Start takes back what Stop has done.
func Start(spec *swarm.ServiceSpec) bool {
	if spec.Mode.Global != nil {
		p := spec.TaskTemplate.Placement
		if p == nil || !slices.Contains(p.Constraints, stopped) {
			return false
		}
		p.Constraints = slices.DeleteFunc(slices.Clone(p.Constraints), func(c string) bool { return c == stopped })
		return true
	}
	text := spec.Labels[labelReplicas]
	if text == "" {
		return false
	}
	delete(spec.Labels, labelReplicas)
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		n = 1
	}
	spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
	return true
}

// Roll has every task of a component started anew, with another image if it is not "".
func Roll(image string) func(*swarm.ServiceSpec) bool {
	return func(spec *swarm.ServiceSpec) bool {
		if image == "" && IsStopped(swarm.Service{Spec: *spec}) {
			return false // there is no task to start anew
		}
		if image == "" {
			spec.TaskTemplate.ForceUpdate++
			return true
		}
		if spec.TaskTemplate.ContainerSpec == nil || spec.TaskTemplate.ContainerSpec.Image == image {
			return false
		}
		spec.TaskTemplate.ContainerSpec.Image = image
		return true
	}
}

// Await waits until all components of an application are as done says.
func Await(ctx context.Context, docker client.APIClient, application string, done func(State) bool, say func(string)) error {
	said := map[string]string{}
	for {
		services, err := stackdeploy.Services(ctx, docker, application)
		var tasks []swarm.Task
		if err == nil {
			tasks, err = stackdeploy.Tasks(ctx, docker, application)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		left := 0
		for _, s := range States(Of(services), tasks, func(id string) string { return id }) {
			if line := strings.TrimSpace(fmt.Sprintf("%s: %s %s", s.Name, s, s.Problem)); said[s.Name] != line {
				said[s.Name] = line
				say(line)
			}
			if !done(s) {
				left++
			}
		}
		if err == nil && left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// ErrRolledBack: Swarm has taken an update back, since a task did not get healthy.
var ErrRolledBack = errors.New("it was rolled back")

// Follow waits until Swarm has carried out the update of a service that was written last.
func Follow(ctx context.Context, docker client.ServiceAPIClient, s swarm.Service, say func(string)) error {
	said := ""
	for {
		res, err := docker.ServiceInspect(ctx, s.ID, client.ServiceInspectOptions{})
		if err != nil && ctx.Err() == nil {
			return err
		}
		if u := res.Service.UpdateStatus; err == nil && u != nil {
			if line := fmt.Sprintf("%s: %s", Name(s), u.Message); line != said {
				said = line
				say(line)
			}
			switch u.State {
			case swarm.UpdateStateCompleted:
				return nil
			case swarm.UpdateStateRollbackCompleted:
				return fmt.Errorf("%s: %w: %s", Name(s), ErrRolledBack, u.Message)
			case swarm.UpdateStatePaused, swarm.UpdateStateRollbackPaused:
				return fmt.Errorf("%s: Swarm has stopped its update: %s\nSee why with: docker service ps --no-trunc %s", Name(s), u.Message, s.Spec.Name)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}
