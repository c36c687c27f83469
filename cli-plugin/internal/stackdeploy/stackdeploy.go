// Package stackdeploy deploys and removes stacks: it deploys with the docker
// program that the user called, so that an application is deployed by exactly
// what `docker stack deploy` does, and removes as `docker stack rm` does.
package stackdeploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// NamespaceLabel is what `docker stack deploy` marks a stack's objects with.
const NamespaceLabel = "com.docker.stack.namespace"

// Options of a deployment.
type Options struct {
	ResolveImage     string // always, changed, never
	WithRegistryAuth bool
	Prune            bool
}

// Deployer deploys a stack.
type Deployer interface {
	Deploy(ctx context.Context, name string, file []byte, o Options) error
}

// Docker deploys with the docker program.
type Docker struct {
	program string
	global  []string
}

// NewDocker returns a Deployer that runs the docker program which called us, with
// the global flags (context, host, TLS, configuration) that it was given.
func NewDocker(cmd *cobra.Command) *Docker {
	program := os.Getenv(metadata.ReexecEnvvar)
	if program == "" {
		program = "docker"
	}
	return &Docker{program: program, global: globalFlags(cmd.Root())}
}

// globalFlags writes down the docker flags that were set, to be given again.
func globalFlags(root *cobra.Command) []string {
	var args []string
	seen := map[string]bool{}
	add := func(f *pflag.Flag) {
		if !f.Changed || seen[f.Name] || f.Name == "help" {
			return
		}
		seen[f.Name] = true
		args = append(args, "--"+f.Name+"="+f.Value.String())
	}
	root.Flags().VisitAll(add)
	root.PersistentFlags().VisitAll(add)
	return args
}

// Deploy runs `docker stack deploy`. What it prints is shown only if it fails.
func (d *Docker) Deploy(ctx context.Context, name string, file []byte, o Options) error {
	args := append([]string{}, d.global...)
	args = append(args, "stack", "deploy", "--compose-file", "-", "--resolve-image", o.ResolveImage)
	if o.WithRegistryAuth {
		args = append(args, "--with-registry-auth")
	}
	if o.Prune {
		args = append(args, "--prune")
	}
	args = append(args, name)
	cmd := exec.CommandContext(ctx, d.program, args...)
	// A deployment that is cut short leaves some services and not others: let it
	// end when the user interrupts, it takes a moment only.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdin = bytes.NewReader(file)
	cmd.Env = withoutPluginVariables(os.Environ())
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("the docker program was not found (%s); it deploys the stack", d.program)
	}
	return fmt.Errorf("docker stack deploy %s: %w\n%s", name, err, strings.TrimSpace(string(out)))
}

// withoutPluginVariables drops what the docker program told us as its plugin,
// which the docker program that we start must not take for its own.
func withoutPluginVariables(env []string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, "DOCKER_CLI_PLUGIN_") {
			kept = append(kept, v)
		}
	}
	return kept
}

// Services returns the services of a stack.
func Services(ctx context.Context, docker client.ServiceAPIClient, stack string) ([]swarm.Service, error) {
	res, err := docker.ServiceList(ctx, client.ServiceListOptions{Filters: filter(stack)})
	return res.Items, err
}

// Tasks returns the tasks of a stack, those of removed services too while they
// are being stopped.
func Tasks(ctx context.Context, docker client.TaskAPIClient, stack string) ([]swarm.Task, error) {
	res, err := docker.TaskList(ctx, client.TaskListOptions{Filters: filter(stack)})
	return res.Items, err
}

// Attached returns the names of the services of others that are attached to a stack's networks.
// While there are any, the networks cannot be removed.
func Attached(ctx context.Context, docker client.APIClient, stack string) ([]string, error) {
	networks, err := docker.NetworkList(ctx, client.NetworkListOptions{Filters: filter(stack)})
	if err != nil || len(networks.Items) == 0 {
		return nil, err
	}
	services, err := docker.ServiceList(ctx, client.ServiceListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range services.Items {
		own := s.Spec.Labels[NamespaceLabel] == stack
		if !own && slices.ContainsFunc(networks.Items, func(n network.Summary) bool { return IsAttached(s, n.ID) }) {
			names = append(names, s.Spec.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// IsAttached tells whether a service's tasks are to be in a network, by its ID.
func IsAttached(s swarm.Service, networkID string) bool {
	return slices.ContainsFunc(s.Spec.TaskTemplate.Networks, func(n swarm.NetworkAttachmentConfig) bool { return n.Target == networkID })
}

func filter(stack string) client.Filters {
	return make(client.Filters).Add("label", NamespaceLabel+"="+stack)
}

// IsLeft tells whether there is something of a stack that Remove would still remove, or wait for.
func IsLeft(ctx context.Context, docker client.APIClient, stack string) (bool, error) {
	networks, err := docker.NetworkList(ctx, client.NetworkListOptions{Filters: filter(stack)})
	if err != nil || len(networks.Items) > 0 {
		return err == nil, err
	}
	running, err := running(ctx, docker, stack)
	return running > 0, err
}

// Remove removes a stack's services, waits until their containers have stopped,
// and removes its networks. Services that are made meanwhile, by who still deploys
// the stack, go too. Volumes and secrets made outside of the stack stay.
// said, which may be nil, is told of each step.
func Remove(ctx context.Context, docker client.APIClient, stack string, said func(string)) error {
	if said == nil {
		said = func(string) {}
	}
	for {
		services, err := Services(ctx, docker, stack)
		if err != nil {
			return err
		}
		for _, s := range services {
			if _, err := docker.ServiceRemove(ctx, s.ID, client.ServiceRemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
				return fmt.Errorf("remove service %s: %w", s.Spec.Name, err)
			}
			said("removing service " + s.Spec.Name)
		}
		if len(services) > 0 {
			continue // to look for new ones at once
		}
		left, err := running(ctx, docker, stack)
		if err != nil {
			return err
		}
		if left == 0 {
			break
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("%d containers of %s are still being stopped: %w", left, stack, err)
		}
	}
	networks, err := docker.NetworkList(ctx, client.NetworkListOptions{Filters: filter(stack)})
	if err != nil {
		return err
	}
	for _, n := range networks.Items {
		if err := removeNetwork(ctx, docker, n.ID, n.Name); err != nil {
			return err
		}
		said("removed network " + n.Name)
	}
	return nil
}

// running counts the tasks of a removed stack that are not over or gone. One on
// a node that is down does not count: Swarm cannot stop it.
func running(ctx context.Context, docker client.APIClient, stack string) (int, error) {
	tasks, err := Tasks(ctx, docker, stack)
	if err != nil {
		return 0, err
	}
	nodes, err := docker.NodeList(ctx, client.NodeListOptions{})
	if err != nil {
		return 0, err
	}
	up := map[string]bool{}
	for _, n := range nodes.Items {
		up[n.ID] = n.Status.State == swarm.NodeStateReady
	}
	count := 0
	for _, t := range tasks {
		if up[t.NodeID] && !Over(t.Status.State) { // no node yet: none will start it
			count++
		}
	}
	return count, nil
}

// Over says whether a task in this state will not run again.
func Over(s swarm.TaskState) bool {
	switch s {
	case swarm.TaskStateComplete, swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned:
		return true
	}
	return false
}

// removeNetwork removes a network as soon as Swarm has noticed that nothing uses it.
func removeNetwork(ctx context.Context, docker client.APIClient, id, name string) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := docker.NetworkRemove(ctx, id, client.NetworkRemoveOptions{})
		if err == nil || cerrdefs.IsNotFound(err) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove network %s: %w\nSee what uses it: docker network inspect -v %s", name, err, name)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(500 * time.Millisecond):
		return nil
	}
}
