package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/testenv/host"
)

const swarmPort = "2377"

// ensureSwarm has every node be part of the Swarm, which the first one starts.
func (c *Cluster) ensureSwarm(ctx context.Context) error {
	states, err := c.memberships(ctx)
	if lost := c.without(states); len(lost) > 0 {
		// Without a majority of managers there is no Swarm to join anew.
		if _, noSwarm := c.swarmNodes(ctx); noSwarm != nil {
			return fmt.Errorf("the Swarm does not come back; `testenv down` and `testenv up` make a new one: %w", err)
		}
		if err := c.rejoin(ctx, lost); err != nil {
			return err
		}
		states, err = c.memberships(ctx)
	}
	if err != nil {
		return err
	}
	var inside *Node
	var outside []*Node
	for _, node := range c.Nodes() {
		switch state := states[node.Number]; {
		case state.LocalNodeState == swarm.LocalNodeStateInactive:
			outside = append(outside, node)
		case state.ControlAvailable && inside == nil:
			inside = node
		}
	}
	if len(outside) == 0 {
		return nil
	}
	if inside == nil {
		inside, outside = outside[0], outside[1:]
		c.Host.Progress.Step("starting a Swarm on %s", inside.Name)
		_, err := inside.client.SwarmInit(ctx, client.SwarmInitOptions{
			ListenAddr: "0.0.0.0:" + swarmPort, AdvertiseAddr: inside.IP().String(), DataPathAddr: inside.IP().String(),
			// Away from the node network and from what nodes' bridges take.
			DefaultAddrPool: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")}, SubnetSize: 24,
		})
		if err != nil {
			return fmt.Errorf("%s: cannot start a Swarm: %w", inside.Name, err)
		}
	}
	return c.join(ctx, inside, outside)
}

// memberships asks every engine about its own membership, and waits for those
// that have just started to know.
func (c *Cluster) memberships(ctx context.Context) (map[int]swarm.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var mu sync.Mutex
	states := map[int]swarm.Info{}
	err := c.each(func(n *Node) error {
		return host.Poll(ctx, pollInterval, n.Name+": its engine does not settle on a Swarm state", func() (bool, error) {
			state, err := n.membership(ctx)
			if err != nil {
				return false, err
			}
			switch state.LocalNodeState {
			case swarm.LocalNodeStateActive, swarm.LocalNodeStateInactive:
				mu.Lock()
				defer mu.Unlock()
				states[n.Number] = state
				return true, nil
			}
			return false, fmt.Errorf("it is %s %s", state.LocalNodeState, state.Error)
		})
	})
	return states, err
}

// membership is what the node's engine says of itself. An engine that waits for
// its Swarm hangs, so it is given a moment only.
func (n *Node) membership(ctx context.Context) (swarm.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info, err := n.client.Info(ctx, client.InfoOptions{})
	return info.Info.Swarm, err
}

// without returns the nodes that states lack.
func (c *Cluster) without(states map[int]swarm.Info) []*Node {
	return slices.DeleteFunc(c.Nodes(), func(n *Node) bool {
		_, known := states[n.Number]
		return known
	})
}

// settleTimeout is what a Swarm needs after all its nodes were started at once:
// an election and, on a slow machine, another.
const settleTimeout = 45 * time.Second

// join has nodes join one after another: managers change the Raft group, which
// takes one change at a time.
func (c *Cluster) join(ctx context.Context, manager *Node, nodes []*Node) error {
	if len(nodes) == 0 {
		return nil
	}
	var inspect client.SwarmInspectResult
	err := host.Poll(ctx, pollInterval, manager.Name+": no join tokens", func() (bool, error) {
		var err error
		inspect, err = manager.client.SwarmInspect(ctx, client.SwarmInspectOptions{})
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for _, node := range nodes {
		token := inspect.Swarm.JoinTokens.Worker
		if node.Manager {
			token = inspect.Swarm.JoinTokens.Manager
		}
		c.Host.Progress.Step("%s joins the Swarm", node.Name)
		_, err = node.client.SwarmJoin(ctx, client.SwarmJoinOptions{
			ListenAddr: "0.0.0.0:" + swarmPort, AdvertiseAddr: node.IP().String(), DataPathAddr: node.IP().String(),
			RemoteAddrs: []string{manager.IP().String() + ":" + swarmPort}, JoinToken: token,
		})
		if err != nil {
			return fmt.Errorf("%s cannot join the Swarm of %s: %w", node.Name, manager.Name, err)
		}
	}
	return nil
}

// WaitReady waits until the Swarm has a leader and calls every node ready. A
// node that somebody has drained or paused is made active again.
func (c *Cluster) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*startTimeout)
	defer cancel()
	began, restarted := time.Now(), map[string]bool{}
	return host.Poll(ctx, pollInterval, "the Swarm does not become healthy; `testenv down` and `testenv up` make a new one", func() (bool, error) {
		views, err := c.swarmNodes(ctx)
		if err != nil {
			return false, err
		}
		byName := map[string]swarm.Node{}
		for _, view := range views {
			// After a node was made anew the old one is still listed, down.
			if known, ok := byName[view.Description.Hostname]; !ok || known.Status.State != swarm.NodeStateReady {
				byName[view.Description.Hostname] = view
			}
		}
		for _, node := range c.Nodes() {
			view, ok := byName[node.Name]
			if !ok {
				return false, fmt.Errorf("%s is not in the Swarm", node.Name)
			}
			if err := notReady(view); err != nil {
				// Now and then an engine that runs does not find its way back to the
				// Swarm's leader. What helps an administrator helps here.
				if time.Since(began) > settleTimeout && !restarted[node.Name] {
					restarted[node.Name] = true
					c.Host.Progress.Step("restarting the engine of %s: %v", node.Name, err)
					if err := node.RestartDocker(ctx, false); err != nil {
						return false, fmt.Errorf("%s: %w", node.Name, err)
					}
				}
				return false, fmt.Errorf("%s: %w", node.Name, err)
			}
			if view.Spec.Availability != swarm.NodeAvailabilityActive {
				if err := c.activate(ctx, view); err != nil {
					return false, fmt.Errorf("%s: %w", node.Name, err)
				}
			}
		}
		return true, nil
	})
}

func notReady(view swarm.Node) error {
	if view.Status.State != swarm.NodeStateReady {
		return fmt.Errorf("the Swarm calls it %s %s", view.Status.State, view.Status.Message)
	}
	if view.ManagerStatus != nil && view.ManagerStatus.Reachability != swarm.ReachabilityReachable {
		return errors.New("its manager is not reachable")
	}
	return nil
}

func (c *Cluster) activate(ctx context.Context, view swarm.Node) error {
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	spec := view.Spec
	spec.Availability = swarm.NodeAvailabilityActive
	_, err = leader.client.NodeUpdate(ctx, view.ID, client.NodeUpdateOptions{Version: view.Version, Spec: spec})
	return err
}

// WaitReady waits until the Swarm calls the node ready.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return host.Poll(ctx, pollInterval, n.Name+" does not become ready", func() (bool, error) {
		views, err := n.cluster.swarmNodes(ctx)
		if err != nil {
			return false, err
		}
		err = fmt.Errorf("%s is not in the Swarm", n.Name)
		for _, view := range views {
			if view.Description.Hostname == n.Name {
				if err = notReady(view); err == nil {
					return true, nil
				}
			}
		}
		return false, err
	})
}

// Leader is the node whose manager leads the Swarm.
func (c *Cluster) Leader(ctx context.Context) (*Node, error) {
	views, err := c.swarmNodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, view := range views {
		if view.ManagerStatus != nil && view.ManagerStatus.Leader {
			return c.byName(view.Description.Hostname)
		}
	}
	return nil, errors.New("the Swarm has no leader at the moment")
}

// swarmNodes is what the majority of the managers say about the nodes. One
// manager's word is not enough: a leader that was cut off calls itself the
// leader for some seconds more. It returns as soon as a majority agrees, and
// does not wait for managers that hang.
func (c *Cluster) swarmNodes(ctx context.Context) ([]swarm.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nodes := c.Nodes()
	answers := make(chan answer, len(nodes))
	managers := 0
	for _, node := range nodes {
		if node.Manager {
			managers++
		}
		go func() {
			list, err := node.client.NodeList(ctx, client.NodeListOptions{})
			if err != nil {
				err = fmt.Errorf("%s: %w", node.Name, err)
			}
			answers <- answer{node: node, view: list.Items, err: err}
		}()
	}
	return poll(answers, len(nodes), managers/2+1)
}

// An answer is what one engine says about the Swarm's nodes.
type answer struct {
	node *Node
	view []swarm.Node
	err  error
}

// poll counts the answers by the leader that they name, until majority agree or
// all have answered; then most votes win.
func poll(answers <-chan answer, count, majority int) ([]swarm.Node, error) {
	votes := map[string][]answer{}
	var errs []error
	for range count {
		got := <-answers
		leader := leaderID(got.view)
		switch {
		case got.err != nil && !got.node.Manager: // workers do not know
		case got.err != nil:
			errs = append(errs, got.err)
		case leader == "":
			errs = append(errs, fmt.Errorf("%s knows no leader", got.node.Name))
		default:
			votes[leader] = append(votes[leader], got)
		}
		if leader != "" && len(votes[leader]) >= majority {
			break
		}
	}
	var best []answer
	for _, agreeing := range votes {
		if len(agreeing) > len(best) {
			best = agreeing
		}
	}
	if len(best) == 0 {
		return nil, fmt.Errorf("no manager answers: %w", errors.Join(errs...))
	}
	return best[0].view, nil
}

func leaderID(nodes []swarm.Node) string {
	for _, node := range nodes {
		if node.ManagerStatus != nil && node.ManagerStatus.Leader {
			return node.ID
		}
	}
	return ""
}
