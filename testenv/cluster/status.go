package cluster

import (
	"context"
	"sync"

	"github.com/moby/moby/api/types/swarm"
)

// NodeStatus is what there is to say about a node.
type NodeStatus struct {
	Name         string
	IP           string
	Container    string // running, paused, exited
	Storage      string // shared, local
	SwarmID      string
	Role         string // leader, manager, worker
	State        string // what the Swarm says: ready, down, unknown
	Availability string
	Engine       string // version
	Cuts         []CutOff
}

// Status describes every node. What the Swarm says is left out, with the
// reason, when no manager answers.
func (c *Cluster) Status(ctx context.Context) (statuses []NodeStatus, swarmError error, err error) {
	views, swarmError := c.swarmNodes(ctx)
	byName := map[string]swarm.Node{}
	for _, view := range views {
		if known, ok := byName[view.Description.Hostname]; !ok || known.Status.State != swarm.NodeStateReady {
			byName[view.Description.Hostname] = view
		}
	}
	var mu sync.Mutex
	byNumber := map[int]NodeStatus{}
	err = c.each(func(n *Node) error {
		status, err := n.status(ctx)
		if err != nil {
			return err
		}
		if view, ok := byName[n.Name]; ok {
			status.describe(view)
		}
		mu.Lock()
		defer mu.Unlock()
		byNumber[n.Number] = status
		return nil
	})
	for _, node := range c.Nodes() {
		statuses = append(statuses, byNumber[node.Number])
	}
	return statuses, swarmError, err
}

func (n *Node) status(ctx context.Context) (NodeStatus, error) {
	status := NodeStatus{Name: n.Name, IP: n.IP().String(), Storage: "shared"}
	if n.Local {
		status.Storage = "local"
	}
	var err error
	if status.Container, err = n.State(ctx); err != nil {
		return status, err
	}
	if status.Container == "running" || status.Container == "paused" {
		status.Cuts, err = n.Cuts(ctx)
	}
	return status, err
}

func (s *NodeStatus) describe(view swarm.Node) {
	s.SwarmID = view.ID
	s.State = string(view.Status.State)
	s.Availability = string(view.Spec.Availability)
	s.Engine = view.Description.Engine.EngineVersion
	s.Role = string(view.Spec.Role)
	if view.ManagerStatus != nil && view.ManagerStatus.Leader {
		s.Role = "leader"
	}
}
