package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/testenv/host"
)

// Node is one machine of the Swarm: a container with a Docker engine of its own.
type Node struct {
	// Number counts from 1.
	Number int
	// Name is the node's hostname: node1.
	Name string
	// Manager says whether it was made to manage the Swarm.
	Manager bool
	// Local says whether its storage folder is its own.
	Local bool

	cluster *Cluster
	client  *client.Client
}

// Container is the name of the node's container.
func (n *Node) Container() string { return containerName(n.Number) }

// IP is the node's address, which it keeps for life.
func (n *Node) IP() netip.Addr { return n.cluster.Network.Address(n.Number) }

// Client talks to the node's engine. It goes through a socket in a shared
// folder, so it works though the node's network is cut.
func (n *Node) Client() *client.Client { return n.client }

// Storage is the folder on this machine that the node has at StoragePath.
func (n *Node) Storage() string {
	return n.cluster.storageOf(nodeSpec{Number: n.Number, Local: n.Local})
}

// SwarmID is the node's ID in the Swarm, as its engine knows it.
func (n *Node) SwarmID(ctx context.Context) (string, error) {
	info, err := n.client.Info(ctx, client.InfoOptions{})
	if err != nil {
		return "", fmt.Errorf("%s: %w", n.Name, err)
	}
	return info.Info.Swarm.NodeID, nil
}

// Exec runs a command on the node, outside of any container of its engine.
func (n *Node) Exec(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	full := append([]string{"--host", host.EngineHost, "exec", n.Container()}, args...)
	stdout, stderr, err = host.Output(ctx, "docker", full...)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w: %s", n.Name, strings.Join(args, " "), err, strings.TrimSpace(stderr))
	}
	return stdout, stderr, err
}

// Put copies a file of this machine to the node, with its mode.
func (n *Node) Put(ctx context.Context, file, path string) error {
	_, err := host.Docker(ctx, "cp", "--quiet", file, n.Container()+":"+path)
	return err
}

// State is that of the node's container: running, paused, exited.
func (n *Node) State(ctx context.Context) (string, error) {
	out, err := host.Docker(ctx, "inspect", "--format", "{{.State.Status}}", n.Container())
	return strings.TrimSpace(out), err
}

// Start switches the node on again after Kill. It comes back as the machine it
// was. A node that runs is left alone.
func (n *Node) Start(ctx context.Context) error {
	state, err := n.State(ctx)
	if err != nil || state == "paused" {
		return err
	}
	if state != "running" {
		if err := startContainer(ctx, n.Container()); err != nil {
			return fmt.Errorf("%s cannot be started: %w", n.Name, err)
		}
	}
	return n.waitEngine(ctx)
}

// freezes is how often it is tried to freeze a node.
const freezes = 10

// Pause freezes everything on the node, as a hypervisor that suspends a machine. A node
// whose processes come and go by the hundred may escape once or twice.
func (n *Node) Pause(ctx context.Context) error {
	if state, err := n.State(ctx); err != nil || state == "paused" {
		return err
	}
	var err error
	for range freezes {
		_, err = host.Docker(ctx, "pause", n.Container())
		if err == nil || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
	}
	return err
}

// Unpause lets a paused node go on.
func (n *Node) Unpause(ctx context.Context) error {
	if state, err := n.State(ctx); err != nil || state != "paused" {
		return err
	}
	_, err := host.Docker(ctx, "unpause", n.Container())
	return err
}

// RestartDocker restarts the node's engine: in order, or with kill -9.
func (n *Node) RestartDocker(ctx context.Context, kill bool) error {
	signal := "-TERM"
	if kill {
		signal = "-KILL"
	}
	before, err := n.enginePID(ctx)
	if err != nil {
		return err
	}
	if _, _, err := n.Exec(ctx, "kill", signal, strconv.Itoa(before)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = host.Poll(ctx, pollInterval, n.Name+": dockerd does not come back", func() (bool, error) {
		now, err := n.enginePID(ctx)
		return err == nil && now != before, err
	})
	if err != nil {
		return err
	}
	return n.waitEngine(ctx)
}

func (n *Node) enginePID(ctx context.Context) (int, error) {
	out, _, err := n.Exec(ctx, "cat", "/run/openmanage/dockerd.pid")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// KillPlugin ends the process of a managed plugin with kill -9. The node's
// engine starts it again.
func (n *Node) KillPlugin(ctx context.Context, name string) error {
	found, err := n.client.PluginInspect(ctx, name, client.PluginInspectOptions{})
	if err != nil {
		return fmt.Errorf("%s: plugin %s: %w", n.Name, name, err)
	}
	pids, err := host.PIDsInCgroup(found.Plugin.ID)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("%s: plugin %s is not running (enabled: %t)", n.Name, name, found.Plugin.Enabled)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("%s: kill -9 of process %d: %w", n.Name, pid, err)
		}
	}
	return nil
}

// Socket is where the node's engine answers on this machine, whatever its network.
func (n *Node) Socket() string { return filepath.Join(n.cluster.socketDir(n.Number), "docker.sock") }

func (n *Node) waitEngine(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	what := fmt.Sprintf("%s: its engine does not answer; see `docker logs %s`", n.Name, n.Container())
	return host.Poll(ctx, 100*time.Millisecond, what, func() (bool, error) {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := n.client.Ping(attempt, client.PingOptions{})
		return err == nil, err
	})
}

// refresh reads which nodes exist.
func (c *Cluster) refresh(ctx context.Context) error {
	out, err := host.Docker(ctx, "ps", "--all", "--filter", "label="+labelNode, "--filter", "network="+networkName,
		"--format", `{{.Label "`+labelNode+`"}} {{.Label "`+labelManager+`"}} {{.Label "`+labelLocal+`"}}`)
	if err != nil {
		return err
	}
	specs, err := parseNodes(out)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.nodes
	c.nodes = nil
	for _, spec := range specs {
		i := slices.IndexFunc(known, func(n *Node) bool { return n.Number == spec.Number })
		if i >= 0 {
			c.nodes = append(c.nodes, known[i])
			continue
		}
		node := &Node{Number: spec.Number, Name: nodeName(spec.Number), Manager: spec.Manager, Local: spec.Local, cluster: c}
		if node.client, err = client.New(client.WithHost("unix://" + node.Socket())); err != nil {
			return err
		}
		c.nodes = append(c.nodes, node)
	}
	return nil
}

func parseNodes(text string) ([]nodeSpec, error) {
	var specs []nodeSpec
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("a node container has labels %q, which are not ours; remove it with `testenv down`", strings.TrimSpace(line))
		}
		number, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, fmt.Errorf("a node container has number %q", fields[0])
		}
		specs = append(specs, nodeSpec{Number: number, Manager: fields[1] == "true", Local: fields[2] == "true"})
	}
	slices.SortFunc(specs, func(a, b nodeSpec) int { return a.Number - b.Number })
	return specs, nil
}
