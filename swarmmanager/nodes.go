package swarmmanager

import (
	"context"
	"sync"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarm"
)

// nodeView remembers the Swarm's nodes for a moment, so that a report a second
// from each node does not become a list of all nodes each.
type nodeView struct {
	cluster *swarm.Cluster

	mu    sync.Mutex
	at    time.Time
	nodes map[string]dockerswarm.Node
}

func newNodeView(c *swarm.Cluster) *nodeView { return &nodeView{cluster: c} }

// get returns the nodes by ID as they were at most age ago.
func (v *nodeView) get(ctx context.Context, age time.Duration) (map[string]dockerswarm.Node, error) {
	v.mu.Lock()
	if v.nodes != nil && time.Since(v.at) < age {
		defer v.mu.Unlock()
		return v.nodes, nil
	}
	v.mu.Unlock()
	at := time.Now()
	nodes, err := v.cluster.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.nodes, v.at = nodes, at
	return nodes, nil
}

// ready tells whether Swarm hears the node.
func ready(n dockerswarm.Node) bool { return n.Status.State == dockerswarm.NodeStateReady }

func isManager(n dockerswarm.Node) bool { return n.ManagerStatus != nil }

func toNode(n dockerswarm.Node) api.Node {
	return api.Node{ID: n.ID, Hostname: n.Description.Hostname, Addr: swarm.Address(n), Manager: isManager(n)}
}
