// Package swarm reads from Docker's API what OpenManage needs to know of a
// Swarm: its nodes, and which task is to mount which volume where.
package swarm

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// API is the part of the Docker client that Cluster uses.
type API interface {
	NodeList(ctx context.Context, options client.NodeListOptions) (client.NodeListResult, error)
	ServiceList(ctx context.Context, options client.ServiceListOptions) (client.ServiceListResult, error)
	TaskList(ctx context.Context, options client.TaskListOptions) (client.TaskListResult, error)
}

// Cluster reads a Swarm through the API of one of its managers. It keeps nothing
// and is safe for concurrent use.
type Cluster struct{ docker API }

// New returns the Swarm that docker, a manager's API, belongs to.
func New(docker API) *Cluster { return &Cluster{docker: docker} }

// Nodes returns all nodes by their ID.
func (c *Cluster) Nodes(ctx context.Context) (map[string]swarm.Node, error) {
	res, err := c.docker.NodeList(ctx, client.NodeListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the Swarm's nodes: %w", err)
	}
	nodes := make(map[string]swarm.Node, len(res.Items))
	for _, n := range res.Items {
		nodes[n.ID] = n
	}
	return nodes, nil
}

// Address returns where n can be reached by the other nodes. Swarm reports
// 0.0.0.0 or a loopback address for a manager in some set-ups; its address in
// the Raft group is right then.
func Address(n swarm.Node) string {
	if n.ManagerStatus != nil && n.ManagerStatus.Addr != "" {
		if host, _, err := net.SplitHostPort(n.ManagerStatus.Addr); err == nil {
			return host
		}
	}
	return n.Status.Addr
}

// Use is a task that is to run and mounts a volume.
type Use struct {
	Task    string // SERVICE.SLOT, for people
	TaskID  string
	Service string // name
	NodeID  string // "" while Swarm has found no node
	State   swarm.TaskState
	Err     string
}

// Services returns all services by their ID.
func (c *Cluster) Services(ctx context.Context) (map[string]swarm.Service, error) {
	return c.services(ctx, nil)
}

// ServicesOf returns the services for which Docker's filter term has one of values.
func (c *Cluster) ServicesOf(ctx context.Context, term string, values ...string) (map[string]swarm.Service, error) {
	return c.services(ctx, make(client.Filters).Add(term, values...))
}

func (c *Cluster) services(ctx context.Context, filters client.Filters) (map[string]swarm.Service, error) {
	res, err := c.docker.ServiceList(ctx, client.ServiceListOptions{Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("list the Swarm's services: %w", err)
	}
	services := make(map[string]swarm.Service, len(res.Items))
	for _, s := range res.Items {
		services[s.ID] = s
	}
	return services, nil
}

// Uses returns, by volume name, the tasks that Swarm wants to run and that mount
// a volume of the plugin driver.
func (c *Cluster) Uses(ctx context.Context, driver string) (map[string][]Use, error) {
	services, err := c.Services(ctx)
	if err != nil {
		return nil, err
	}
	return c.uses(ctx, driver, services, wanted())
}

// UsesOf is Uses by the tasks of these services alone.
func (c *Cluster) UsesOf(ctx context.Context, driver string, services map[string]swarm.Service) (map[string][]Use, error) {
	if len(services) == 0 {
		return map[string][]Use{}, nil
	}
	filters := wanted()
	if len(services) <= filterAtMost {
		filters.Add("service", slices.Collect(maps.Keys(services))...)
	}
	return c.uses(ctx, driver, services, filters)
}

func wanted() client.Filters { return make(client.Filters).Add("desired-state", "running", "ready") }

func (c *Cluster) uses(ctx context.Context, driver string, services map[string]swarm.Service, filters client.Filters) (map[string][]Use, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	uses := map[string][]Use{}
	res, err := c.docker.TaskList(ctx, client.TaskListOptions{Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("list the Swarm's tasks: %w", err)
	}
	for _, t := range res.Items {
		if t.Spec.ContainerSpec == nil {
			continue
		}
		service := services[t.ServiceID]
		for _, m := range t.Spec.ContainerSpec.Mounts {
			if !Mounts(m, driver) {
				continue
			}
			source, err := Expand(m.Source, t, service, nodes[t.NodeID])
			if err != nil {
				continue // Swarm refuses such a task itself
			}
			uses[source] = append(uses[source], Use{
				Task: taskName(service, t), TaskID: t.ID, Service: service.Spec.Name,
				NodeID: t.NodeID, State: t.Status.State, Err: t.Status.Err,
			})
		}
	}
	return uses, nil
}

// filterAtMost is how many services are named in a filter. Tasks of more than that
// come with all others'.
const filterAtMost = 100

// Mounts tells whether m is a volume of the plugin driver. A mount that names
// no driver may be an existing volume of the plugin, so it counts too.
func Mounts(m mount.Mount, driver string) bool {
	if m.Type != mount.TypeVolume || m.Source == "" {
		return false
	}
	if m.VolumeOptions == nil || m.VolumeOptions.DriverConfig == nil || m.VolumeOptions.DriverConfig.Name == "" {
		return true
	}
	name := m.VolumeOptions.DriverConfig.Name
	return name == driver || name == driver+":latest"
}

func taskName(s swarm.Service, t swarm.Task) string {
	if t.Slot == 0 {
		return s.Spec.Name + "." + t.NodeID
	}
	return s.Spec.Name + "." + strconv.Itoa(t.Slot)
}

// Expand replaces the placeholders that Swarm allows in a mount's source.
func Expand(source string, t swarm.Task, s swarm.Service, n swarm.Node) (string, error) {
	if !strings.Contains(source, "{{") {
		return source, nil
	}
	tmpl, err := template.New("source").Option("missingkey=error").Parse(source)
	if err != nil {
		return "", err
	}
	type object map[string]any
	slot := strconv.Itoa(t.Slot)
	if t.Slot == 0 {
		slot = t.NodeID
	}
	var out bytes.Buffer
	err = tmpl.Execute(&out, object{
		"Service": object{"ID": s.ID, "Name": s.Spec.Name, "Labels": s.Spec.Labels},
		"Node":    object{"ID": t.NodeID, "Hostname": n.Description.Hostname},
		"Task":    object{"ID": t.ID, "Name": s.Spec.Name + "." + slot + "." + t.ID, "Slot": slot},
	})
	return out.String(), err
}
