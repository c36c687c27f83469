// Package inventory reads what there is to be watched, the Swarm's nodes and the members of
// OpenManage's applications, and offers it to Prometheus and to Rundeck. Nothing in it is secret.
package inventory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"
	docker "github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/incontainer"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarm"
)

// State is what there is.
type State struct {
	Nodes   []Node // by hostname; of one hostname, those that are ready first
	Members []Member
	// Incomplete says why Members may not be all.
	Incomplete string
	// Unheard says why nothing newer than the records is known of the members: what a record
	// says is as old as the last leading manager's last word.
	Unheard string
}

// Node of the Swarm.
type Node struct {
	ID, Hostname, Role, Availability, State, Address string

	Engine, OS, Arch string // version of Docker, and the platform as Docker calls it
	Labels           map[string]string
}

// Ready tells whether Swarm hears from the node.
func (n Node) Ready() bool { return n.State == string(dockerswarm.NodeStateReady) }

// Member of an application.
type Member struct {
	Name, Application, Type, Volume string

	Node string // hostname
	// Role, State and Healthy are as the leading manager has recorded them.
	Role    api.Role
	State   api.MemberState
	Healthy bool
	// Live is the member's own newest word; nil: it was not heard within a lease.
	Live  *api.MemberStatus
	Usage api.Usage // of its volume
}

// Docker is the part of the Docker client, of a manager, that a Reader uses.
type Docker interface {
	store.ConfigAPI
	incontainer.API
	NodeList(ctx context.Context, options docker.NodeListOptions) (docker.NodeListResult, error)
	TaskList(ctx context.Context, options docker.TaskListOptions) (docker.TaskListResult, error)
	ContainerList(ctx context.Context, options docker.ContainerListOptions) (docker.ContainerListResult, error)
}

// Reader reads through the API of one of the Swarm's managers. It keeps nothing.
type Reader struct{ Docker Docker }

// statusPatience is how long the leading manager may take to answer: what asks for the
// inventory does not wait for ever either.
const statusPatience = 4 * time.Second

// State reads what there is now.
func (r Reader) State(ctx context.Context) (State, error) {
	var state State
	var err error
	if state.Nodes, err = r.nodes(ctx); err != nil {
		return State{}, err
	}
	apps, err := store.List[store.Application](ctx, store.New(r.Docker), store.KindApplication)
	var unreadable store.Unreadable
	switch {
	case errors.As(err, &unreadable):
		state.Incomplete = err.Error()
	case err != nil:
		return State{}, err
	}
	status, err := r.status(ctx)
	if err != nil {
		state.Unheard = err.Error()
	}
	live, usage := map[string]*api.MemberStatus{}, map[string]api.Usage{}
	for i, m := range status.Members {
		if m.Age < api.LeaseDuration {
			live[m.Volume] = &status.Members[i].MemberStatus
		}
	}
	for _, v := range status.Volumes {
		usage[v.Name] = v.Usage
	}
	for _, app := range apps {
		if app.Value.Removed != nil {
			continue
		}
		for _, m := range app.Value.Members {
			state.Members = append(state.Members, Member{
				Name: m.Name, Application: app.Name, Type: app.Value.Type, Volume: m.Volume, Node: m.Hostname,
				Role: m.Role, State: m.State, Healthy: m.Healthy, Live: live[m.Volume], Usage: usage[m.Volume],
			})
		}
	}
	return state, nil
}

func (r Reader) nodes(ctx context.Context) ([]Node, error) {
	res, err := r.Docker.NodeList(ctx, docker.NodeListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the Swarm's nodes: %w", err)
	}
	nodes := make([]Node, 0, len(res.Items))
	for _, n := range res.Items {
		d := n.Description
		nodes = append(nodes, Node{
			ID: n.ID, Hostname: d.Hostname, Role: string(n.Spec.Role), Availability: string(n.Spec.Availability),
			State: string(n.Status.State), Address: swarm.Address(n),
			Engine: d.Engine.EngineVersion, OS: d.Platform.OS, Arch: d.Platform.Architecture, Labels: n.Spec.Labels,
		})
	}
	slices.SortFunc(nodes, func(a, b Node) int {
		return cmp.Or(strings.Compare(a.Hostname, b.Hostname), readyFirst(a, b), strings.Compare(a.ID, b.ID))
	})
	return nodes, nil
}

func readyFirst(a, b Node) int {
	switch {
	case a.Ready() == b.Ready():
		return 0
	case a.Ready():
		return -1
	}
	return 1
}

// status asks the manager on this node for what no record has: the members' newest word, and how
// full volumes are.
func (r Reader) status(ctx context.Context) (api.LiveStatus, error) {
	var status api.LiveStatus
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	res, err := r.Docker.ContainerList(ctx, docker.ContainerListOptions{
		Filters: make(docker.Filters).Add("label", "com.docker.swarm.service.name="+api.StackName+"_manager").Add("status", "running"),
	})
	if err != nil {
		return status, fmt.Errorf("look for OpenManage's manager on this node: %w", err)
	}
	if len(res.Items) == 0 {
		return status, errors.New("OpenManage's manager does not run on this node")
	}
	out, stderr, code, err := incontainer.Run(ctx, r.Docker, res.Items[0].ID, []string{"openmanage", "status", "--json"})
	if err == nil && code != 0 {
		err = errors.New(strings.TrimSpace(stderr))
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &status)
	}
	if err != nil {
		return api.LiveStatus{}, fmt.Errorf("ask OpenManage's manager for the members' status: %w", err)
	}
	return status, nil
}
