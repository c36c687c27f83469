package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/images"
)

// Up makes the Swarm that options describe, and uses what is there: called
// again it takes a moment. It starts over whatever an earlier run has left,
// even one that was killed together with its engine.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	machine, err := host.New(options.StateDir, options.Progress)
	if err != nil {
		return nil, err
	}
	unlock, err := machine.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	c := &Cluster{Host: machine}
	if err := c.prepareHost(ctx, options); err != nil {
		return nil, err
	}
	if err := c.ensureAll(ctx, options); err != nil {
		return nil, err
	}
	machine.Progress.Step("Swarm is up: %s", c.summary())
	return c, nil
}

// ensureAll makes images at the same time as nodes: both take a while at the
// first time and neither needs the other.
func (c *Cluster) ensureAll(ctx context.Context, options Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	built := make(chan error, 1)
	go func() { built <- (&images.Builder{Host: c.Host}).EnsureOfficial(ctx, options.Images...) }()
	err := c.ensureNodes(ctx, options)
	if err == nil {
		err = c.ensureSwarm(ctx)
	}
	if err == nil {
		err = c.WaitReady(ctx)
	}
	if err == nil {
		err = c.ensureContext(ctx)
	}
	if err != nil {
		cancel()
		<-built //nolint:errcheck // only that it was stopped
		return err
	}
	return <-built
}

// Prepare readies a machine to build and keep images, without any node.
func Prepare(ctx context.Context, machine *host.Host) (*images.Builder, error) {
	if err := machine.EnsurePackages(ctx); err != nil {
		return nil, err
	}
	if err := machine.EnsureEngine(ctx); err != nil {
		return nil, err
	}
	if err := machine.EnsureRegistry(ctx, "127.0.0.1"); err != nil {
		return nil, err
	}
	return &images.Builder{Host: machine}, nil
}

func (c *Cluster) prepareHost(ctx context.Context, options Options) error {
	if _, err := Prepare(ctx, c.Host); err != nil {
		return err
	}
	var err error
	if c.Network, err = ensureNetwork(ctx, options.Subnet); err != nil {
		return err
	}
	if err := c.Host.EnsureRegistry(ctx, c.Network.Gateway().String()); err != nil {
		return err
	}
	return c.Host.EnsureStorage(ctx)
}

func (c *Cluster) ensureNodes(ctx context.Context, options Options) error {
	if err := c.refresh(ctx); err != nil {
		return err
	}
	maker, err := newMaker(ctx, c)
	if err != nil {
		return err
	}
	var wanted []nodeSpec
	for _, node := range c.Nodes() {
		wanted = append(wanted, nodeSpec{Number: node.Number, Manager: node.Manager, Local: node.Local})
	}
	for number := 1; number <= options.Nodes; number++ {
		if _, err := c.Node(number); err != nil {
			wanted = append(wanted, nodeSpec{Number: number, Manager: number <= options.Managers})
		}
	}
	if err := maker.ensure(ctx, wanted); err != nil {
		return err
	}
	if err := c.refresh(ctx); err != nil {
		return err
	}
	return c.each(func(n *Node) error {
		if err := n.Unpause(ctx); err != nil {
			return err
		}
		return n.waitEngine(ctx)
	})
}

// AddOptions say what node Add makes.
type AddOptions struct {
	// Manager makes it manage the Swarm; otherwise it is a worker.
	Manager bool
	// LocalStorage gives it a storage folder of its own in the place of the
	// shared one.
	LocalStorage bool
}

// Add makes one more node and has it join the Swarm.
func (c *Cluster) Add(ctx context.Context, options AddOptions) (*Node, error) {
	unlock, err := c.Host.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.refresh(ctx); err != nil {
		return nil, err
	}
	number := 1
	for _, node := range c.Nodes() {
		number = max(number, node.Number+1)
	}
	if number > maxNodes {
		return nil, fmt.Errorf("there are %d nodes already, and no more addresses", maxNodes)
	}
	maker, err := newMaker(ctx, c)
	if err != nil {
		return nil, err
	}
	spec := nodeSpec{Number: number, Manager: options.Manager, Local: options.LocalStorage}
	if err := maker.ensure(ctx, []nodeSpec{spec}); err != nil {
		return nil, err
	}
	if err := c.refresh(ctx); err != nil {
		return nil, err
	}
	node, err := c.Node(number)
	if err != nil {
		return nil, err
	}
	if err := node.waitEngine(ctx); err != nil {
		return nil, err
	}
	if err := c.ensureSwarm(ctx); err != nil {
		return nil, err
	}
	return node, node.WaitReady(ctx)
}

// ensureContext makes the Docker context "openmanage", which is node 1.
func (c *Cluster) ensureContext(ctx context.Context) error {
	node, err := c.Node(1)
	if err != nil {
		return err
	}
	endpoint := "unix://" + node.Socket()
	out, _, err := host.Output(ctx, "docker", "context", "inspect", ContextName, "--format", "{{.Endpoints.docker.Host}}")
	verb := "update"
	if err != nil {
		verb = "create"
	} else if out == endpoint+"\n" {
		return nil
	}
	_, err = host.Run(ctx, "docker", "context", verb, ContextName,
		"--description", "OpenManage's test environment, node 1", "--docker", "host="+endpoint)
	return err
}

// ContextName is the Docker context of node 1's engine.
const ContextName = "openmanage"

func (c *Cluster) summary() string {
	managers := 0
	for _, node := range c.Nodes() {
		if node.Manager {
			managers++
		}
	}
	return fmt.Sprintf("%d nodes, %d managers; try `docker --context %s node ls`", len(c.Nodes()), managers, ContextName)
}

const startTimeout = 90 * time.Second

// Remove takes a node out of the Swarm for good, with all that its engine stores.
func (c *Cluster) Remove(ctx context.Context, node *Node) error {
	unlock, err := c.Host.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := node.Kill(ctx); err != nil {
		return err
	}
	if err := c.forget(ctx, node); err != nil {
		return err
	}
	if _, err := host.Docker(ctx, "rm", "--force", "--volumes", node.Container()); err != nil {
		return err
	}
	if _, err := host.Docker(ctx, "volume", "rm", "--force", volumeName(node.Number)); err != nil {
		return err
	}
	return c.refresh(ctx)
}
