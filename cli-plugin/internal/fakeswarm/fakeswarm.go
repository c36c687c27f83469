// Package fakeswarm is a Docker client for tests: a Swarm in memory, as far as
// the commands use it, with function fields for what a test wants to be different.
package fakeswarm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// Client is a daemon that is a Swarm's manager. What has no method here panics.
type Client struct {
	client.APIClient

	mu       sync.Mutex
	index    uint64
	configs  []swarm.Config
	Services []swarm.Service
	Tasks    []swarm.Task
	Nodes    []swarm.Node
	Secrets  []swarm.Secret
	Networks []network.Network
	Daemon   system.Info
	Autolock bool

	InfoFunc                func() (system.Info, error)
	DistributionInspectFunc func(image string) error
	ConfigListFunc          func() error // an error to answer instead
	ContainerListFunc       func() (client.ContainerListResult, error)
	ServiceLogsFunc         func(service string, options client.ServiceLogsOptions) (io.ReadCloser, error)
	ServiceRemoveFunc       func(service string) error
	// OnServiceCreate is called with each service that was made, outside of the lock.
	OnServiceCreate func(swarm.Service)
	// ExecFunc is what a command in the manager's container does; without it no manager
	// runs on the node.
	ExecFunc func(cmd []string) (stdout, stderr string, code int)
	execs    [][]string
	// OnConfigChange is called after each write of a record, outside of the lock.
	OnConfigChange func()
}

// New returns a Swarm with nodes that are up, the first one the daemon's own.
func New(hostnames ...string) *Client {
	c := &Client{Daemon: system.Info{
		Name: "node1", DockerRootDir: "/var/lib/docker",
		Swarm: swarm.Info{NodeID: "id-node1", LocalNodeState: swarm.LocalNodeStateActive, ControlAvailable: true},
	}}
	for _, h := range hostnames {
		c.Nodes = append(c.Nodes, swarm.Node{
			ID: "id-" + h, Spec: swarm.NodeSpec{Role: swarm.NodeRoleManager, Availability: swarm.NodeAvailabilityActive},
			Description: swarm.NodeDescription{Hostname: h, Engine: swarm.EngineDescription{
				Plugins: []swarm.PluginDescription{{Type: "Volume", Name: api.PluginName + ":latest"}},
			}},
			Status: swarm.NodeStatus{State: swarm.NodeStateReady},
		})
	}
	return c
}

// Put writes a record, as a manager of OpenManage does.
func Put[T any](t *testing.T, c *Client, kind store.Kind, name string, value T) {
	t.Helper()
	s := store.New(c)
	_, err := store.Create(t.Context(), s, kind, name, value)
	if errors.Is(err, store.ErrExists) {
		_, err = store.Modify(t.Context(), s, kind, name, func(v *T) (bool, error) { *v = value; return true, nil })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Age makes a record look as if it was written some time ago.
func (c *Client) Age(kind store.Kind, name string, age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.configs {
		if c.configs[i].Spec.Name == fmt.Sprintf("openmanage.%s.%s", kind, name) {
			c.configs[i].UpdatedAt = time.Now().Add(-age)
		}
	}
}

// Records returns the names of all records.
func (c *Client) Records() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, config := range c.configs {
		names = append(names, config.Spec.Name)
	}
	return names
}

// DaemonHost is where the daemon answers.
func (*Client) DaemonHost() string { return "unix:///var/run/docker.sock" }

// Info says that the daemon is a manager, unless InfoFunc says otherwise.
func (c *Client) Info(context.Context, client.InfoOptions) (client.SystemInfoResult, error) {
	if c.InfoFunc != nil {
		info, err := c.InfoFunc()
		return client.SystemInfoResult{Info: info}, err
	}
	info := c.Daemon
	info.SystemTime = time.Now().Format(time.RFC3339Nano)
	return client.SystemInfoResult{Info: info}, nil
}

// SwarmInspect returns the Swarm's settings.
func (c *Client) SwarmInspect(context.Context, client.SwarmInspectOptions) (client.SwarmInspectResult, error) {
	return client.SwarmInspectResult{Swarm: swarm.Swarm{ClusterInfo: swarm.ClusterInfo{Spec: swarm.Spec{
		EncryptionConfig: swarm.EncryptionConfig{AutoLockManagers: c.Autolock},
	}}}}, nil
}

// NodeList lists all nodes.
func (c *Client) NodeList(context.Context, client.NodeListOptions) (client.NodeListResult, error) {
	return client.NodeListResult{Items: c.Nodes}, nil
}

func matches(filters client.Filters, name string, labels map[string]string) bool {
	for want := range filters["name"] {
		if !strings.HasPrefix(name, want) { // as Swarm does
			return false
		}
	}
	for want := range filters["label"] {
		key, value, hasValue := strings.Cut(want, "=")
		if is, ok := labels[key]; !ok || hasValue && is != value {
			return false
		}
	}
	return true
}

// ServiceList filters by name and label.
func (c *Client) ServiceList(_ context.Context, o client.ServiceListOptions) (client.ServiceListResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var res client.ServiceListResult
	for _, s := range c.Services {
		if matches(o.Filters, s.Spec.Name, s.Spec.Labels) {
			res.Items = append(res.Items, s)
		}
	}
	return res, nil
}

// ServiceCreate keeps a service.
func (c *Client) ServiceCreate(_ context.Context, o client.ServiceCreateOptions) (client.ServiceCreateResult, error) {
	s := swarm.Service{ID: "id-" + o.Spec.Name, Spec: o.Spec}
	c.mu.Lock()
	c.Services = append(c.Services, s)
	c.mu.Unlock()
	if c.OnServiceCreate != nil {
		c.OnServiceCreate(s)
	}
	return client.ServiceCreateResult{ID: s.ID}, nil
}

// ServiceInspect finds a service.
func (c *Client) ServiceInspect(_ context.Context, idOrName string, _ client.ServiceInspectOptions) (client.ServiceInspectResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.service(idOrName)
	if err != nil {
		return client.ServiceInspectResult{}, err
	}
	return client.ServiceInspectResult{Service: *s}, nil
}

// ServiceUpdate writes a service's spec; nothing follows from it.
func (c *Client) ServiceUpdate(_ context.Context, idOrName string, o client.ServiceUpdateOptions) (client.ServiceUpdateResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.service(idOrName)
	if err == nil {
		s.Spec = o.Spec
	}
	return client.ServiceUpdateResult{}, err
}

// service finds a service by its ID or name. The lock is held.
func (c *Client) service(idOrName string) (*swarm.Service, error) {
	for i, s := range c.Services {
		if s.ID == idOrName || s.Spec.Name == idOrName {
			return &c.Services[i], nil
		}
	}
	return nil, fmt.Errorf("service %s: %w", idOrName, cerrdefs.ErrNotFound)
}

// ServiceRemove removes a service and its tasks, unless ServiceRemoveFunc fails.
func (c *Client) ServiceRemove(ctx context.Context, idOrName string, _ client.ServiceRemoveOptions) (client.ServiceRemoveResult, error) {
	if err := ctx.Err(); err != nil {
		return client.ServiceRemoveResult{}, err
	}
	if c.ServiceRemoveFunc != nil {
		if err := c.ServiceRemoveFunc(idOrName); err != nil {
			return client.ServiceRemoveResult{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	found, err := c.service(idOrName)
	if err != nil {
		return client.ServiceRemoveResult{}, err
	}
	id := found.ID
	var services []swarm.Service
	for _, s := range c.Services {
		if s.ID != id {
			services = append(services, s)
		}
	}
	var tasks []swarm.Task
	for _, t := range c.Tasks {
		if t.ServiceID != id {
			tasks = append(tasks, t)
		}
	}
	c.Services, c.Tasks = services, tasks
	return client.ServiceRemoveResult{}, nil
}

// ServiceLogs is ServiceLogsFunc.
func (c *Client) ServiceLogs(_ context.Context, id string, o client.ServiceLogsOptions) (client.ServiceLogsResult, error) {
	return c.ServiceLogsFunc(id, o)
}

// TaskList filters by label and service, which must exist.
func (c *Client) TaskList(_ context.Context, o client.TaskListOptions) (client.TaskListResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var res client.TaskListResult
	of := map[string]bool{}
	for want := range o.Filters["service"] {
		s, err := c.service(want)
		if err != nil {
			return res, err
		}
		of[s.ID] = true
	}
	for _, t := range c.Tasks {
		if matches(o.Filters, "", t.Labels) && (len(of) == 0 || of[t.ServiceID]) {
			res.Items = append(res.Items, t)
		}
	}
	return res, nil
}

// SecretList filters by name and label. No values are in it, as with Docker.
func (c *Client) SecretList(_ context.Context, o client.SecretListOptions) (client.SecretListResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var res client.SecretListResult
	for _, s := range c.Secrets {
		if matches(o.Filters, s.Spec.Name, s.Spec.Labels) {
			s.Spec.Data = nil
			res.Items = append(res.Items, s)
		}
	}
	return res, nil
}

// SecretCreate keeps a secret.
func (c *Client) SecretCreate(_ context.Context, o client.SecretCreateOptions) (client.SecretCreateResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Secrets = append(c.Secrets, swarm.Secret{ID: "id-" + o.Spec.Name, Spec: o.Spec})
	return client.SecretCreateResult{ID: "id-" + o.Spec.Name}, nil
}

// NetworkList lists the Networks.
func (c *Client) NetworkList(_ context.Context, o client.NetworkListOptions) (client.NetworkListResult, error) {
	var res client.NetworkListResult
	for _, n := range c.Networks {
		if matches(o.Filters, n.Name, n.Labels) {
			res.Items = append(res.Items, network.Summary{Network: n})
		}
	}
	return res, nil
}

// NetworkRemove removes a network by its ID.
func (c *Client) NetworkRemove(_ context.Context, id string, _ client.NetworkRemoveOptions) (client.NetworkRemoveResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := len(c.Networks)
	c.Networks = slices.DeleteFunc(c.Networks, func(n network.Network) bool { return n.ID == id })
	if len(c.Networks) == before {
		return client.NetworkRemoveResult{}, fmt.Errorf("network %s: %w", id, cerrdefs.ErrNotFound)
	}
	return client.NetworkRemoveResult{}, nil
}

// NetworkInspect finds a network of Networks.
func (c *Client) NetworkInspect(_ context.Context, name string, _ client.NetworkInspectOptions) (client.NetworkInspectResult, error) {
	for _, n := range c.Networks {
		if n.Name == name {
			return client.NetworkInspectResult{Network: network.Inspect{Network: n}}, nil
		}
	}
	return client.NetworkInspectResult{}, fmt.Errorf("network %s not found: %w", name, cerrdefs.ErrNotFound)
}

// DistributionInspect finds every image, unless DistributionInspectFunc says otherwise.
func (c *Client) DistributionInspect(_ context.Context, image string, _ client.DistributionInspectOptions) (client.DistributionInspectResult, error) {
	if c.DistributionInspectFunc != nil {
		return client.DistributionInspectResult{}, c.DistributionInspectFunc(image)
	}
	return client.DistributionInspectResult{}, nil
}

// ContainerList is ContainerListFunc; without it a manager runs if there is an
// ExecFunc.
func (c *Client) ContainerList(context.Context, client.ContainerListOptions) (client.ContainerListResult, error) {
	if c.ContainerListFunc != nil {
		return c.ContainerListFunc()
	}
	if c.ExecFunc != nil {
		return client.ContainerListResult{Items: []container.Summary{{ID: "manager"}}}, nil
	}
	return client.ContainerListResult{}, nil
}

// ExecCreate notes the command.
func (c *Client) ExecCreate(_ context.Context, _ string, o client.ExecCreateOptions) (client.ExecCreateResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.execs = append(c.execs, o.Cmd)
	return client.ExecCreateResult{ID: strconv.Itoa(len(c.execs) - 1)}, nil
}

func (c *Client) exec(id string) (stdout, stderr string, code int) {
	c.mu.Lock()
	n, _ := strconv.Atoi(id)
	cmd := c.execs[n]
	c.mu.Unlock()
	return c.ExecFunc(cmd)
}

// Frame is text as Docker sends it of a container's stream: 1 is stdout, 2 stderr.
func Frame(stream byte, text string) []byte {
	frame := binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(len(text)))
	return append(frame, text...)
}

// ExecAttach gives what ExecFunc prints.
func (c *Client) ExecAttach(_ context.Context, id string, _ client.ExecAttachOptions) (client.ExecAttachResult, error) {
	stdout, stderr, _ := c.exec(id)
	var frames bytes.Buffer
	for stream, text := range map[byte]string{1: stdout, 2: stderr} {
		frames.Write(Frame(stream, text))
	}
	conn, _ := net.Pipe()
	return client.ExecAttachResult{HijackedResponse: client.HijackedResponse{Conn: conn, Reader: bufio.NewReader(&frames)}}, nil
}

// ExecInspect gives the exit code of ExecFunc.
func (c *Client) ExecInspect(_ context.Context, id string, _ client.ExecInspectOptions) (client.ExecInspectResult, error) {
	_, _, code := c.exec(id)
	return client.ExecInspectResult{ExitCode: code}, nil
}

func (c *Client) changed() {
	if c.OnConfigChange != nil {
		c.OnConfigChange()
	}
}

// ConfigCreate refuses a name that is there.
func (c *Client) ConfigCreate(_ context.Context, o client.ConfigCreateOptions) (client.ConfigCreateResult, error) {
	c.mu.Lock()
	for _, config := range c.configs {
		if config.Spec.Name == o.Spec.Name {
			c.mu.Unlock()
			return client.ConfigCreateResult{}, fmt.Errorf("config %s: %w", o.Spec.Name, cerrdefs.ErrAlreadyExists)
		}
	}
	c.index++
	config := swarm.Config{ID: fmt.Sprint("config-", c.index), Spec: o.Spec}
	config.CreatedAt, config.UpdatedAt = time.Now(), time.Now()
	config.Version.Index = c.index
	c.configs = append(c.configs, config)
	c.mu.Unlock()
	c.changed()
	return client.ConfigCreateResult{ID: config.ID}, nil
}

// ConfigInspect finds a config by ID.
func (c *Client) ConfigInspect(_ context.Context, id string, _ client.ConfigInspectOptions) (client.ConfigInspectResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, config := range c.configs {
		if config.ID == id {
			return client.ConfigInspectResult{Config: config}, nil
		}
	}
	return client.ConfigInspectResult{}, cerrdefs.ErrNotFound
}

// ConfigList filters by name and label.
func (c *Client) ConfigList(ctx context.Context, o client.ConfigListOptions) (client.ConfigListResult, error) {
	if err := ctx.Err(); err != nil {
		return client.ConfigListResult{}, err
	}
	if c.ConfigListFunc != nil {
		if err := c.ConfigListFunc(); err != nil {
			return client.ConfigListResult{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var res client.ConfigListResult
	for _, config := range c.configs {
		if matches(o.Filters, config.Spec.Name, config.Spec.Labels) {
			res.Items = append(res.Items, config)
		}
	}
	return res, nil
}

// ConfigUpdate refuses a stale version.
func (c *Client) ConfigUpdate(ctx context.Context, id string, o client.ConfigUpdateOptions) (client.ConfigUpdateResult, error) {
	if err := ctx.Err(); err != nil {
		return client.ConfigUpdateResult{}, err
	}
	c.mu.Lock()
	for i := range c.configs {
		config := &c.configs[i]
		if config.ID != id {
			continue
		}
		if config.Version != o.Version {
			c.mu.Unlock()
			return client.ConfigUpdateResult{}, errors.New("rpc error: code = Unknown desc = update out of sequence")
		}
		c.index++
		config.Spec, config.UpdatedAt, config.Version.Index = o.Spec, time.Now(), c.index
		c.mu.Unlock()
		c.changed()
		return client.ConfigUpdateResult{}, nil
	}
	c.mu.Unlock()
	return client.ConfigUpdateResult{}, cerrdefs.ErrNotFound
}

// ConfigRemove removes a config.
func (c *Client) ConfigRemove(_ context.Context, id string, _ client.ConfigRemoveOptions) (client.ConfigRemoveResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, config := range c.configs {
		if config.ID == id {
			c.configs = append(c.configs[:i], c.configs[i+1:]...)
			return client.ConfigRemoveResult{}, nil
		}
	}
	return client.ConfigRemoveResult{}, cerrdefs.ErrNotFound
}
