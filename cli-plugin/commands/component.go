package commands

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/cli-plugin/internal/component"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// componentsOf returns the services of an application beside its members.
func componentsOf(ctx context.Context, dockerCLI command.Cli, application string) ([]swarm.Service, error) {
	services, err := stackdeploy.Services(ctx, dockerCLI.Client(), application)
	if err != nil {
		return nil, preflight.Explain(ctx, dockerCLI.Client(), err)
	}
	return component.Of(services), nil
}

// rollComponents has the tasks of components started anew, one component after the other, each followed
// to its end.
func rollComponents(ctx context.Context, dockerCLI command.Cli, components []swarm.Service, edit func(*swarm.ServiceSpec) bool) error {
	for _, c := range components {
		changed, err := component.Change(ctx, dockerCLI.Client(), c.ID, edit)
		if err == nil && changed && !component.IsStopped(c) { // of one that is stopped there is nothing to see
			err = component.Follow(ctx, dockerCLI.Client(), c, func(line string) { fmt.Fprintln(dockerCLI.Err(), line) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// changeComponents has Swarm change components, and does not wait.
func changeComponents(ctx context.Context, dockerCLI command.Cli, components []swarm.Service, edit func(*swarm.ServiceSpec) bool) error {
	for _, c := range components {
		if _, err := component.Change(ctx, dockerCLI.Client(), c.ID, edit); err != nil {
			return err
		}
	}
	return nil
}

// awaitComponents waits until all components of an application are as done says.
func awaitComponents(ctx context.Context, dockerCLI command.Cli, application string, done func(component.State) bool) error {
	return component.Await(ctx, dockerCLI.Client(), application, done, func(line string) { fmt.Fprintln(dockerCLI.Err(), line) })
}

// componentNamed finds a component of an application by its name.
func componentNamed(components []swarm.Service, application, name string) (swarm.Service, error) {
	names := make([]string, 0, len(components))
	for _, c := range components {
		one := c.Spec.Labels[api.LabelComponent]
		if one == name {
			return c, nil
		}
		names = append(names, one)
	}
	if len(names) == 0 {
		return swarm.Service{}, fmt.Errorf("%s has no components beside its members", application)
	}
	hint := ""
	if near := stacks.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return swarm.Service{}, fmt.Errorf("%s has no component %q%s It has %s", application, name, hint, strings.Join(names, ", "))
}

// upgradeComponent gives a component another image. Swarm rolls it back if a task does not get healthy.
func (o *lifecycleOptions) upgradeComponent(ctx context.Context, dockerCLI command.Cli, name, image string, dryRun bool) error {
	components, err := componentsOf(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	c, err := componentNamed(components, o.name, name)
	if err != nil {
		return err
	}
	image, err = resolvedImage(ctx, dockerCLI, image)
	if err != nil {
		return err
	}
	one := []swarm.Service{c}
	switch {
	case dryRun && component.IsStopped(c):
		fmt.Fprintf(dockerCLI.Out(), "1. have %s, which is stopped, start with %s the next time\n", component.Name(c), shortImage(image))
		return nil
	case dryRun:
		fmt.Fprintf(dockerCLI.Out(), "1. restart %s with %s, one task at a time; Swarm rolls it back if one does not get healthy\n", component.Name(c), shortImage(image))
		return nil
	case o.detach:
		if err := changeComponents(ctx, dockerCLI, one, component.Roll(image)); err != nil {
			return err
		}
		fmt.Fprintln(dockerCLI.Out(), component.Name(c))
		return nil
	}
	within, cancel := o.forComponents(ctx)
	defer cancel()
	if err := rollComponents(within, dockerCLI, one, component.Roll(image)); err != nil {
		return err
	}
	has := "runs"
	if component.IsStopped(c) {
		has = "is stopped, and starts with"
	}
	fmt.Fprintf(dockerCLI.Out(), "%s %s %s. Change it in the stack file too, if you keep one\n", component.Name(c), has, shortImage(image))
	return nil
}

// resolvedImage is an image with its digest: all tasks get the same, whatever its tag names later.
func resolvedImage(ctx context.Context, dockerCLI command.Cli, image string) (string, error) {
	auth, err := command.RetrieveAuthTokenFromImage(dockerCLI.ConfigFile(), image)
	if err != nil {
		return "", err
	}
	res, err := dockerCLI.Client().DistributionInspect(ctx, image, client.DistributionInspectOptions{EncodedRegistryAuth: auth})
	if err != nil {
		return "", fmt.Errorf("the image %s cannot be pulled: %w\nNothing was changed", image, err)
	}
	return pinned(image, res.Descriptor.Digest.String()), nil
}

// componentRows are rows of ps for the services beside the members.
func componentRows(ctx context.Context, dockerCLI command.Cli, application string) ([]*memberRow, error) {
	components, err := componentsOf(ctx, dockerCLI, application)
	if err != nil || len(components) == 0 {
		return nil, err
	}
	tasks, err := stackdeploy.Tasks(ctx, dockerCLI.Client(), application)
	if err != nil {
		return nil, err
	}
	nodes, err := dockerCLI.Client().NodeList(ctx, client.NodeListOptions{})
	if err != nil {
		return nil, err
	}
	hostname := func(id string) string {
		i := slices.IndexFunc(nodes.Items, func(n swarm.Node) bool { return n.ID == id })
		if i < 0 {
			return id
		}
		return nodes.Items[i].Description.Hostname
	}
	var rows []*memberRow
	for i, s := range component.States(components, tasks, hostname) {
		rows = append(rows, &memberRow{
			m:         store.Member{Name: s.Name, Service: components[i].Spec.Name, Hostname: strings.Join(s.Nodes, ","), Message: s.Problem, Healthy: s.Healthy()},
			component: s.String(),
		})
	}
	return rows, nil
}
