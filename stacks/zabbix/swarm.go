package zabbix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	docker "github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/incontainer"
	"github.com/openmanage/openmanage/internal/store"
)

// State is what there is to be monitored.
type State struct {
	Nodes   []string // hostnames
	Members []Member
	// Incomplete says why Members may not be all: nothing is deleted then.
	Incomplete string
}

// Member of an application.
type Member struct {
	Name, Application, Role, State string
	Healthy                        bool
	Disk                           *float64 // percentage of its volume that is in use; nil: it is not known
}

// Docker is the part of the Docker client, of a manager, that Swarm uses.
type Docker interface {
	store.ConfigAPI
	incontainer.API
	NodeList(ctx context.Context, options docker.NodeListOptions) (docker.NodeListResult, error)
	ContainerList(ctx context.Context, options docker.ContainerListOptions) (docker.ContainerListResult, error)
}

// Swarm is where nodes and members are read from.
type Swarm struct{ Docker Docker }

// State reads what there is now.
func (s Swarm) State(ctx context.Context) (State, error) {
	var state State
	nodes, err := s.Docker.NodeList(ctx, docker.NodeListOptions{})
	if err != nil {
		return state, fmt.Errorf("list the Swarm's nodes: %w", err)
	}
	for _, n := range nodes.Items {
		if name := n.Description.Hostname; name != "" && !slices.Contains(state.Nodes, name) {
			state.Nodes = append(state.Nodes, name)
		}
	}
	apps, err := store.List[store.Application](ctx, store.New(s.Docker), store.KindApplication)
	var unreadable store.Unreadable
	switch {
	case errors.As(err, &unreadable):
		state.Incomplete = err.Error()
	case err != nil:
		return state, err
	}
	usage := s.usage(ctx)
	for _, app := range apps {
		if app.Value.Removed != nil {
			continue
		}
		for _, m := range app.Value.Members {
			one := Member{Name: m.Name, Application: app.Name, Role: string(m.Role), State: string(m.State), Healthy: m.Healthy}
			if percent, ok := usage[m.Volume]; ok {
				one.Disk = &percent
			}
			state.Members = append(state.Members, one)
		}
	}
	return state, nil
}

// usage asks the manager on this node how full volumes are, which no record has. There may
// be none, on a node that is drained, and then it is not known.
func (s Swarm) usage(ctx context.Context) map[string]float64 {
	res, err := s.Docker.ContainerList(ctx, docker.ContainerListOptions{
		Filters: make(docker.Filters).Add("label", "com.docker.swarm.service.name="+api.StackName+"_manager").Add("status", "running"),
	})
	if err != nil || len(res.Items) == 0 {
		return nil
	}
	var status api.LiveStatus
	if out, err := s.status(ctx, res.Items[0]); err != nil || json.Unmarshal([]byte(out), &status) != nil {
		return nil
	}
	usage := map[string]float64{}
	for _, v := range status.Volumes {
		if v.Known() {
			usage[v.Name] = v.Percent()
		}
	}
	return usage
}

func (s Swarm) status(ctx context.Context, manager container.Summary) (string, error) {
	out, stderr, code, err := incontainer.Run(ctx, s.Docker, manager.ID, []string{"openmanage", "status", "--json"})
	if err == nil && code != 0 {
		err = errors.New(strings.TrimSpace(stderr))
	}
	return out, err
}
