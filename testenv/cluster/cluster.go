// Package cluster runs a real multi-node Swarm on one machine: every node is a
// container with a Docker engine of its own, all on one network, with a shared
// filesystem in the place of a storage network. Nodes can be killed, cut off,
// paused, restarted and added, as machines can.
//
// A test gets a healthy Swarm with Up, breaks what it likes and leaves the next
// test a healthy one with Cluster.Heal. Nothing is kept in memory between two
// programs: what exists is read from the containers' labels.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/progress"
)

// Options say what Up makes.
type Options struct {
	// Nodes is how many nodes there are; 0 means 3. Nodes that exist beyond it stay.
	Nodes int
	// Managers is how many of them, from node 1 on, manage the Swarm; 0 means all.
	Managers int
	// StateDir holds all state; "" means host.DefaultStateDir.
	StateDir string
	// Subnet is the nodes' network; the zero value lets Up choose one that
	// nothing on this machine uses.
	Subnet netip.Prefix
	// Images are names of official images to have ready in the registry, as
	// images.Builder.Official knows them.
	Images []string
	// Progress is told what happens; nil is silent.
	Progress *progress.Reporter
}

func (o Options) withDefaults() (Options, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Managers == 0 {
		o.Managers = o.Nodes
	}
	switch {
	case o.Nodes < 1 || o.Nodes > maxNodes:
		return o, fmt.Errorf("%d nodes cannot be made: 1 to %d can", o.Nodes, maxNodes)
	case o.Managers < 1 || o.Managers > o.Nodes:
		return o, fmt.Errorf("%d managers among %d nodes cannot be: a Swarm has at least one, and no more than nodes", o.Managers, o.Nodes)
	}
	return o, nil
}

// Cluster is a Swarm on this machine.
type Cluster struct {
	// Host is the machine.
	Host *host.Host
	// Network is what the nodes are attached to.
	Network Network

	mu    sync.Mutex
	nodes []*Node
}

// ErrNotUp is what Open returns where there is no Swarm.
var ErrNotUp = errors.New("the test environment is not up; start it with `go run ./testenv up`")

// Open finds the Swarm that Up has made, in whatever state it is, and changes
// nothing.
func Open(ctx context.Context, options Options) (*Cluster, error) {
	machine, err := host.New(options.StateDir, options.Progress)
	if err != nil {
		return nil, err
	}
	network, err := findNetwork(ctx)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Host: machine, Network: network}
	if err := c.refresh(ctx); err != nil {
		return nil, err
	}
	if len(c.nodes) == 0 {
		return nil, ErrNotUp
	}
	return c, nil
}

// Exclusive waits until no other test program has the test environment to itself,
// and returns what ends our turn. Programs that break nodes take turns with it:
// go test runs the tests of several packages at once. It ends with the program,
// however that ends.
func Exclusive(ctx context.Context, options Options) (release func(), err error) {
	machine, err := host.New(options.StateDir, options.Progress)
	if err != nil {
		return nil, err
	}
	return machine.LockForTests(ctx)
}

// Nodes returns all nodes by number.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes)
}

// Node returns node number n, from 1.
func (c *Cluster) Node(n int) (*Node, error) {
	for _, node := range c.Nodes() {
		if node.Number == n {
			return node, nil
		}
	}
	return nil, fmt.Errorf("there is no node %d; `testenv status` lists the nodes", n)
}

// NodeBySwarmID returns the node that the Swarm knows by id, as a task's NodeID.
func (c *Cluster) NodeBySwarmID(ctx context.Context, id string) (*Node, error) {
	views, err := c.swarmNodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, view := range views {
		if view.ID == id {
			return c.byName(view.Description.Hostname)
		}
	}
	return nil, fmt.Errorf("the Swarm has no node %s", id)
}

func (c *Cluster) byName(name string) (*Node, error) {
	for _, node := range c.Nodes() {
		if node.Name == name {
			return node, nil
		}
	}
	return nil, fmt.Errorf("there is no node %q", name)
}

// Heal makes everything whole again: nothing cut, nothing paused, every node
// running, ready and active, and a leader. Between two tests it is what makes
// them independent.
func (c *Cluster) Heal(ctx context.Context) error {
	err := c.each(func(n *Node) error {
		if err := n.Unpause(ctx); err != nil {
			return err
		}
		if err := n.Start(ctx); err != nil {
			return err
		}
		// Every node drops its own rules, so both ends of a cut are healed.
		return n.heal(ctx, netip.Addr{})
	})
	if err != nil {
		return err
	}
	if err := c.sweep(); err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

// each runs do for all nodes at once and joins the errors.
func (c *Cluster) each(do func(*Node) error) error {
	nodes := c.Nodes()
	errs := make([]error, len(nodes))
	var group sync.WaitGroup
	for i, node := range nodes {
		group.Go(func() { errs[i] = do(node) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// pollInterval is how often states are looked at.
const pollInterval = 200 * time.Millisecond
