package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/testenv/host"
)

// rejoin has nodes that cannot find back into the Swarm join it anew. A manager
// that was killed within moments of its joining is one: it answers the leader's
// heartbeats to a member it does not know yet, forever. On a real machine
// somebody removes the node and lets it join again; so do we. What the node's
// engine stored is lost, what lies in its storage folder is not.
func (c *Cluster) rejoin(ctx context.Context, lost []*Node) error {
	maker, err := newMaker(ctx, c)
	if err != nil {
		return err
	}
	for _, node := range lost {
		c.Host.Progress.Step("%s does not find back into the Swarm: it joins anew", node.Name)
		if err := c.forget(ctx, node); err != nil {
			return fmt.Errorf("%s cannot be taken out of the Swarm: %w", node.Name, err)
		}
		if _, err := host.Docker(ctx, "rm", "--force", node.Container()); err != nil {
			return err
		}
		if _, err := host.Docker(ctx, "volume", "rm", "--force", volumeName(node.Number)); err != nil {
			return err
		}
		spec := nodeSpec{Number: node.Number, Manager: node.Manager, Local: node.Local}
		if err := maker.ensureNode(ctx, spec); err != nil {
			return err
		}
		if err := node.waitEngine(ctx); err != nil {
			return err
		}
	}
	return nil
}

// forget removes all that the Swarm knows under the node's name.
func (c *Cluster) forget(ctx context.Context, node *Node) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return host.Poll(ctx, pollInterval, "the Swarm still lists it", func() (bool, error) {
		views, err := c.swarmNodes(ctx)
		if err != nil {
			return false, err
		}
		leader, err := c.Leader(ctx)
		if err != nil {
			return false, err
		}
		listed := false
		for _, view := range views {
			if view.Description.Hostname != node.Name {
				continue
			}
			listed = true
			if err := remove(ctx, leader.client, view); err != nil {
				return false, err
			}
		}
		return !listed, nil
	})
}

// remove takes a node out of the Swarm; a manager must be demoted first.
func remove(ctx context.Context, leader *client.Client, view swarm.Node) error {
	if view.Spec.Role == swarm.NodeRoleManager {
		spec := view.Spec
		spec.Role = swarm.NodeRoleWorker
		_, err := leader.NodeUpdate(ctx, view.ID, client.NodeUpdateOptions{Version: view.Version, Spec: spec})
		if err != nil {
			return err
		}
		return errors.New("it is being demoted")
	}
	_, err := leader.NodeRemove(ctx, view.ID, client.NodeRemoveOptions{Force: true})
	return err
}
