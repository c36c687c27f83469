package inventory

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	dockerswarm "github.com/moby/moby/api/types/swarm"
	docker "github.com/moby/moby/client"
)

// Target is what Prometheus is to ask, as its HTTP service discovery wants it
// (https://prometheus.io/docs/prometheus/latest/http_sd/).
type Target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// ParseService reads SERVICE:PORT.
func ParseService(s string) (service string, port int, err error) {
	service, number, _ := strings.Cut(s, ":")
	if port, err = strconv.Atoi(number); err != nil || service == "" || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("%q: expected SERVICE:PORT, such as prom_node:9100", s)
	}
	return service, port, nil
}

// Targets are the running tasks of a service, each with the hostname of its node as the label
// node, which DNS does not tell.
func (r Reader) Targets(ctx context.Context, service string, port int) ([]Target, error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	hostname := map[string]string{}
	for _, n := range nodes {
		hostname[n.ID] = cmp.Or(n.Hostname, n.ID)
	}
	tasks, err := r.Docker.TaskList(ctx, docker.TaskListOptions{
		Filters: make(docker.Filters).Add("service", service).Add("desired-state", "running"),
	})
	if err != nil {
		return nil, fmt.Errorf("list the tasks of service %s: %w", service, err)
	}
	targets := []Target{} // in JSON [], and not null
	for _, t := range tasks.Items {
		address := address(t)
		if t.Status.State != dockerswarm.TaskStateRunning || address == "" || hostname[t.NodeID] == "" {
			continue
		}
		targets = append(targets, Target{
			Targets: []string{net.JoinHostPort(address, strconv.Itoa(port))}, Labels: map[string]string{"node": hostname[t.NodeID]},
		})
	}
	slices.SortFunc(targets, func(a, b Target) int {
		return cmp.Or(strings.Compare(a.Labels["node"], b.Labels["node"]), strings.Compare(a.Targets[0], b.Targets[0]))
	})
	return targets, nil
}

// address is that of a task in a network of its application, of which who asks is in all.
func address(t dockerswarm.Task) string {
	for _, n := range t.NetworksAttachments {
		if !n.Network.Spec.Ingress && len(n.Addresses) > 0 {
			return n.Addresses[0].Addr().String()
		}
	}
	return ""
}
